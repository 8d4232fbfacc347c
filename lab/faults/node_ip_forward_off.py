"""Switches forwarding off on a node."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault

KEY = "net.ipv4.ip_forward"


async def make(bench: Bench, on: str) -> Broken:
    """Set net.ipv4.ip_forward to 0."""
    node = bench.node(on)
    other = bench.other(node)
    await bench.run(node.netns, ["sysctl", "-qw", f"{KEY}=0"])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{KEY} of {node.name} is 0",
        expected=(Expected(code=FAULT.code, kind="sysctl", node=node.name, name=KEY),),
        probe=(await bench.pod_on(other.name), await bench.pod_on(node.name), "--proto", "udp", "--family", "4"),
        undo=(Command(node.netns, ("sysctl", "-qw", f"{KEY}=1")),),
    )


FAULT = Fault(code="node.ip_forward_off", title="a node does not forward packets", target="node/NAME", make=make)
