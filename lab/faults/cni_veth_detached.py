"""Pulls the host's end of a pod's cable out of the bridge."""

from __future__ import annotations

import json

from lab.fault import Bench, Broken, Command, Expected, Fault
from lab.links import bridge_of, bridged, cable_of, endpoint_on


async def make(bench: Bench, on: str) -> Broken:
    """Take the master from the host's end of the endpoint pod's cable on a node."""
    pod = await endpoint_on(bench, on)
    node = pod.node
    bridge = await bridge_of(bench, pod)
    device = (await cable_of(bench, pod))["ifname"]
    port = json.loads(await bench.run(node.netns, ["bridge", "-j", "-d", "link", "show", "dev", device]))[0]
    await bench.run(node.netns, ["ip", "link", "set", device, "nomaster"])
    hairpin = "on" if port.get("hairpin") else "off"
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{device} of {node.name}, the cable of {pod.asked}, is not plugged into {bridge}",
        expected=(Expected(code=FAULT.code, kind="device", node=node.name, name=device),),
        probe=pod.probe,
        undo=(
            Command(node.netns, ("ip", "link", "set", device, "master", bridge)),
            Command(node.netns, ("bridge", "link", "set", "dev", device, "hairpin", hairpin)),
        ),
    )


FAULT = Fault(
    code="cni.veth_detached",
    title="the cable of a pod is not plugged into the bridge",
    target="node/NAME",
    make=make,
    applies=bridged,
)
