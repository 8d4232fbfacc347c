"""Has the kernel itself name the rule, at the place where a trace stopped: a second, small burst under a rule trace.

A rule trace changes a host for as long as it lasts (a table of its own, taken away again), so it is asked for only
where packets did stop, in that one namespace, and nothing else has named the reason, or the user wants a trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from controller.agents import AgentRegistry
from controller.diagnosis.flows import Question
from controller.diagnosis.trace import Trace
from controller.diagnosis.tracing import Tracer
from controller.diagnosis.way import SOCKET, Sight, Way, parted
from model.diagnosis import Object, Stop
from model.facts import Facts, FactsOrder
from model.netfilter import RuleRef, RuleTrace, RuleTraceQuery, TracedFlow, TraceEnd
from model.probes import Vantage

STOPS = frozenset({"drop", "reject", "stolen", "queue"})
PLACES = frozenset({"node", "sender"})
LISTEN_MS = 2000
ARMED_S = 2.5
COUNT = 5
INTERVAL_MS = 5


class Witness:
    """Asks for rule traces; each is its own."""

    def __init__(self, agents: AgentRegistry, tracer: Tracer) -> None:
        self._agents = agents
        self._tracer = tracer

    async def ask(self, question: Question, trace: Trace, way: Way, stop: Stop) -> RuleTrace | None:
        """What the kernel tells of the rules at the stop; None where no host was the stop, or it could not tell."""
        flows = tuple(flows_at(trace, way, stop))
        vantage = next((v for v in trace.watched.get(stop.node, ()) if _named(v) == stop.namespace), None)
        if stop.place not in PLACES or not flows or vantage is None:
            return None
        armed = asyncio.Event()
        order = FactsOrder(vantage=vantage, rule_trace_asked=RuleTraceQuery(flows=flows, duration_ms=LISTEN_MS))
        limit_s = ARMED_S + LISTEN_MS / 1000 + 2
        asking = asyncio.create_task(self._agents.facts(stop.node, order, limit_s, armed.set))
        waiting = asyncio.create_task(armed.wait())
        try:
            await asyncio.wait((waiting, asking), timeout=ARMED_S, return_when=asyncio.FIRST_COMPLETED)
            if armed.is_set():
                await self._tracer.trace(question, count=COUNT, interval_ms=INTERVAL_MS)
            answer = await asking
        finally:
            waiting.cancel()
            asking.cancel()
        return answer.rule_trace if isinstance(answer, Facts) else None


def flows_at(trace: Trace, way: Way, stop: Stop) -> Iterator[TracedFlow]:
    """Yield the packets as they reach the namespace of the stop: plain, or those of the tunnel that carries them."""
    flow = trace.flow
    if stop.place == "sender":
        yield TracedFlow(
            family=flow.family,
            source="",
            destination=flow.destination.address,
            protocol=flow.protocol,
            destination_port=flow.port,
        )
        return
    sights = [
        s for s in (way.back if stop.reply else way.there) if (s.node, s.namespace) == (stop.node, stop.namespace)
    ]
    last = next((s for s in sights if (s.seen.device, s.seen.direction) == (stop.device, stop.direction)), None)
    first = next((s for s in sights if s.seen.device != SOCKET and not s.seen.outer), None)
    if last is not None and last.seen.outer:
        source, _, destination = last.seen.outer.partition(">")
        yield TracedFlow(family=6 if ":" in source else 4, source=source, destination=destination, protocol="udp")
    elif first is not None:
        yield _plain(first, flow.protocol)


def _plain(sight: Sight, protocol: str) -> TracedFlow:
    source, source_port = parted(sight.seen.source)
    destination, port = parted(sight.seen.destination)
    return TracedFlow(
        family=6 if ":" in source else 4,
        source=source,
        destination=destination,
        protocol=protocol,
        source_port=source_port,
        destination_port=port,
    )


def _named(vantage: Vantage) -> str:
    return "" if vantage.is_host else f"{vantage.namespace}/{vantage.name}"


def taken_by(found: RuleTrace | None) -> TraceEnd | None:
    """The rule in which most of the packets ended, if one stopped them."""
    ends = (end for end in (found.ends if found is not None else ()) if end.verdict in STOPS and end.rule is not None)
    return next(ends, None)


def words_of(found: RuleTrace | None) -> str:
    """What the kernel's word comes to, in short; "" if it said nothing of use."""
    end = taken_by(found)
    if end is not None and end.rule is not None:
        rule, did = end.rule, "rejected" if end.verdict == "reject" else "dropped"
        place = f"rule {rule.position}" if rule.position else "the policy"
        duty = f" (for {rule.target})" if rule.target else ""
        return f"{did} by {place} of {rule.table} {rule.chain}{duty}: {rule.text}"
    lost = next((e for e in (found.ends if found is not None else ()) if e.verdict == "lost"), None)
    if lost is None:
        return ""
    where = (
        "between the hooks, by the routing (route, forwarding or rp_filter)" if lost.hook == "routing" else lost.hook
    )
    return f"no rule took them: lost {where}"


def object_of(rule: RuleRef, node: str) -> Object:
    """A rule as an object of a diagnosis."""
    kind = "nft-rule" if rule.backend == "nft" else "iptables-rule"
    return Object(kind=kind, node=node, name=f"{rule.table}/{rule.chain}/{rule.position}", text=rule.text)
