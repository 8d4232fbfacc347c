"""Gives a node a routing rule that throws away what its own pods send to those of another."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault

PRIORITY = "100"


async def make(bench: Bench, on: str) -> Broken:
    """Add a blackhole rule between the pods of two nodes on the first of them."""
    node, peer = bench.pair(on)
    rule = ("pref", PRIORITY, "from", node.pod_cidr4, "to", peer.pod_cidr4, "blackhole")
    await bench.run(node.netns, ["ip", "rule", "add", *rule])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"a routing rule of {node.name} throws away what its pods send to those of {peer.name}",
        expected=(Expected(code=FAULT.code, kind="routing-rule", node=node.name, name=PRIORITY),),
        probe=(await bench.pod_on(node.name), await bench.pod_on(peer.name), "--proto", "udp", "--family", "4"),
        undo=(Command(node.netns, ("ip", "rule", "del", *rule)),),
    )


FAULT = Fault(
    code="node.route_stray_rule",
    title="a routing rule of a node throws packets away",
    target="node/A,node/B",
    make=make,
    applies=lambda spec: spec.nodes > 1,
)
