"""Gives a node a blackhole route for the pods of another."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault


async def make(bench: Bench, on: str) -> Broken:
    """Add a blackhole route that is more specific than the first node's route to the second's pods."""
    node, peer = bench.pair(on)
    network, _, length = peer.pod_cidr4.partition("/")
    prefix = f"{network}/{int(length) + 1}"
    await bench.run(node.netns, ["ip", "route", "add", "blackhole", prefix])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"{node.name} throws away what goes to {prefix}, half of the pods of {peer.name}",
        expected=(Expected(code=FAULT.code, kind="route", node=node.name, name=prefix),),
        probe=(await bench.pod_on(node.name), await bench.pod_on(peer.name), "--proto", "udp", "--family", "4"),
        undo=(Command(node.netns, ("ip", "route", "del", "blackhole", prefix)),),
    )


FAULT = Fault(
    code="node.route_blackhole",
    title="a route of a node throws packets away",
    target="node/A,node/B",
    make=make,
    applies=lambda spec: spec.nodes > 1,
)
