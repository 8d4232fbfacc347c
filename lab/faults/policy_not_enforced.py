"""Takes the enforcement of policies away on every node, as if the network plugin knew none."""

from __future__ import annotations

import asyncio

from lab.enforcement import guarded, take_away
from lab.fault import Bench, Broken, Command, Expected, Fault


async def make(bench: Bench, _on: str) -> Broken:
    """Delete the jumps into the enforcement's chains on every node."""
    undo: list[Command] = []
    _, probe = await guarded(bench, "")
    for commands in await asyncio.gather(*(take_away(bench, node) for node in bench.topology.nodes)):
        undo += commands
    return Broken(
        code=FAULT.code,
        on="",
        says="no node enforces NetworkPolicies",
        expected=(Expected(code=FAULT.code, kind="NetworkPlugin"),),
        probe=probe,
        undo=tuple(undo),
    )


FAULT = Fault(
    code="policy.not_enforced",
    title="nothing enforces policies",
    target="",
    make=make,
    applies=lambda spec: spec.nodes > 1,
)
