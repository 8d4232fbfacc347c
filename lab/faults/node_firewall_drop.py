"""Puts a dropping rule into a node's FORWARD chain."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault

RULE = ("FORWARD", "-p", "udp", "--dport", "8700", "-m", "comment", "--comment", "drill", "-j", "DROP")


async def make(bench: Bench, on: str) -> Broken:
    """Drop the probes' own port in filter FORWARD, at position 1."""
    node = bench.node(on)
    other = bench.other(node)
    chain, *rest = RULE
    await bench.run(node.netns, ["iptables", "-I", chain, "1", *rest])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{node.name} drops forwarded UDP to port 8700",
        expected=(Expected(code=FAULT.code, kind="iptables-rule", node=node.name, name="filter/FORWARD/1"),),
        probe=(await bench.pod_on(other.name), await bench.pod_on(node.name), "--proto", "udp", "--family", "4"),
        undo=(Command(node.netns, ("iptables", "-D", *RULE)),),
    )


FAULT = Fault(code="node.firewall_drop", title="a firewall rule of a node drops packets", target="node/NAME", make=make)
