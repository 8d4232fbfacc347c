"""Gives a node a bridge whose addresses are those of another node's pods, as a container engine does."""

from __future__ import annotations

from ipaddress import IPv4Network

from lab.fault import Bench, Broken, Command, Expected, Fault

DEVICE = "docker0"


async def make(bench: Bench, on: str) -> Broken:
    """Add bridge docker0 to the first node, with the lower half of the second node's pod CIDR on it."""
    node, peer = bench.pair(on)
    half = next(iter(IPv4Network(peer.pod_cidr4).subnets(1)))
    address = f"{half[-2]}/{half.prefixlen}"
    for argv in (
        ["ip", "link", "add", DEVICE, "type", "bridge"],
        ["ip", "addr", "add", address, "dev", DEVICE],
        ["ip", "link", "set", DEVICE, "up"],
    ):
        await bench.run(node.netns, argv)
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"{DEVICE} of {node.name} has {half}, which are addresses of the pods of {peer.name}",
        expected=(Expected(code=FAULT.code, kind="cidr", node=node.name, name=f"{half} dev {DEVICE}"),),
        probe=(await bench.pod_on(node.name), await bench.pod_on(peer.name), "--proto", "udp"),
        undo=(Command(node.netns, ("ip", "link", "del", DEVICE)),),
    )


FAULT = Fault(
    code="cni.cidr_overlap",
    title="a bridge of a node has addresses of another node's pods",
    target="node/A,node/B",
    make=make,
    applies=lambda spec: spec.nodes > 1,
)
