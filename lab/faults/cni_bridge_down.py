"""Sets the bridge of a node's pods down."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault
from lab.links import bridge_of, bridged, endpoint_on, lost_with


async def make(bench: Bench, on: str) -> Broken:
    """Set down the bridge that the endpoint pod of a node is plugged into."""
    pod = await endpoint_on(bench, on)
    node = pod.node
    bridge = await bridge_of(bench, pod)
    lost = await lost_with(bench, node, bridge)
    await bench.run(node.netns, ["ip", "link", "set", bridge, "down"])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{bridge}, the bridge of the pods of {node.name}, is down",
        expected=(Expected(code=FAULT.code, kind="device", node=node.name, name=bridge),),
        probe=pod.probe,
        undo=(Command(node.netns, ("ip", "link", "set", bridge, "up")), *lost),
    )


FAULT = Fault(
    code="cni.bridge_down",
    title="the bridge of a node's pods is down",
    target="node/NAME",
    make=make,
    applies=bridged,
)
