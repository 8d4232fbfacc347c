"""The latest facts of every node, read when something changed there, and now and then in any case.

An agent sends of a subject only what the controller does not have yet. Everything is kept small, compressed, since
routes of a big cluster fill hundreds of megabytes as objects. At most one node is asked at a time.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from controller.agents import AgentRegistry, OrderError
from controller.facts.journal import Journal
from model.clock import Clock
from model.facts import Facts, FactsOrder
from model.probes import Vantage
from model.protocol import Status

SUBJECTS: Final = ("links", "addresses", "routes", "rules", "fdb", "sysctls", "cni")
TICK_S: Final = 1.0
# After a change: not before it has been quiet for so long, and never oftener than so.
SETTLED_S: Final = 3.0
CHANGED_EVERY_S: Final = 120.0
EVERY_S: Final = 900.0
# A node that has just come has other things to do.
BEGIN_S: Final = 20.0
TIMEOUT_S: Final = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A subject as it was read at a moment of the controller's clock: JSON, compressed."""

    at_s: float
    digest: str
    data: bytes

    def value(self) -> Any:
        """The subject as plain JSON values."""
        return msgspec.json.decode(zlib.decompress(self.data))


@dataclass(slots=True)
class _Node:
    subjects: dict[str, Kept] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    asked_s: float = 0.0
    read_s: float = 0.0
    changed_s: float = 0.0


class FactsKeeper:
    """Keeps facts; `run` reads them anew. Listeners hear of a node whose facts are others than before."""

    def __init__(self, agents: AgentRegistry, journal: Journal, clock: Clock) -> None:
        self._agents = agents
        self.journal = journal
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._listeners: list[Callable[[str, Facts], None]] = []
        agents.on_status(self._status)

    def on_change(self, listener: Callable[[str, Facts], None]) -> None:
        """Calls back with a node and those of its subjects that have changed."""
        self._listeners.append(listener)

    def latest(self, node: str) -> Mapping[str, Kept]:
        """What was read of a node last, by subject."""
        known = self._nodes.get(node)
        return known.subjects if known else {}

    def errors(self, node: str) -> Mapping[str, str]:
        """What could not be read of it last, and why."""
        known = self._nodes.get(node)
        return known.errors if known else {}

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self._forget()
            node = self.due()
            if node is not None:
                await self.read(node)

    def due(self) -> str | None:
        """The node that has waited longest, of those that are to be read."""
        now = self._clock.wall()
        waiting = []
        for info in self._agents.all():
            if not info.connected or now - (info.connected_since or now) < BEGIN_S:
                continue
            node = self._nodes.setdefault(info.node, _Node())
            changed = node.changed_s > node.read_s and now - node.changed_s >= SETTLED_S
            if now - node.asked_s >= (CHANGED_EVERY_S if changed else EVERY_S):
                waiting.append((node.asked_s, info.node))
        return min(waiting)[1] if waiting else None

    async def read(self, name: str) -> None:
        """Asks a node for what changed. One that does not answer is asked again when its turn comes."""
        node = self._nodes.setdefault(name, _Node())
        node.asked_s = began = self._clock.wall()
        known = {subject: kept.digest if (kept := node.subjects.get(subject)) else "" for subject in SUBJECTS}
        order = FactsOrder(vantage=Vantage(), subjects=SUBJECTS, known=known)
        answer = await self._agents.facts(name, order, TIMEOUT_S)
        if isinstance(answer, OrderError):
            log.debug("no facts of %s: %s", name, answer)
            return
        node.read_s = began
        node.errors = dict(answer.errors)
        changed = {}
        for subject, digest in answer.digests.items():
            value = getattr(answer, subject)
            if value is None:
                # Nothing new: it says the same now as then.
                kept = node.subjects[subject]
                node.subjects[subject] = Kept(began, kept.digest, kept.data)
            else:
                node.subjects[subject] = Kept(began, digest, zlib.compress(msgspec.json.encode(value)))
                changed[subject] = value
        if changed:
            for listener in self._listeners:
                listener(name, answer)

    def _status(self, name: str, status: Status, offset_s: float) -> None:
        if self.journal.take(name, status.changes, offset_s):
            self._nodes.setdefault(name, _Node()).changed_s = self._clock.wall()

    def _forget(self) -> None:
        known = {info.node for info in self._agents.all()}
        self.journal.forget(known)
        for name in [name for name in self._nodes if name not in known]:
            del self._nodes[name]
