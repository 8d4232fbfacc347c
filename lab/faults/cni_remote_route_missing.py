"""Deletes a node's route to another node's pods."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError


async def make(bench: Bench, on: str) -> Broken:
    """Delete the IPv4 route of the first node to the pods of the second."""
    node, peer = bench.pair(on)
    cidr = peer.pod_cidr4
    route = (await bench.run(node.netns, ["ip", "-4", "route", "show", "exact", cidr])).split()
    if not route:
        raise FaultError(f"{node.name} has no route to {cidr} that could be deleted")
    await bench.run(node.netns, ["ip", "-4", "route", "del", cidr])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"{node.name} has no route to {cidr}, the pods of {peer.name}",
        expected=(Expected(code=FAULT.code, kind="route", node=node.name, name=cidr),),
        probe=(await bench.pod_on(node.name), await bench.pod_on(peer.name), "--proto", "udp"),
        undo=(Command(node.netns, ("ip", "-4", "route", "add", *route)),),
    )


FAULT = Fault(
    code="cni.remote_route_missing",
    title="a node has no route to another node's pods",
    target="node/A,node/B",
    make=make,
    # a real flannel without tunnel looks at its routes every 10 s and puts back what is missing
    applies=lambda spec: spec.nodes > 1 and not (spec.real and spec.cni == "flannel-host-gw"),
)
