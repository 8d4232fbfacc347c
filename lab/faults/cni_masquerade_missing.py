"""Takes away the rules by which a node translates what its pods send to the outside."""

from __future__ import annotations

import shlex

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError

OUTSIDE = "203.0.113.10:80"
OWNERS = ("FLANNEL-POSTRTG", "cali-nat-outgoing")


async def make(bench: Bench, on: str) -> Broken:
    """Delete the network plugin's MASQUERADE rules of IPv4 on a node; by default on one that has no DNS server."""
    servers = {pod["spec"].get("nodeName") for pod in await bench.api.list("pods", label_selector="k8s-app=kube-dns")}
    others = [node.name for node in bench.topology.nodes if node.name not in servers]
    node = bench.node(on, others[-1] if others else "node-b")
    undo: list[Command] = []
    for chain in OWNERS:
        rules = (await bench.run(node.netns, ["sh", "-c", f"iptables -t nat -S {chain} 2>/dev/null || :"])).splitlines()
        found = [(at, shlex.split(rule)[2:]) for at, rule in enumerate(rules) if "-j MASQUERADE" in rule]
        for at, _ in reversed(found):
            await bench.run(node.netns, ["iptables", "-t", "nat", "-D", chain, str(at)])
        undo += [Command(node.netns, ("iptables", "-t", "nat", "-I", chain, str(at), *rule)) for at, rule in found]
    if not undo:
        raise FaultError(f"{node.name} has no MASQUERADE rule of a network plugin")
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{node.name} does not translate what its pods send to the outside",
        expected=(Expected(code=FAULT.code, kind="Node", name=node.name),),
        probe=(await bench.pod_on(node.name), OUTSIDE),
        undo=tuple(undo),
    )


FAULT = Fault(
    code="cni.masquerade_missing",
    title="pods' packets leave a node untranslated",
    target="node/NAME",
    make=make,
    # a real flannel looks at its rules every 5 s and puts back what is missing
    applies=lambda spec: not spec.real,
)
