"""Has a node's VXLAN device send what is for another node to an address where nobody is."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault
from lab.tunnels import entry_for, tunnelled

NOBODY = 250


async def make(bench: Bench, on: str) -> Broken:
    """Replace the FDB entry of the first node that leads to the second."""
    node, peer = bench.pair(on)
    mac, device = await entry_for(bench, node, peer, "replaced")
    wrong = f"{peer.ipv4.rpartition('.')[0]}.{NOBODY}"
    right, false = ((mac, "dev", device, "dst", to) for to in (peer.ipv4, wrong))
    await bench.run(node.netns, ["bridge", "fdb", "del", *right])
    await bench.run(node.netns, ["bridge", "fdb", "append", *false])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"{device} of {node.name} sends what is for {peer.name} to {wrong}",
        expected=(Expected(code=FAULT.code, kind="fdb", node=node.name, name=f"{mac} dev {device}"),),
        probe=(await bench.pod_on(node.name), await bench.pod_on(peer.name), "--proto", "udp", "--family", "4"),
        undo=(
            Command(node.netns, ("bridge", "fdb", "del", *false)),
            Command(node.netns, ("bridge", "fdb", "append", *right)),
        ),
    )


FAULT = Fault(
    code="cni.vtep_wrong",
    title="a node's VXLAN device has a wrong address for another node",
    target="node/A,node/B",
    make=make,
    applies=tunnelled,
)
