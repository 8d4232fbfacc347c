"""Deletes the forwarding entry of a VXLAN device for another node."""

from __future__ import annotations

import json

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError


async def make(bench: Bench, on: str) -> Broken:
    """Delete the FDB entry of the first node that leads to the second."""
    node, peer = bench.pair(on)
    entries = json.loads(await bench.run(node.netns, ["bridge", "-j", "fdb", "show"]))
    device = "vxlan.calico" if bench.topology.spec.cni == "calico" else "flannel.1"
    mac = next((e["mac"] for e in entries if e.get("dst") == peer.ipv4 and e["ifname"] == device), "")
    if not mac:
        raise FaultError(f"{node.name} has no forwarding entry for {peer.ipv4} on {device} that could be deleted")
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
    applies=lambda spec: spec.nodes > 1 and spec.cni in {"flannel-vxlan", "calico"},
)
