"""Has a node answer the pods of another by a shorter way than they come, with the reverse path filter on strict."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError
from lab.spec import NodeSpec
from lab.tunnels import tunnel_device, tunnelled

TABLE = "177"


async def make(bench: Bench, on: str) -> Broken:
    """Lead packets for the second node's pods past the tunnel, and have the first refuse what comes out of it."""
    node, peer = _neighbours(bench, on)
    device = tunnel_device(bench.topology.spec)
    key = f"net.ipv4.conf.{device.replace('.', '/')}.rp_filter"
    rule = ["to", peer.pod_cidr4, "lookup", TABLE]
    await bench.run(node.netns, ["ip", "route", "add", "default", "via", peer.ipv4, "dev", "eth0", "table", TABLE])
    await bench.run(node.netns, ["ip", "rule", "add", *rule])
    await bench.run(node.netns, ["sysctl", "-qw", f"{key}=1"])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"{node.name} answers the pods of {peer.name} past the tunnel, and {key} is 1",
        expected=(Expected(code=FAULT.code, kind="sysctl", node=node.name, name=key),),
        probe=(await bench.pod_on(peer.name), await bench.pod_on(node.name), "--proto", "udp", "--family", "4"),
        undo=(
            Command(node.netns, ("sysctl", "-qw", f"{key}=0")),
            Command(node.netns, ("ip", "rule", "del", *rule)),
            Command(node.netns, ("ip", "route", "flush", "table", TABLE)),
        ),
    )


def _neighbours(bench: Bench, on: str) -> tuple[NodeSpec, NodeSpec]:
    """Two nodes of one segment; the last two, which hold no control plane, if `on` is empty."""
    if on:
        node, peer = bench.pair(on)
        if node.segment != peer.segment:
            raise FaultError(f"{node.name} and {peer.name} are not in one zone; a way past the tunnel needs that")
        return node, peer
    for node in reversed(bench.topology.nodes):
        for peer in bench.topology.nodes:
            if peer.name != node.name and peer.segment == node.segment:
                return node, peer
    raise FaultError("no two nodes are in one zone: kubereach lab up --nodes 3")


FAULT = Fault(
    code="node.rp_filter",
    title="the reverse path filter drops what comes by another way than it is answered",
    target="node/A,node/B",
    make=make,
    applies=lambda spec: spec.nodes > 2 and tunnelled(spec),
)
