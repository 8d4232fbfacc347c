"""Deletes the forwarding entry of a VXLAN device for another node."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault
from lab.tunnels import entry_for, tunnelled


async def make(bench: Bench, on: str) -> Broken:
    """Delete the FDB entry of the first node that leads to the second."""
    node, peer = bench.pair(on)
    mac, device = await entry_for(bench, node, peer, "deleted")
    entry = (mac, "dev", device, "dst", peer.ipv4)
    await bench.run(node.netns, ["bridge", "fdb", "del", *entry])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"{device} of {node.name} does not know the tunnel end of {peer.name}",
        expected=(Expected(code=FAULT.code, kind="fdb", node=node.name, name=f"{mac} dev {device}"),),
        probe=(await bench.pod_on(node.name), await bench.pod_on(peer.name), "--proto", "udp"),
        undo=(Command(node.netns, ("bridge", "fdb", "append", *entry)),),
    )


FAULT = Fault(
    code="cni.vtep_missing",
    title="a node's VXLAN device lacks the entry for another node",
    target="node/A,node/B",
    make=make,
    applies=tunnelled,
)
