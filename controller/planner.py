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
from controller.plan.again import expect_again
from controller.plan.expectation import AdminPolicies, PolicyReader
from controller.plan.make import make_plans, zones_of
from controller.plan.order import EPOCH_S, is_full_mesh, ring_of
from controller.plan.paths import ClusterPlan, PlanSettings
from controller.policy.model import PolicyModel
from model.clock import Clock

log = logging.getLogger(__name__)

DEBOUNCE_S: Final = 0.2
# Up to so many nodes, plan anew after so many seconds at the earliest. What policies say of the paths that there are is
# brought up to date at once all the same.
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
        admin_policies: AdminPolicies = AdminPolicies.DETECT,
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
        self._reader = PolicyReader(admin_policies)
        self._planned_s = -EPOCH_S
        self._seen = ClusterState()
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
            spacing = next((s for nodes, s in SPACING_S if len(cluster.nodes) <= nodes), EPOCH_S)
            due_s = self._planned_s + spacing - began
            if cluster.synced and due_s <= 0:
                self._agents_changed.clear()
                await self._plan(cluster)
                self._planned_s, due_s = began, 0.0
                self.took_s = self._clock.monotonic() - began
            elif cluster.synced:
                await self._expect(cluster)
            await self._something(cluster, due_s if due_s > 0 else None)
            await asyncio.sleep(DEBOUNCE_S)

    async def _something(self, cluster: ClusterState, due_s: float | None) -> None:
        """Waits for a change of the cluster or of agents, for the next epoch, or for a plan that is due."""
        turns = self._matrix.plan.rotates or not is_full_mesh(len(cluster.nodes), self._settings.node_rate)
        if due_s is None:
            due_s = EPOCH_S if turns else None
        waits = [asyncio.ensure_future(self._watch.changed()), asyncio.ensure_future(self._agents_changed.wait())]
        try:
            await asyncio.wait(waits, timeout=due_s, return_when=asyncio.FIRST_COMPLETED)
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

    async def _expect(self, cluster: ClusterState) -> None:
        """What policies say now of the paths that are planned; does nothing if they say the same."""
        if len(cluster.nodes) > IN_THREAD and not self._policies_changed(cluster):
            return
        self._seen = cluster
        plan, model = self._matrix.plan, self._reader.model(cluster)
        if model is self.policy:
            return
        self.policy = model
        if len(cluster.nodes) > IN_THREAD:
            found = await asyncio.to_thread(expect_again, plan, model, cluster)
        else:
            found = expect_again(plan, model, cluster)
        self._matrix.set_plan(found)

    def _policies_changed(self, cluster: ClusterState) -> bool:
        """Pods come and go all the time in a big cluster; those wait for the next plan."""
        return cluster.policies != self._seen.policies or cluster.namespaces != self._seen.namespaces

    def _make(self, cluster: ClusterState, serving: frozenset[str], epoch: int) -> ClusterPlan:
        self._seen = cluster
        self.policy = self._reader.model(cluster)
        if is_full_mesh(len(cluster.nodes), self._settings.node_rate):
            self._ring = ()
        elif self._ring_epoch != epoch or not self._ring:
            nodes = [n for n in cluster.nodes.values() if not n.deleting]
            self._ring, self._ring_epoch = ring_of(zones_of(nodes), self._settings.key), epoch
        return make_plans(cluster, self.policy, self._settings, serving, epoch, self._ring)
