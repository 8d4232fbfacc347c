"""Puts a dropping rule into the network namespace of a pod."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault

RULE = ("INPUT", "-p", "udp", "--dport", "8700", "-j", "DROP")


async def make(bench: Bench, on: str) -> Broken:
    """Drop the probes' own port in the endpoint pod of a node."""
    node = bench.node(on)
    other = bench.other(node)
    name = await bench.pod_on(node.name)
    pod = await bench.object("pods", name, "pod/", name)
    inside = bench.pod_netns(pod)
    await bench.run(inside, ["iptables", "-A", *RULE])
    meta = pod["metadata"]
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{name} itself drops UDP to port 8700",
        expected=(
            Expected(
                code=FAULT.code,
                kind="iptables-rule",
                node=node.name,
                namespace=meta["namespace"],
                name=f"{meta['name']}/filter/INPUT/1",
            ),
        ),
        probe=(await bench.pod_on(other.name), name, "--proto", "udp", "--family", "4"),
        undo=(Command(inside, ("iptables", "-D", *RULE)),),
    )


FAULT = Fault(code="cni.pod_rules", title="a firewall inside a pod drops packets", target="node/NAME", make=make)
