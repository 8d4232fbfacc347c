"""Takes the pods' gateway from a node's bridge."""

from __future__ import annotations

import json

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError
from lab.links import bridge_of, bridged, endpoint_on


async def make(bench: Bench, on: str) -> Broken:
    """Delete the IPv4 address of the bridge that the endpoint pod of a node is plugged into."""
    pod = await endpoint_on(bench, on)
    node = pod.node
    bridge = await bridge_of(bench, pod)
    shown = json.loads(await bench.run(node.netns, ["ip", "-4", "-j", "addr", "show", "dev", bridge]))
    held = [f"{a['local']}/{a['prefixlen']}" for one in shown for a in one.get("addr_info", ())]
    if not held:
        raise FaultError(f"{bridge} of {node.name} has no IPv4 address that could be deleted")
    await bench.run(node.netns, ["ip", "addr", "del", held[0], "dev", bridge])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{bridge} of {node.name} has lost {held[0]}, the gateway of its pods",
        expected=(Expected(code=FAULT.code, kind="device", node=node.name, name=bridge),),
        probe=pod.probe,
        undo=(Command(node.netns, ("ip", "addr", "add", held[0], "brd", "+", "dev", bridge)),),
    )


FAULT = Fault(
    code="cni.bridge_address_missing",
    title="a node's bridge lacks its pods' gateway",
    target="node/NAME",
    make=make,
    applies=bridged,
)
