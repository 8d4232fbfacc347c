"""Takes the enforcement of policies away on one node, as after somebody flushed its rules."""

from __future__ import annotations

from lab.enforcement import guarded, take_away
from lab.fault import Bench, Broken, Expected, Fault


async def make(bench: Bench, on: str) -> Broken:
    """Delete the jumps into the enforcement's chains on one node."""
    node, probe = await guarded(bench, on)
    undo = await take_away(bench, node)
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{node.name} does not enforce NetworkPolicies any more",
        expected=(Expected(code=FAULT.code, kind="Node", node=node.name, name=node.name),),
        probe=probe,
        undo=undo,
    )


FAULT = Fault(
    code="policy.enforcement_stale",
    title="one node's rules are not what the policies say",
    target="node/NAME",
    make=make,
    applies=lambda spec: spec.nodes > 1,
)
