"""Takes the rules of a Service away on one node, as where kube-proxy failed to write them."""

from __future__ import annotations

import json
import shlex

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError
from lab.spec import NodeSpec

SERVICE = "shop/web"
MAP = ("map", "ip", "kube-proxy", "service-ips")


async def make(bench: Bench, on: str) -> Broken:
    """Empty the chain of the Service, or take its element from the map of Services."""
    node = bench.node(on)
    namespace, _, name = SERVICE.partition("/")
    service = await bench.object("services", f"svc/{SERVICE}", "svc/", SERVICE)
    address = next(a for a in service["spec"]["clusterIPs"] if ":" not in a)
    take = _from_map if bench.topology.spec.proxy == "nftables" else _from_chains
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{node.name} has no rules for Service {SERVICE}",
        expected=(Expected(code=FAULT.code, kind="Service", node=node.name, namespace=namespace, name=name),),
        probe=(await bench.pod_on(node.name), f"svc/{SERVICE}", "--family", "4"),
        undo=(await take(bench, node, address),),
    )


async def _from_chains(bench: Bench, node: NodeSpec, address: str) -> Command:
    rules = (await bench.run(node.netns, ["iptables", "-t", "nat", "-S"])).splitlines()
    words = next((shlex.split(r) for r in rules if r.startswith(f"-A KUBE-SERVICES -d {address}/32 ")), None)
    if words is None:
        raise FaultError(f"{node.name} has no rules for Service {SERVICE}")
    chain = words[words.index("-j") + 1]
    lines = [r for r in rules if r.startswith(f"-A {chain} ")]
    await bench.run(node.netns, ["iptables", "-t", "nat", "-F", chain])
    restore = "\n".join(["*nat", *lines, "COMMIT", ""])
    return Command(node.netns, ("iptables-restore", "--noflush"), stdin=restore)


async def _from_map(bench: Bench, node: NodeSpec, address: str) -> Command:
    listed = json.loads(await bench.run(node.netns, ["nft", "-j", "list", *MAP]))["nftables"]
    for key, verdict in next(one["map"]["elem"] for one in listed if "map" in one):
        concat = (key.get("elem", {}).get("val", key))["concat"]
        if concat[0] == address:
            element = " . ".join(map(str, concat))
            chain = verdict["goto"]["target"]
            await bench.run(node.netns, ["nft", f"delete element {' '.join(MAP[1:])} {{ {element} }}"])
            again = f"add element {' '.join(MAP[1:])} {{ {element} : goto {chain} }}"
            return Command(node.netns, ("nft", again))
    raise FaultError(f"{node.name} has no rules for Service {SERVICE}")


FAULT = Fault(
    code="service.not_synced",
    title="a node lacks the rules of a Service",
    target="node/NAME",
    make=make,
    applies=lambda spec: spec.nodes > 1,
)
