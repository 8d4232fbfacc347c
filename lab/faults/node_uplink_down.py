"""Takes a node's uplink down."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault


async def make(bench: Bench, on: str) -> Broken:
    """Set eth0 of a node down."""
    node = bench.node(on)
    other = bench.other(node)
    await bench.run(node.netns, ["ip", "link", "set", "eth0", "down"])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"eth0 of {node.name} is down",
        expected=(Expected(code=FAULT.code, kind="device", node=node.name, name="eth0"),),
        probe=(f"node/{other.name}", f"node/{node.name}"),
        undo=(Command(node.netns, ("ip", "link", "set", "eth0", "up")),),
    )


FAULT = Fault(code="node.uplink_down", title="a node's uplink is down", target="node/NAME", make=make)
