"""Watches for nodes that give pods no network, asks their agents, opens and closes their incidents.

Beside the diagnoser, which begins with a path that fails: here none can. What is found is closed when the sign is gone
from Kubernetes' objects. It asks for nothing while there is no sign.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from controller.agents import OrderError
from controller.cluster.api import ApiError
from controller.cluster.state import ClusterState
from controller.diagnosis.catalogue import CauseType, catalogue
from controller.diagnosis.node_case import NodeCase, Sign, signs
from controller.incident.book import IncidentBook
from model.clock import Clock
from model.facts import Facts, FactsOrder
from model.probes import Vantage

TICK_S: Final = 1.0
FACTS_S: Final = 2.5
EVENTS_S: Final = 5.0
TURNED_S: Final = 10.0
"""A node that was well before is suspect after this time; a container runtime that restarts takes less."""
JOINING_S: Final = 60.0
"""A node never seen well is given this time: its network plugin's image has to come first."""
AGAIN_S: Final = 15.0
EVENTS_READ: Final = 20

log = logging.getLogger(__name__)


class Api(Protocol):
    """The part of the Kubernetes API that is asked."""

    async def get(self, path: str, params: dict[str, str], timeout_s: float, /) -> dict[str, Any]:
        """One GET; raises ApiError."""
        ...


class Agents(Protocol):
    """The part of the agents' registry that is asked."""

    async def facts(self, node: str, order: FactsOrder, timeout_s: float, /) -> Facts | OrderError:
        """Facts of a node."""
        ...


class NodeWatch:
    """One for a controller. `namespace` is kubereach's own, whose endpoints run on every node."""

    def __init__(
        self,
        *,
        cluster: Callable[[], ClusterState],
        agents: Agents,
        book: IncidentBook,
        api: Api,
        namespace: str,
        clock: Clock,
    ) -> None:
        self._cluster = cluster
        self._agents = agents
        self._book = book
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._since: dict[str, float] = {}
        self._tried: dict[str, float] = {}
        self._well: set[str] = set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.turn()

    async def turn(self) -> None:
        """Close what is over, look at what is due. One failed look never ends the watch."""
        for sign in self._due():
            try:
                await self.look(sign)
            except Exception:
                log.exception("node %s could not be looked at", sign.node)

    def _due(self) -> list[Sign]:
        """The nodes to look at now, after what is over was closed."""
        cluster, now = self._cluster(), self._clock.wall()
        if not cluster.synced or cluster.stale_since is not None:
            return []
        found = {sign.node: sign for sign in signs(cluster, self._namespace)}
        self._since = {node: self._since.get(node, now) for node in found}
        self._tried = {node: at for node, at in self._tried.items() if node in found}
        self._well = {
            n.name for n in cluster.nodes.values() if n.name in self._well or (n.ready and n.name not in found)
        }
        for entry in self._book.open_entries():
            if entry.standing and entry.incident.causes[0].object.node not in found:
                self._book.resolve(entry.incident.id)
        return [
            sign
            for node, sign in found.items()
            if now - self._since[node] >= (TURNED_S if node in self._well else JOINING_S)
            and now - self._tried.get(node, 0.0) >= AGAIN_S
        ]

    async def look(self, sign: Sign) -> None:
        """Ask about one node now, and open what is found."""
        self._tried[sign.node] = self._clock.wall()
        causes = [cause for cause in catalogue() if cause.of_node is not None]
        case = await self._case(sign, causes)
        findings = [f for cause in causes if cause.of_node is not None for f in cause.of_node(case)]
        findings.sort(key=lambda f: -f.cause.confidence)
        if findings:
            self._book.open(tuple(findings), self._since.get(sign.node, self._clock.wall()), ())

    async def _case(self, sign: Sign, causes: list[CauseType]) -> NodeCase:
        order = FactsOrder(
            vantage=Vantage(), subjects=tuple(sorted(frozenset[str]().union(*(c.needs for c in causes))))
        )
        answer, events = await asyncio.gather(self._agents.facts(sign.node, order, FACTS_S), self._events(sign))
        node = self._cluster().nodes[sign.node]
        if isinstance(answer, OrderError):
            return NodeCase(sign, node, silent=answer.text, events=events)
        return NodeCase(sign, node, facts=answer, events=events)

    async def _events(self, sign: Sign) -> tuple[str, ...]:
        """What Kubernetes' events say of the pod, newest first; nothing if they may not or cannot be read."""
        if sign.pod is None:
            return ()
        query = {"fieldSelector": f"involvedObject.uid={sign.pod.uid},type=Warning", "limit": str(EVENTS_READ)}
        try:
            answer = await self._api.get(f"/api/v1/namespaces/{sign.pod.namespace}/events", query, EVENTS_S)
        except ApiError as error:
            log.warning("the events of pod %s cannot be read: %s", sign.pod.key, error)
            return ()
        items = sorted(answer.get("items") or (), key=lambda e: str(e.get("lastTimestamp") or ""), reverse=True)
        return tuple(" ".join(str(item.get("message") or "").split()) for item in items)
