"""Has the network between two hosts drop what one sends to the other."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault

TABLE = "drill"


async def make(bench: Bench, on: str) -> Broken:
    """Drop IPv4 from the first node to the second in the router, or in the switch where both are on one segment."""
    node, peer = bench.pair(on)
    family = "bridge" if node.segment == peer.segment else "ip"
    rules = (
        f"table {family} {TABLE} {{\n chain forward {{\n  type filter hook forward priority 0;\n"
        f"  ip saddr {node.ipv4} ip daddr {peer.ipv4} counter drop\n }}\n}}\n"
    )
    router = bench.topology.router_netns
    await bench.feed(router, ["nft", "-f", "-"], rules)
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name},node/{peer.name}",
        says=f"what {node.name} sends to {peer.name} over IPv4 is dropped on the way",
        expected=(Expected(code=FAULT.code, kind="path", name=f"{node.name} → {peer.name} all traffic"),),
        probe=(f"node/{node.name}", f"node/{peer.name}", "--family", "4"),
        undo=(Command(router, ("nft", "delete", "table", family, TABLE)),),
    )


FAULT = Fault(
    code="fabric.blocked",
    title="the network between two hosts drops packets",
    target="node/A,node/B",
    make=make,
    applies=lambda spec: spec.nodes > 1,
)
