"""Answers `kubereach probe A B`: measures, holds the result against policy, and says why where it should pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import msgspec

from controller.agents import AgentRegistry
from controller.cluster.state import ClusterState
from controller.diagnosis import explain
from controller.diagnosis.allowed import decision_of
from controller.diagnosis.asked import ProbeRequest
from controller.diagnosis.case import Case, Flow, Place
from controller.diagnosis.engine import Diagnoser
from controller.diagnosis.examine import order_of
from controller.diagnosis.finding import Finding
from controller.diagnosis.flows import Question
from controller.diagnosis.hops import captured_of, told, with_rules
from controller.diagnosis.request import dns_question, resolve
from controller.diagnosis.trace import Trace
from controller.diagnosis.tracing import COUNT, INTERVAL_MS, Tracer, has_spoken
from controller.diagnosis.way import way_of
from controller.diagnosis.witness import Witness
from controller.incident.book import IncidentBook
from controller.plan.paths import EgressTarget
from controller.policy import PolicyModel
from model.clock import Clock
from model.diagnosis import Cause, Expectation, ProbeReport, Stop
from model.netfilter import RuleTrace
from model.probes import ProbeOrder, ProbeResult
from model.trace import MAX_KEPT
from model.words import Method, Outcome, Verdict

EXAMINE_S = 9.0
# So much longer a busy node may take to start what probes.
SLOW_S = 4.0
BLOCKED = frozenset({Outcome.TIMEOUT, Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.RESET, Outcome.TOO_BIG})
OPENED = {True: Verdict.HEALTHY, None: Verdict.HEALTHY, False: Verdict.UNEXPECTED_PASS}
NAMELESS = frozenset({Outcome.NAME_NOT_FOUND, Outcome.SERVER_FAILURE})


class OnDemand:
    """Carries out probe requests. Raises `TargetError` for what cannot be asked; all else is in the report."""

    def __init__(
        self,
        *,
        cluster: Callable[[], ClusterState],
        policy: Callable[[], PolicyModel | None],
        agents: AgentRegistry,
        diagnoser: Diagnoser,
        book: IncidentBook,
        clock: Clock,
        egress: tuple[EgressTarget, ...] = (),
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._agents = agents
        self._diagnoser = diagnoser
        self._book = book
        self._clock = clock
        self._egress = egress
        self._tracer = Tracer(agents, clock)
        self._witness = Witness(agents, self._tracer)

    async def probe(self, request: ProbeRequest) -> ProbeReport:
        """Measure from A to B; examine if it fails although nothing forbids it (or if `trace` asks for it)."""
        began = self._clock.monotonic()
        cluster = self._cluster()
        question = resolve(request, cluster, self._egress)
        expected = expectation_of(question, self._policy())
        order = order_of(
            question.flow,
            count=request.count,
            interval_ms=request.interval_ms,
            timeout_ms=request.timeout_ms,
            size=request.size,
        )
        limit_s = 2 + (request.count * request.interval_ms + request.timeout_ms) / 1000
        result = await self._measured(question.flow.source.node, order, limit_s)
        reached = _with_address(question, result)
        if reached is not None and reached is not question:
            expected = expectation_of(reached, self._policy())
        verdict = verdict_of(expected, result.outcome)
        trace = await self._trace(question, request, verdict, result)
        case: Case | None = None
        findings: tuple[Finding, ...] = ()
        broken: tuple[Cause, ...] = ()
        if (
            request.trace is not False
            and verdict in {Verdict.UNEXPECTED_BLOCK, Verdict.UNKNOWN}
            and result.attempts
            and expected.allowed is not False
        ):
            case, findings = await self._why(question, result, trace)
            if findings and findings[0].cause.code in explain.DENIALS:
                # It failed at its name, which policy forbids to ask for.
                expected = _denied_by(findings[0].cause)
                verdict = Verdict.BLOCKED_AS_INTENDED
        if verdict is Verdict.BLOCKED_AS_INTENDED and question.backends and request.trace is not False:
            case, findings = await self._behind_policy(question)
            broken = tuple(f.cause for f in findings) or self._known_of_service(question)
            verdict = Verdict.UNEXPECTED_BLOCK if broken else verdict
        if verdict is Verdict.UNEXPECTED_PASS and reached is not None:
            case, findings = await self._why_open(reached)
        causes = broken or tuple(f.cause for f in findings)
        if verdict is Verdict.BLOCKED_AS_INTENDED and not causes and reached is not None:
            causes = tuple(f.cause for f in self._diagnoser.denied(reached))
        elif not causes and verdict not in {Verdict.UNEXPECTED_PASS, Verdict.HEALTHY}:
            causes = self._known(question)
        trace = trace or (case.trace if case is not None else None)
        hops, summary = told(trace, self._uplinks(), cluster.node_of_address) if trace is not None else ((), None)
        if trace is not None and summary is not None and (request.trace or not causes):
            rules = await self._rules(question, trace, summary.stop)
            summary = with_rules(summary, rules)
            if case is not None and rules is not None and summary.stop is not None and not summary.stop.namespace:
                findings = explain.again(replace(case, told={summary.stop.node: rules}))
                causes = tuple(f.cause for f in findings) or causes
        return ProbeReport(
            probe=description_of(request, question, cluster),
            outcome=result.outcome,
            expectation=expected,
            verdict=verdict,
            causes=causes,
            hops=hops,
            trace=summary,
            capture=captured_of(trace) if trace is not None and request.capture else (),
            attempts=tuple(_plain(a) for a in result.attempts),
            ruled_out=explain.ruled_out(case, burst=case.burst is not None) if case is not None and not causes else (),
            missing_evidence=_missing(result, case, found=bool(causes)),
            took_ms=int((self._clock.monotonic() - began) * 1000),
        )

    async def _measured(self, node: str, order: ProbeOrder, limit_s: float) -> ProbeResult:
        """What the agent measured; one that did not come to it in time, and goes on reporting, has another chance."""
        answer = await self._agents.probe(node, order, limit_s)
        if not isinstance(answer, ProbeResult) and has_spoken(self._agents.get(node), self._clock.wall()):
            answer = await self._agents.probe(node, order, limit_s + SLOW_S)
        return answer if isinstance(answer, ProbeResult) else ProbeResult(error=str(answer))

    def _uplinks(self) -> dict[str, str]:
        return {agent.node: agent.uplink for agent in self._agents.all() if agent.uplink}

    async def _rules(self, question: Question, trace: Trace, stop: Stop | None) -> RuleTrace | None:
        """The kernel's own word at the stop; nothing where there is none, or it takes too long."""
        if stop is None:
            return None
        try:
            async with asyncio.timeout(EXAMINE_S):
                return await self._witness.ask(replace(question, flow=trace.flow), trace, way_of(trace), stop)
        except TimeoutError:
            return None

    async def _trace(
        self, question: Question, request: ProbeRequest, verdict: Verdict, result: ProbeResult
    ) -> Trace | None:
        """Marked packets the same way, if one asks for them, or if the probe failed and should not have."""
        failed = verdict is Verdict.UNEXPECTED_BLOCK and bool(result.attempts)
        asked = _with_address(question, result)
        if asked is None or request.trace is False or not (request.trace or failed):
            return None
        many = request.count > COUNT
        return await self._tracer.trace(
            asked,
            count=request.count if request.trace and many else COUNT,
            interval_ms=request.interval_ms if request.trace and many else INTERVAL_MS,
            size=request.size,
            keep=MAX_KEPT if request.capture else 0,
        )

    async def _why(
        self, question: Question, result: ProbeResult, trace: Trace | None = None
    ) -> tuple[Case | None, tuple[Finding, ...]]:
        asked = self._as_name_question(question, result) or _with_address(question, result)
        if asked is None:
            return None, ()
        try:
            async with asyncio.timeout(EXAMINE_S):
                return await self._diagnoser.diagnose(asked, trace=trace)
        except TimeoutError:
            return None, ()

    async def _why_open(self, question: Question) -> tuple[Case | None, tuple[Finding, ...]]:
        """Why something gets through that policies forbid."""
        try:
            async with asyncio.timeout(EXAMINE_S):
                return await self._diagnoser.diagnose(question, passes=True)
        except TimeoutError:
            return None, ()

    async def _behind_policy(self, question: Question) -> tuple[Case | None, tuple[Finding, ...]]:
        """Look whether a Service that policy forbids is broken itself: then policy was not written for its ports.

        Asked from the host of a backend's own node, which policy never forbids.
        """
        backend = question.backends[0]
        node = self._cluster().nodes.get(backend.destination.node)
        address = next((a for a in node.addresses if ip_address(a).version == backend.family), "") if node else ""
        if node is None or not address:
            return None, ()
        own = replace(backend, source=Place(address=address, node=node.name))
        answer = await self._agents.probe(node.name, order_of(own, count=1, interval_ms=50, timeout_ms=500), 2.0)
        if not isinstance(answer, ProbeResult) or answer.outcome in {Outcome.OK, Outcome.NOT_MEASURED}:
            return None, ()
        case, findings = await self._why(Question(own), answer)
        return case, tuple(f for f in findings if f.cause.code.startswith("service."))

    def _known_of_service(self, question: Question) -> tuple[Cause, ...]:
        """The open incident of the very Service: a look at its pods that came to nothing does not take it back."""
        service = question.flow.service
        if service is None:
            return ()
        wanted = ("Service", service.namespace, service.name)
        best = (entry.incident.causes[0] for entry in self._book.open_entries())
        return tuple(
            cause
            for cause in best
            if cause.code.startswith("service.")
            and (cause.object.kind, cause.object.namespace, cause.object.name) == wanted
        )

    def _as_name_question(self, question: Question, result: ProbeResult) -> Question | None:
        """Where a URL failed at its name, the name is what to examine."""
        flow = question.flow
        at_name = result.outcome in NAMELESS or all(
            "dns" in a.phases and "connect" not in a.phases for a in result.attempts
        )
        if flow.method is not Method.HTTP or flow.destination.address or not at_name or flow.source.pod is None:
            return None
        return dns_question(flow, self._cluster())

    def _known(self, question: Question) -> tuple[Cause, ...]:
        """Causes of open incidents that concern an end of the flow: all there is to say where no agent can be asked."""
        nodes = set(question.flow.nodes) | {n for f in question.backends for n in f.nodes}
        found = []
        for entry in self._book.open_entries():
            best = entry.incident.causes[0]
            if best.code != explain.INCONCLUSIVE and any(nodes & set(s.nodes) for s in entry.scopes):
                found.append(best)
        return tuple(found)


def expectation_of(question: Question, policy: PolicyModel | None) -> Expectation:
    """What policy says of the flow: of each backend, where it goes to a Service."""
    if policy is None:
        return Expectation(allowed=None, missing="policies have not been read yet")
    flows = question.backends or (question.flow,)
    if not question.flow.destination.address and not question.backends:
        return Expectation(allowed=None, missing="the name led to no address to which policy could be applied")
    if question.flow.virtual_address and not question.backends:
        return Expectation(allowed=None, missing="the Service has no ready backend to which policy could be applied")
    decisions = [_decide(policy, flow) for flow in flows]
    allowed = {d.allowed for d in decisions}
    said = tuple(dict.fromkeys(b for d in decisions for b in d.because))
    verdict = decisions[0].allowed if len(allowed) == 1 else None
    missing = next((d.missing for d in decisions if d.missing), "")
    if len(allowed) > 1:
        missing = (
            f"policy allows some backends and not others: {missing}"
            if missing
            else "policy allows some backends and not others"
        )
    return Expectation(allowed=verdict, because=said, missing=missing)


def _denied_by(cause: Cause) -> Expectation:
    thing = cause.object
    name = f"{thing.namespace}/{thing.name}" if thing.namespace else thing.name
    return Expectation(allowed=False, because=(f"{thing.kind} {name}",), missing=cause.summary)


def _decide(policy: PolicyModel, flow: Flow) -> Expectation:
    decision = decision_of(flow, policy)
    return Expectation(allowed=decision.allowed, because=decision.because, missing=decision.missing)


def verdict_of(expected: Expectation, outcome: Outcome) -> Verdict:
    """Expectation held against outcome. A failure that nothing forbids is unexpected even where policy is silent."""
    if outcome is Outcome.NOT_MEASURED:
        return Verdict.UNKNOWN
    if outcome is Outcome.OK:
        left_open = expected.allowed is None and bool(expected.because)
        return OPENED[expected.allowed] if not left_open else Verdict.UNKNOWN
    if expected.allowed is False:
        return Verdict.BLOCKED_AS_INTENDED if outcome in BLOCKED else Verdict.UNKNOWN
    if expected.allowed is None and expected.because:
        return Verdict.UNKNOWN
    return Verdict.UNEXPECTED_BLOCK


def _with_address(question: Question, result: ProbeResult) -> Question | None:
    """The question with the address that the name led to; None where there is no address to examine."""
    flow = question.flow
    if flow.destination.address or question.backends:
        return question
    for attempt in result.attempts:
        for text in attempt.answer:
            try:
                family = ip_address(text).version
            except ValueError:
                continue
            return replace(
                question, flow=replace(flow, family=family, destination=replace(flow.destination, address=text))
            )
    return None


def description_of(request: ProbeRequest, question: Question, cluster: ClusterState) -> dict[str, Any]:
    """The `probe` part of a report."""
    flow = question.flow
    return {
        "source": _end(flow.source, cluster),
        "destination": _destination(request, flow, cluster),
        "protocol": flow.method.value,
        "port": flow.port or None,
        "family": flow.family,
        "count": request.count,
    }


def _end(place: Place, cluster: ClusterState) -> dict[str, Any]:
    pod = place.pod or cluster.pods.get(place.vantage.pod_uid)
    if pod is not None:
        return {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "node": pod.node, "address": place.address}
    if place.node:
        return {"kind": "Node", "name": place.node, "address": place.address}
    return {"kind": "Address", "address": place.address}


def _destination(request: ProbeRequest, flow: Flow, cluster: ClusterState) -> dict[str, Any]:
    if flow.method is Method.HTTP and flow.name:
        return {"kind": "URL", "url": flow.name, "address": flow.destination.address}
    if request.destination.startswith("dns/"):
        return {"kind": "Name", "name": flow.name, "record": flow.record, "server": flow.destination.address}
    if flow.service is not None and flow.virtual_address:
        service = flow.service
        return {
            "kind": "Service",
            "namespace": service.namespace,
            "name": service.name,
            "address": flow.virtual_address,
        }
    return _end(flow.destination, cluster)


def _plain(attempt: object) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(attempt)
    return built


def _missing(result: ProbeResult, case: Case | None, *, found: bool) -> tuple[str, ...]:
    said = (result.error,) if result.error else ()
    if found or case is None:
        return said
    return (*said, *explain.missing_evidence(case))
