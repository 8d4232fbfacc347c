"""A sweep: every path of the plan observed once since it began. One runs at any time; asking for one begins it anew."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from controller.agents import AgentRegistry, OrderError
from controller.matrix.matrix import MatrixBook
from model.clock import Clock, rfc3339

ORDER_S: Final = 5.0
POLL_S: Final = 0.1


class SweepState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the sweep is. `nodes_reporting` have an agent that speaks; `silent` are planned nodes without one."""

    whole: bool
    covered: int
    paths: int
    nodes: int
    nodes_reporting: tuple[str, ...]
    silent: tuple[str, ...]
    began_at: str
    at: str


class Sweep:
    """The sweep that is under way. The first began with the controller."""

    def __init__(self, matrix: MatrixBook, agents: AgentRegistry, clock: Clock) -> None:
        """Begins the first one."""
        self._matrix = matrix
        self._agents = agents
        self._clock = clock
        self._began = clock.wall()

    def state(self) -> SweepState:
        """How far it is now. A plan without paths is not covered: there is nothing yet to be sure of."""
        plan, paths = self._matrix.plan, len(self._matrix)
        # Agents tell times in whole milliseconds, cut off.
        covered = self._matrix.covered(self._began - 0.001)
        reporting = tuple(a.node for a in self._agents.all() if a.connected and a.node in plan.plans)
        now = self._clock.wall()
        return SweepState(
            whole=paths > 0 and covered == paths,
            covered=covered,
            paths=paths,
            nodes=len(plan.nodes),
            nodes_reporting=reporting,
            silent=tuple(node for node in plan.nodes if node not in set(reporting)),
            began_at=rfc3339(self._began),
            at=rfc3339(now),
        )

    async def begin(self) -> tuple[str, ...]:
        """Has every agent make all its probes now; returns, in words, what kept an agent from it."""
        self._began = self._clock.wall()
        nodes = [a.node for a in self._agents.all() if a.connected]
        answers = await asyncio.gather(*(self._agents.sweep(node, ORDER_S) for node in nodes))
        return tuple(str(answer) for answer in answers if isinstance(answer, OrderError))

    async def wait(self, timeout_s: float) -> SweepState:
        """Waits until it is whole, no longer than `timeout_s`."""
        until = self._clock.monotonic() + timeout_s
        while not (state := self.state()).whole and self._clock.monotonic() < until:
            await asyncio.sleep(POLL_S)
        return state
