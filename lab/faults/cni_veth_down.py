"""Sets the host's end of a pod's cable down."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault
from lab.links import cable_of, endpoint_on, lost_with


async def make(bench: Bench, on: str) -> Broken:
    """Set down the host's end of the endpoint pod's cable on a node."""
    pod = await endpoint_on(bench, on)
    node = pod.node
    device = (await cable_of(bench, pod))["ifname"]
    lost = await lost_with(bench, node, device)
    await bench.run(node.netns, ["ip", "link", "set", device, "down"])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{device} of {node.name}, the cable of {pod.asked}, is down",
        expected=(Expected(code=FAULT.code, kind="device", node=node.name, name=device),),
        probe=pod.probe,
        undo=(Command(node.netns, ("ip", "link", "set", device, "up")), *lost),
    )


FAULT = Fault(code="cni.veth_down", title="the cable of a pod is down", target="node/NAME", make=make)
