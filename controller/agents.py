"""The agents: who is connected, what each last said, and orders to them.

Knows nothing of sockets: a connection is an `AgentLink`, a bounded queue of frames that `controller.web` empties.
Errors of orders are values. A batch counts once: its (boot, sequence) is remembered, so that what an agent sends again
over a second connection is acknowledged and thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import msgspec

from controller.agent_link import AgentLink
from controller.sequence import SequenceSet
from model.clock import Clock
from model.facts import Facts, FactsOrder
from model.probes import Observation, Plan, ProbeOrder, ProbeResult
from model.protocol import (
    Ack,
    Answer,
    Armed,
    Batch,
    Cue,
    FromAgent,
    Goodbye,
    Hello,
    LinkEvent,
    Order,
    PlanUpdate,
    Status,
    Welcome,
)
from model.trace import Traced, TraceOrder

MAX_ORDERS: Final = 64
MAX_LINK_EVENTS: Final = 64
SILENT_AFTER_S: Final = 12.0
ORDER_GRACE_S: Final = 0.5


class OrderError(msgspec.Struct, frozen=True):
    """Why an order has no answer. `reason`: silent (no connection), timeout, refused (the agent says why in `text`),
    busy (too many orders at once), lost (the connection or the agent's run ended meanwhile).
    """

    reason: str
    text: str

    def __str__(self) -> str:
        return self.text


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An agent at one moment. Times are the controller's wall clock in seconds; `offset_s` is what to add to the
    agent's own. `silent_since` is None while it is connected and speaks.
    """

    node: str
    connected: bool = False
    via: str = ""
    boot: str = ""
    version: str = ""
    uplink: str = ""
    last_seen: float | None = None
    connected_since: float | None = None
    silent_since: float | None = None
    said_goodbye: bool = False
    offset_s: float = 0.0
    late_ms: int = 0
    dropped: int = 0
    plan: str = ""
    status: Status | None = None
    link_events: tuple[LinkEvent, ...] = ()


class AgentChanged(msgspec.Struct, frozen=True):
    """An agent connected, changed its way, fell silent or said goodbye."""

    old: AgentInfo | None
    new: AgentInfo


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[Answer | OrderError]
    armed: Callable[[], None] | None
    boot: str


@dataclass(slots=True)
class _Session:
    info: AgentInfo
    link: AgentLink | None = None
    taken: SequenceSet = field(default_factory=SequenceSet)
    pending: dict[int, _Pending] = field(default_factory=dict)
    plan: Plan | None = None


Prompt = Callable[[Literal["send", "end"]], None]
"""Gives a running trace its cue."""

Ingest = Callable[[str, tuple[Observation, ...], float], None]


class AgentRegistry:
    """All agents that were ever seen, by node name. To be used from one event loop."""

    def __init__(self, clock: Clock, ingest: Ingest, name: str = "kubereach") -> None:
        """`ingest(node, observations, offset_s)` takes each batch once."""
        self._clock = clock
        self._ingest = ingest
        self._name = name
        self._sessions: dict[str, _Session] = {}
        self._plans: Mapping[str, Plan] = {}
        self._next_order = 1
        self._listeners: list[Callable[[AgentChanged], None]] = []
        self._status_listeners: list[Callable[[str, Status, float], None]] = []
        self.batches = 0
        self.repeated = 0
        self._missing = 0
        self.observations = 0

    # What is known

    def get(self, node: str) -> AgentInfo | None:
        """The agent of a node; None if it was never seen."""
        session = self._sessions.get(node)
        return session.info if session else None

    def all(self) -> tuple[AgentInfo, ...]:
        """Every agent ever seen, in order of node name."""
        return tuple(self._sessions[node].info for node in sorted(self._sessions))

    def serving(self) -> frozenset[str]:
        """Nodes whose agent should answer on its ports: seen once, and not ended by its own will since."""
        return frozenset(node for node, s in self._sessions.items() if not s.info.said_goodbye)

    def on_change(self, callback: Callable[[AgentChanged], None]) -> None:
        """Calls back, in the event loop, whenever an agent's connection changes."""
        self._listeners.append(callback)

    def on_status(self, callback: Callable[[str, Status, float], None]) -> None:
        """Calls back with the node, what its agent says of itself, and the seconds to add to the agent's clock."""
        self._status_listeners.append(callback)

    # Orders

    async def probe(self, node: str, order: ProbeOrder, timeout_s: float) -> ProbeResult | OrderError:
        """Has one probe made on a node; ends within `timeout_s`."""
        answer = await self._order(node, timeout_s, probe=order)
        if isinstance(answer, OrderError):
            return answer
        return answer.probe if answer.probe is not None else _no_answer(node, answer)

    async def facts(
        self, node: str, order: FactsOrder, timeout_s: float, armed: Callable[[], None] | None = None
    ) -> Facts | OrderError:
        """Asks a node for facts; `armed` is called once its rule trace listens. Ends within `timeout_s`."""
        steer = None if armed is None else lambda _prompt: armed()
        answer = await self._order(node, timeout_s, facts=order, steer=steer)
        if isinstance(answer, OrderError):
            return answer
        return answer.facts if answer.facts is not None else _no_answer(node, answer)

    async def trace(
        self, node: str, order: TraceOrder, timeout_s: float, armed: Callable[[Prompt], None]
    ) -> Traced | OrderError:
        """Has a node watch for (and send) a burst; `armed` gets what its cues are given by, once it watches."""
        answer = await self._order(node, timeout_s, trace=order, steer=armed)
        if isinstance(answer, OrderError):
            return answer
        return answer.trace if answer.trace is not None else _no_answer(node, answer)

    async def sweep(self, node: str, timeout_s: float) -> OrderError | None:
        """Has a node make every probe of its plan now; None once it has begun."""
        answer = await self._order(node, timeout_s, sweep=True)
        if isinstance(answer, OrderError):
            return answer
        return _no_answer(node, answer) if answer.error else None

    async def _order(
        self,
        node: str,
        timeout_s: float,
        *,
        probe: ProbeOrder | None = None,
        facts: FactsOrder | None = None,
        trace: TraceOrder | None = None,
        sweep: bool = False,
        steer: Callable[[Prompt], None] | None = None,
    ) -> Answer | OrderError:
        session = self._sessions.get(node)
        if session is None or session.link is None or session.link.closed.is_set():
            return OrderError("silent", f"no agent is connected from {node}")
        if len(session.pending) >= MAX_ORDERS:
            return OrderError("busy", f"the agent of {node} has {MAX_ORDERS} orders to do already")
        number = self._next_order
        self._next_order += 1
        timeout_ms = max(1, int((timeout_s - min(ORDER_GRACE_S, timeout_s / 4)) * 1000))
        order = Order(order=number, timeout_ms=timeout_ms, probe=probe, facts=facts, trace=trace, sweep=sweep)
        armed = partial(steer, partial(self._cue, session, number)) if steer is not None else None
        future: asyncio.Future[Answer | OrderError] = asyncio.get_running_loop().create_future()
        session.pending[number] = _Pending(future, armed, session.info.boot)
        try:
            if not session.link.send(order):
                return OrderError("lost", f"the connection to the agent of {node} is closing")
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return OrderError("timeout", f"the agent of {node} did not answer within {timeout_s:g} s")
        finally:
            session.pending.pop(number, None)

    @property
    def missing(self) -> int:
        """Batches that an agent numbered, between the first and the newest that came, and that have not come."""
        return self._missing + sum(session.taken.missing for session in self._sessions.values())

    @staticmethod
    def _cue(session: _Session, number: int, cue: Literal["send", "end"]) -> None:
        if number in session.pending and session.link is not None:
            session.link.send(Cue(order=number, cue=cue))

    # Connections, as `controller.web` sees them

    def attach(self, hello: Hello, link: AgentLink) -> None:
        """Takes a connection whose first frame was `hello`. A former one of the node is told to close."""
        now = self._clock.wall()
        session = self._sessions.get(hello.node)
        old = session.info if session else None
        if session is None:
            session = self._sessions[hello.node] = _Session(AgentInfo(node=hello.node))
        if session.info.boot != hello.boot:
            self._missing += session.taken.missing
            session.taken = SequenceSet()
            self._fail_pending(session, hello.boot)
        if session.link is not None and session.link is not link:
            session.link.close("replaced by a newer connection")
        session.link = link
        kept = session.info.link_events if session.info.boot == hello.boot else ()
        session.info = AgentInfo(
            node=hello.node,
            connected=True,
            via=hello.via,
            boot=hello.boot,
            version=hello.version,
            uplink=hello.uplink or session.info.uplink,
            last_seen=now,
            connected_since=session.info.connected_since if session.info.connected else now,
            offset_s=now - hello.at_ms / 1000,
            link_events=kept,
        )
        link.send(Welcome(at_ms=int(now * 1000), controller=self._name))
        session.plan = self._plans.get(hello.node)
        if session.plan is not None:
            link.send(PlanUpdate(plan=session.plan))
        self._tell(old, session.info)

    def detach(self, link: AgentLink) -> None:
        """The connection has ended; nothing happens if a newer one has taken its place."""
        session = self._sessions.get(link.node)
        if session is None or session.link is not link:
            return
        session.link = None
        for pending in session.pending.values():
            _settle(pending, OrderError("lost", f"the connection to the agent of {link.node} broke"))
        self._silent(session)

    def receive(self, link: AgentLink, message: FromAgent) -> None:
        """A frame of an attached connection, also of one that is being replaced: what it brought still counts."""
        session = self._sessions[link.node]
        now = self._clock.wall()
        match message:
            case Batch():
                self._take(session, link, message)
            case Answer():
                pending = session.pending.get(message.order)
                if pending is not None:
                    _settle(pending, message)
            case Armed():
                armed = session.pending.get(message.order)
                if armed is not None and armed.armed is not None:
                    armed.armed()
            case Status():
                self._status(session, message, now)
            case Goodbye():
                old = session.info
                self._update(session, said_goodbye=True)
                self._tell(old, session.info)
            case Hello():
                link.close("said hello twice")
        if session.link is link:
            self._seen(session, now)

    def tick(self) -> None:
        """To be called about once a second: closes connections that have said nothing for too long."""
        limit = self._clock.wall() - SILENT_AFTER_S
        for session in tuple(self._sessions.values()):
            if session.link is not None and (session.info.last_seen or 0.0) < limit:
                session.link.close(f"silent for {SILENT_AFTER_S:g} s")
                self.detach(session.link)

    def restore(self, known: Iterable[AgentInfo]) -> None:
        """Agents known from before a restart of the controller: silent until they speak."""
        for info in known:
            silent = msgspec.structs.replace(info, connected=False, silent_since=self._clock.wall(), via="")
            self._sessions.setdefault(info.node, _Session(silent))

    def forget(self, keep: Container[str]) -> tuple[str, ...]:
        """Drops agents of nodes that are gone, unless they are connected; returns their nodes."""
        gone = tuple(node for node, s in self._sessions.items() if node not in keep and s.link is None)
        for node in gone:
            del self._sessions[node]
        return gone

    def send_plans(self, plans: Mapping[str, Plan]) -> int:
        """Sends each agent its plan if it changed; returns how many were sent. Whoever connects later gets it then."""
        self._plans = plans
        sent = 0
        for node, session in self._sessions.items():
            plan = plans.get(node)
            if plan is None or (session.plan is not None and session.plan.digest == plan.digest):
                continue
            session.plan = plan
            if session.link is not None and session.link.send(PlanUpdate(plan=plan)):
                sent += 1
        return sent

    def close(self, reason: str) -> None:
        """Closes every connection: the controller ends."""
        for session in self._sessions.values():
            if session.link is not None:
                session.link.close(reason)

    # Inside

    def _take(self, session: _Session, link: AgentLink, batch: Batch) -> None:
        self.batches += 1
        if session.taken.add(batch.sequence):
            self.observations += len(batch.observations)
            self._ingest(link.node, batch.observations, session.info.offset_s)
            if batch.dropped != session.info.dropped:
                self._update(session, dropped=batch.dropped)
        else:
            self.repeated += 1
        link.send(Ack(sequence=batch.sequence))

    def _status(self, session: _Session, status: Status, now: float) -> None:
        # The smallest difference ever seen had the least delay on the way.
        offset = min(session.info.offset_s, now - status.at_ms / 1000)
        if now - status.at_ms / 1000 - offset > 5.0:
            offset = now - status.at_ms / 1000  # the agent's clock was set
        for told in self._status_listeners:
            told(session.info.node, status, offset)
        events = (*session.info.link_events, *status.link_events)[-MAX_LINK_EVENTS:]
        self._update(
            session,
            status=msgspec.structs.replace(status, link_events=(), changes=()),
            late_ms=status.late_ms,
            plan=status.plan,
            offset_s=offset,
            link_events=events,
        )

    def _update(self, session: _Session, **changes: object) -> None:
        session.info = msgspec.structs.replace(session.info, **changes)

    def _seen(self, session: _Session, now: float) -> None:
        self._update(session, last_seen=now)

    def _silent(self, session: _Session) -> None:
        old = session.info
        self._update(session, connected=False, silent_since=self._clock.wall())
        self._tell(old, session.info)

    def _fail_pending(self, session: _Session, boot: str) -> None:
        for pending in session.pending.values():
            if pending.boot != boot:
                _settle(pending, OrderError("lost", "the agent was restarted meanwhile"))

    def _tell(self, old: AgentInfo | None, new: AgentInfo) -> None:
        for listener in self._listeners:
            listener(AgentChanged(old, new))


def _settle(pending: _Pending, answer: Answer | OrderError) -> None:
    if not pending.answer.done():
        pending.answer.set_result(answer)


def _no_answer(node: str, answer: Answer) -> OrderError:
    return OrderError("refused", f"the agent of {node}: {answer.error or 'an empty answer'}")
