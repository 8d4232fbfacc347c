"""The diagnoser: watches the matrix for failures, has suspects examined, opens and closes incidents; answers probes.

It drives; deciding is done by `localise` (whom to suspect), `explain` (what fits) and the causes. One examination in
the background at a time, a few on demand beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from controller.agents import AgentRegistry
from controller.cluster.state import ClusterState
from controller.diagnosis import explain, localise
from controller.diagnosis.case import Case, Flow
from controller.diagnosis.catalogue import concerned
from controller.diagnosis.enforced import guards_of_flow, to_try
from controller.diagnosis.examine import Examiner, order_of
from controller.diagnosis.finding import Finding
from controller.diagnosis.flows import Question, question_of, unready_behind
from controller.diagnosis.localise import Suspect, fails_wrongly, passes_wrongly
from controller.diagnosis.trace import Trace
from controller.facts.journal import Journal, shortly_before
from controller.incident.book import Entry, IncidentBook, key_of
from controller.matrix.paths import PathStatus
from controller.plan.paths import ClusterPlan, Path
from controller.policy import PolicyModel
from model.clock import Clock
from model.diagnosis import CellRef
from model.probes import ProbeResult
from model.words import CellState, Outcome

TICK_S = 0.2
EXAMINE_S = 12.0
AGAIN_S = 4.0
DEAF_S = 5.0
REEXAMINE_S = 15.0
MISSED_VERIFICATIONS = 2
EXAMINATIONS_BEFORE_INCONCLUSIVE = 2
NARROWED = 8
# What a change of the packet filter may have to do with: rules, what they enforce, and what nobody knows.
FILTERS = frozenset({"iptables-rule", "nft-rule", "NetworkPolicy", "path"})
TELLING = frozenset({CellState.FAILING, CellState.DEGRADED})

log = logging.getLogger(__name__)


class Statuses(Protocol):
    """What the diagnoser needs of the matrix."""

    def statuses(self) -> Mapping[str, PathStatus]:
        """The status of every planned path, by path id."""
        ...

    def status(self, path_id: str) -> PathStatus | None:
        """The status of one path; None if it is not planned."""
        ...

    def explained(self, path_ids: Iterable[str]) -> None:
        """The losses of these paths were explained, and their cause is mended."""
        ...

    def not_ok(self) -> Sequence[PathStatus]:
        """Those that are anything but ok; cheap where all is well."""
        ...


@dataclass(slots=True)
class _Tried:
    times: int
    last_s: float


class Diagnoser:
    """Finds out why paths fail, in the background and on demand."""

    def __init__(
        self,
        *,
        cluster: Callable[[], ClusterState],
        plan: Callable[[], ClusterPlan],
        matrix: Statuses,
        agents: AgentRegistry,
        book: IncidentBook,
        clock: Clock,
        policy: Callable[[], PolicyModel | None] = lambda: None,
        journal: Journal | None = None,
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._plan = plan
        self._matrix = matrix
        self._agents = agents
        self._book = book
        self._clock = clock
        self._examiner = Examiner(agents, clock)
        self._journal = journal or Journal()
        self._tried: dict[str, _Tried] = {}
        self._verified: dict[str, float] = {}
        self._missed: dict[str, int] = {}

    async def run(self) -> None:
        """Watch until cancelled. One failed examination never ends the watch."""
        while True:
            await asyncio.sleep(TICK_S)
            suspect = self._tick()
            if suspect is None:
                continue
            try:
                async with asyncio.timeout(EXAMINE_S):
                    await self._examine(suspect)
            except TimeoutError:
                log.warning("examination of %s gave up after %g s", suspect.path, EXAMINE_S)
            except Exception:
                log.exception("examination of %s failed", suspect.path)

    # In the background

    def _tick(self) -> Suspect | None:
        """Bring the incidents up to date with the matrix; say what to examine next."""
        if not self._cluster().synced:
            return None
        now = self._clock.wall()
        entries = self._book.open_entries()
        if not entries and not any(s.state in TELLING or passes_wrongly(s) for s in self._matrix.not_ok()):
            self._tried.clear()
            return None
        statuses = self._matrix.statuses()
        review = localise.review(entries, statuses, now, self._deaf(now))
        for entry in entries:
            key = entry.incident.id
            if key in review.healed:
                self._book.resolve(key)
                mended = [p for p, s in statuses.items() if any(scope.covers(s.path) for scope in entry.scopes)]
                self._matrix.explained(mended)
                continue
            since = (entry.healthy_since_s or now) if key in review.healthy else None
            self._book.update(key, healthy_since_s=since, cells=cells_of(review.failing_of.get(key, ())))
        self._forget(statuses)
        unexplained = review.unexplained
        resting = {path for path, tried in self._tried.items() if now - tried.last_s < AGAIN_S}
        suspect = localise.choose(unexplained, statuses, self._silent(), resting)
        return suspect or self._second_look(entries, statuses, now)

    def _second_look(
        self, entries: tuple[Entry, ...], statuses: Mapping[str, PathStatus], now: float
    ) -> Suspect | None:
        """What is open is looked at again from time to time.

        What was silent may speak by now; and where one cause was mended and another has the same symptoms, the paths go
        on failing under the wrong name.
        """
        open_now = {entry.incident.id for entry in entries}
        self._verified = {key: at for key, at in self._verified.items() if key in open_now}
        for entry in entries:
            key = entry.incident.id
            if (
                entry.standing
                or entry.healthy_since_s is not None
                or now - self._verified.setdefault(key, entry.opened_s) < REEXAMINE_S
            ):
                continue
            for status in statuses.values():
                if status.state is CellState.FAILING and any(s.covers(status.path) for s in entry.scopes):
                    self._verified[key] = now
                    return Suspect(status.path, entry.scopes[0], entry.incident.causes[0].object.name, verifies=key)
        return None

    def _verify(self, key: str, findings: tuple[Finding, ...]) -> None:
        """Hold a fresh diagnosis against an open incident: one that is twice not found again has gone."""
        entry = next((e for e in self._book.open_entries() if e.incident.id == key), None)
        if entry is None:
            return
        known = key_of(entry.incident.causes[0])
        if any(key_of(f.cause) == known for f in findings):
            self._missed.pop(key, None)
            return
        self._missed[key] = self._missed.get(key, 0) + 1
        if self._missed[key] >= MISSED_VERIFICATIONS:
            del self._missed[key]
            self._book.resolve(key)

    def _forget(self, statuses: Mapping[str, PathStatus]) -> None:
        for path_id in [p for p in self._tried if (s := statuses.get(p)) is None or s.state is CellState.OK]:
            del self._tried[path_id]

    def _deaf(self, now: float) -> frozenset[str]:
        """Nodes whose agent is gone, or has only just come: what it should answer may be refused meanwhile."""
        agents = self._agents.all()
        return frozenset(a.node for a in agents if not a.connected or now - (a.connected_since or now) < DEAF_S)

    def _silent(self) -> frozenset[str]:
        return frozenset(a.node for a in self._agents.all() if not a.connected)

    async def _examine(self, suspect: Suspect) -> None:
        now = self._clock.wall()
        tried = self._tried.setdefault(suspect.path.id, _Tried(0, now))
        tried.times += 1
        tried.last_s = now
        question = question_of(suspect.path, self._cluster())
        if question is None:
            return
        before = self._matrix.status(suspect.path.id)
        passes = before is not None and passes_wrongly(before)
        case, findings = await self.diagnose(question, passes=passes)
        status = self._matrix.status(suspect.path.id)
        if status is None or passes is not passes_wrongly(status):
            return
        if not passes and status.state not in TELLING:
            return
        first_sign = status.first_failure_at or status.since
        telling = tuple(f for f in findings if not f.intended)
        if suspect.verifies:
            self._verify(suspect.verifies, findings)
        # Where an agent is silent, or some packets pass, the next look may well tell more.
        hasty = status.state is not CellState.FAILING or bool(case.silent)
        enough = EXAMINATIONS_BEFORE_INCONCLUSIVE + (1 if hasty else 0)
        if telling:
            self._open(self._with_changes(telling, case, first_sign), first_sign, suspect.path)
        elif findings:
            tried.last_s = now + REEXAMINE_S
        elif suspect.verifies:
            return
        elif _is_transient(case, self._cluster()):
            tried.times -= 1
        elif tried.times >= enough:
            vague = (explain.inconclusive(case, suspect.scope, suspect.shape),)
            self._open(self._with_changes(vague, case, first_sign), first_sign, suspect.path)

    def _with_changes(self, findings: tuple[Finding, ...], case: Case, first_sign: float) -> tuple[Finding, ...]:
        """The findings, the best with what changed shortly before the first failure where it is at fault."""
        cause = findings[0].cause
        nodes = (cause.object.node,) if cause.object.node else case.flow.nodes
        of_nodes = [a for n in case.flow.nodes if n in case.cluster.nodes for a in case.cluster.nodes[n].addresses]
        changes = shortly_before(
            self._journal,
            nodes,
            first_sign,
            (*(place.address for place in (case.flow.source, case.flow.destination) if place.address), *of_nodes),
            (*(case.uplinks.get(node, "") for node in nodes), cause.object.name),
            with_filter=cause.object.kind in FILTERS,
        )
        told = msgspec.structs.replace(cause, evidence=(*cause.evidence, *changes))
        return (replace(findings[0], cause=told), *findings[1:])

    def _open(self, findings: tuple[Finding, ...], first_sign: float, path: Path) -> None:
        """Open one incident for each object that is at fault; it replaces what said less."""
        explained = [f for f in findings if f.scope.covers(path)] or [findings[0]]
        best = explained[0]
        others = tuple(f for f in findings if f is not best)
        wrong = [s.path for s in self._matrix.not_ok() if fails_wrongly(s) or passes_wrongly(s)]
        for key in localise.superseded(self._book.open_entries(), best.cause, best.scope, wrong, path):
            self._book.resolve(key)
        concerned_ = [p for p in wrong if best.scope.covers(p)] or [path]
        self._book.open((best, *others), first_sign, cells_of(tuple(concerned_)))

    # Both in the background and on demand

    async def diagnose(
        self, question: Question, *, passes: bool = False, trace: Trace | None = None
    ) -> tuple[Case, tuple[Finding, ...]]:
        """Examine a flow and say what fits, best first; nothing found is an empty tuple.

        `passes`: it gets through although policies forbid it, and that is what is wrong. `trace`: of just this flow.
        """
        flow = question.backends[0] if passes and question.backends else await self._narrow(question)
        plan = self._plan()
        case = Case(
            flow=flow,
            cluster=self._cluster(),
            paths=plan.paths,
            statuses=self._matrix.statuses(),
            uplinks={a.node: a.uplink for a in self._agents.all() if a.uplink},
            policy=self._policy(),
            passes=passes,
            trace=trace if trace is not None and trace.flow == flow else None,
            at=self._clock.wall(),
        )
        if passes:
            tried, case = await asyncio.gather(self._try_forbidden(case), self._examiner.first(case, concerned(flow)))
            case = replace(case, tried=tried)
            if not await self._passes_still(flow):
                return replace(case, over=True), ()
            if not all(case.walks((node, "")) for node in guards_of_flow(case)):
                # Which rule opens the way is told by the guard alone; a busy one may answer the second time.
                case = await self._examiner.first(case, concerned(flow))
            return case, explain.ordered([*explain.early(case), *explain.late(case)])
        case = await self._examiner.first(case, concerned(flow))
        case = replace(case, statuses=self._matrix.statuses())
        findings = explain.early(case)
        if not explain.is_decisive(findings):
            case = await self._examiner.second(case)
            findings += explain.late(case)
        unready = [f for f in findings if f.cause.code == explain.NOT_READY]
        if unready and (beneath := await self._beneath(case)):
            findings = [*beneath, *(f for f in findings if f not in unready)]
        return case, explain.ordered(findings)

    async def _beneath(self, case: Case) -> list[Finding]:
        """What cuts off the pod of a Service that has no ready one: then that is why its probes fail, too."""
        flow = unready_behind(case.flow, case.cluster)
        if flow is None or await self._attempted(flow) in {Outcome.OK, Outcome.NOT_MEASURED}:
            return []
        case = replace(case, flow=flow, facts={}, after={}, silent={}, burst=None, trace=None)
        case = await self._examiner.first(case, concerned(flow))
        findings = explain.of_pod_network(explain.early(case))
        if not findings:
            findings = explain.of_pod_network(explain.late(await self._examiner.second(case)))
        return findings

    async def _passes_still(self, flow: Flow) -> bool:
        """Whether the flow gets through, asked after the others: else what stops them may by now stop it as well."""
        return await self._attempted(flow) is Outcome.OK

    async def _attempted(self, flow: Flow) -> Outcome:
        """What becomes of a connection: ok if any attempt gets through, for a lost packet forbids nothing."""
        order = order_of(flow, count=2, interval_ms=200, timeout_ms=800)
        result = await self._agents.probe(flow.source.node, order, 2.5)
        if not isinstance(result, ProbeResult):
            return Outcome.NOT_MEASURED
        return Outcome.OK if any(a.outcome is Outcome.OK for a in result.attempts) else result.outcome

    async def _try_forbidden(self, case: Case) -> dict[str, Outcome]:
        """Try other forbidden connections now, to see where else they get through."""

        async def outcome(path: Path) -> Outcome:
            asked = question_of(path, case.cluster)
            return Outcome.NOT_MEASURED if asked is None else await self._attempted(asked.flow)

        paths = to_try(case)
        outcomes = await asyncio.gather(*(outcome(p) for p in paths))
        return {p.id: o for p, o in zip(paths, outcomes, strict=True)}

    def denied(self, question: Question) -> tuple[Finding, ...]:
        """The policies that forbid a flow, without asking anybody."""
        flow = question.backends[0] if question.backends else question.flow
        case = Case(flow=flow, cluster=self._cluster(), paths=self._plan().paths, statuses={}, policy=self._policy())
        return explain.ordered(explain.denied(case))

    async def _narrow(self, question: Question) -> Flow:
        """Find the backend that fails, asked directly from the same place; the Service itself if none does."""
        flow = question.flow
        if not question.backends:
            return flow

        async def passes(backend: Flow) -> bool:
            order = order_of(backend, count=2, interval_ms=30, timeout_ms=600)
            result = await self._agents.probe(flow.source.node, order, 2.5)
            return not isinstance(result, ProbeResult) or result.outcome in {Outcome.OK, Outcome.NOT_MEASURED}

        asked = question.backends[:NARROWED]
        results = await asyncio.gather(*(passes(b) for b in asked))
        failing = [b for b, passed in zip(asked, results, strict=True) if not passed]
        return failing[0] if failing else flow


def _is_transient(case: Case, cluster: ClusterState) -> bool:
    """Whether there is nothing left to explain: it was over when it was examined, or an end of it came or went."""
    if case.over:
        return True
    if case.burst is not None and case.burst.outcome is Outcome.OK:
        return True
    for place in (case.flow.source, case.flow.destination):
        if place.node and place.node not in cluster.nodes:
            return True
        now = cluster.pods.get(place.pod.uid) if place.pod is not None else None
        if place.pod is not None and (now is None or now.deleting or not now.ready):
            return True
    return False


def cells_of(paths: tuple[Path, ...]) -> tuple[CellRef, ...]:
    """The cells in which paths lie, without doubles, in order."""
    return tuple(
        dict.fromkeys(CellRef(p.kind.value, p.source_node, p.destination) for p in sorted(paths, key=lambda p: p.id))
    )
