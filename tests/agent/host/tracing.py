"""What tests of the rule trace share: queries, a trace in the test's own process, what is left in the router.

Such a trace needs no time: what the kernel told waits in its socket until it is collected.
"""

from __future__ import annotations

from agent.host.ruletrace.tracer import RuleTracer
from model.facts import Packet
from model.netfilter import RuleTrace, RuleTraceQuery, TracedFlow, TraceEnd
from tests.agent.host.kernel import Router, inside, run


def tables(router: Router) -> str:
    """All tables of nftables in the router."""
    return run(router.router, "nft list tables").strip()


def settings(router: Router) -> str:
    """The kernel's choice of loggers there."""
    return run(router.router, "cat /proc/sys/net/netfilter/nf_log/{2,10}")


def query(*packets: Packet, most: int = 20) -> RuleTraceQuery:
    """The query for the flows of these packets."""
    flows = tuple(
        TracedFlow(
            family=p.family, source=p.source, destination=p.destination, protocol=p.protocol,
            source_port=p.source_port, destination_port=p.destination_port,
        )
        for p in packets
    )  # fmt: skip
    return RuleTraceQuery(flows=flows, packets=most, duration_ms=1)


def trace(router: Router, packet: Packet, *sent: Packet) -> RuleTrace:
    """Sends three such packets, or what is given, through the traced router."""
    tracer = RuleTracer(query(packet))
    inside(router.router, tracer.arm)
    try:
        router.send(sent or [packet] * 3)
        return inside(router.router, tracer.collect)
    finally:
        inside(router.router, tracer.close)


def told(end: TraceEnd) -> tuple[str, str, str, str, int]:
    """Verdict, hook, and the rule."""
    assert end.rule is not None
    return end.verdict, end.hook, end.rule.backend, end.rule.chain, end.rule.position
