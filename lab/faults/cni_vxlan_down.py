"""Sets the VXLAN device of a node down, which takes its routes with it."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault
from lab.links import lost_with
from lab.tunnels import tunnel_device, tunnelled


async def make(bench: Bench, on: str) -> Broken:
    """Set down the tunnel's device of a node."""
    node = bench.node(on)
    other = bench.other(node)
    device = tunnel_device(bench.topology.spec)
    lost = await lost_with(bench, node, device)
    await bench.run(node.netns, ["ip", "link", "set", device, "down"])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{device} of {node.name} is down",
        expected=(Expected(code=FAULT.code, kind="device", node=node.name, name=device),),
        probe=(await bench.pod_on(other.name), await bench.pod_on(node.name), "--proto", "udp", "--family", "4"),
        undo=(Command(node.netns, ("ip", "link", "set", device, "up")), *lost),
    )


FAULT = Fault(
    code="cni.vxlan_down",
    title="a node's VXLAN device is down",
    target="node/NAME",
    make=make,
    applies=tunnelled,
)
