"""Keeps plan, matrix and agents in step with the cluster. Decides only when to plan; `controller.plan` decides what."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from controller.agents import AgentChanged, AgentRegistry
from controller.cluster.state import ClusterState
from controller.cluster.watch import ClusterWatch
from controller.matrix.matrix import MatrixBook
from controller.memory import AgentMemory
from controller.plan.expectation import policy_model
from controller.plan.make import make_plans, zones_of
from controller.plan.order import EPOCH_S, is_full_mesh, ring_of
from controller.plan.paths import ClusterPlan, PlanSettings
from controller.policy.model import PolicyModel
from model.clock import Clock

log = logging.getLogger(__name__)

DEBOUNCE_S: Final = 0.2
# Up to so many nodes, plan anew after so many seconds at the earliest.
SPACING_S: Final = ((64, 2.0), (500, 10.0))
IN_THREAD: Final = 64


class Planner:
    """Plans anew when the cluster, or the set of agents that serve, changed; and at each epoch of a sampled plan."""

    def __init__(
        self,
        watch: ClusterWatch,
        agents: AgentRegistry,
        matrix: MatrixBook,
        memory: AgentMemory,
        settings: PlanSettings,
        clock: Clock,
    ) -> None:
        """Nothing is planned before `run`."""
        self._watch = watch
        self._agents = agents
        self._matrix = matrix
        self._memory = memory
        self._settings = settings
        self._clock = clock
        self._agents_changed = asyncio.Event()
        self._ring: tuple[str, ...] = ()
        self._ring_epoch = -1
        self.policy: PolicyModel | None = None
        self.took_s = 0.0
        self.plans = 0
        agents.on_change(self._on_agent)

    def _on_agent(self, change: AgentChanged) -> None:
        if change.old is None or change.old.said_goodbye != change.new.said_goodbye:
            self._agents_changed.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            cluster = self._watch.snapshot()
            began = self._clock.monotonic()
            if cluster.synced:
                await self._plan(cluster)
                self.took_s = self._clock.monotonic() - began
            await self._something(cluster)
            spacing = next((s for nodes, s in SPACING_S if len(cluster.nodes) <= nodes), EPOCH_S)
            passed = self._clock.monotonic() - began
            await asyncio.sleep(max(DEBOUNCE_S, spacing - passed) if cluster.synced else DEBOUNCE_S)
            self._agents_changed.clear()

    async def _something(self, cluster: ClusterState) -> None:
        """Waits for a reason to plan anew."""
        sampled = not is_full_mesh(len(cluster.nodes), self._settings.node_rate)
        waits = [asyncio.ensure_future(self._watch.changed()), asyncio.ensure_future(self._agents_changed.wait())]
        try:
            await asyncio.wait(waits, timeout=EPOCH_S if sampled else None, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _plan(self, cluster: ClusterState) -> None:
        gone = self._agents.forget(cluster.nodes)
        self._memory.forget(gone)
        serving = self._agents.serving()
        epoch = int(self._clock.wall() / EPOCH_S)
        if len(cluster.nodes) > IN_THREAD:
            plan = await asyncio.to_thread(self._make, cluster, serving, epoch)
        else:
            plan = self._make(cluster, serving, epoch)
        self._matrix.set_plan(plan)
        sent = self._agents.send_plans(plan.plans)
        self.plans += 1
        log.debug("plan of revision %d: %d paths, sent to %d agents", plan.revision, len(plan.paths), sent)

    def _make(self, cluster: ClusterState, serving: frozenset[str], epoch: int) -> ClusterPlan:
        self.policy = policy_model(cluster)
        if is_full_mesh(len(cluster.nodes), self._settings.node_rate):
            self._ring = ()
        elif self._ring_epoch != epoch or not self._ring:
            nodes = [n for n in cluster.nodes.values() if not n.deleting]
            self._ring, self._ring_epoch = ring_of(zones_of(nodes), self._settings.key), epoch
        return make_plans(cluster, self.policy, self._settings, serving, epoch, self._ring)
