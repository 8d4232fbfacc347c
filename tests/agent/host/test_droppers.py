"""Counters of rules that drop, held against the kernel's trace: what moved by exactly the burst is what it names."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from agent.host.context import Context
from agent.host.firewall import Firewall
from agent.host.ruletrace.tracer import RuleTracer
from model.facts import Dropper, FactsOrder, Packet
from model.netfilter import RuleTraceQuery, TracedFlow
from model.probes import Vantage
from tests.agent.host.kernel import Router, inside
from tests.agent.host.takers import TAKERS, clear, syn, take

BURST = 4


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """One router for all tests of this file; each test makes its own rules."""
    with Router() as made:
        yield made


@pytest.fixture(autouse=True)
def clean(router: Router) -> Iterator[None]:
    """No rules are left over."""
    yield
    clear(router)


def droppers(router: Router, packet: Packet) -> dict[tuple[object, ...], Dropper]:
    """The droppers for the packet in the router, by the rule's name."""
    order = FactsOrder(vantage=Vantage(), droppers_asked=(packet,))

    def read() -> tuple[Dropper, ...]:
        context = Context(order, netns="", cni_conf_dir="", cni_bin_dir="")
        with context.netlink:
            return Firewall(context).droppers()

    found = inside(router.router, read)
    return {(one.rule.backend, one.rule.table, one.rule.chain, one.rule.position): one for one in found}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("taker", TAKERS)
def test_exactly_the_burst_is_counted(router: Router, taker: str, family: int) -> None:
    """Of all droppers only the one that the trace names has moved, by as many packets as were sent.

    A policy of native nftables counts nothing, and is named by the trace alone.
    """
    take(router, taker, family)
    packet = msgspec.structs.replace(syn(family), incoming="in0")
    flow = TracedFlow(
        family=family, source=packet.source, destination=packet.destination, protocol="tcp",
        source_port=packet.source_port, destination_port=packet.destination_port,
    )  # fmt: skip
    before = droppers(router, packet)
    tracer = RuleTracer(RuleTraceQuery(flows=(flow,), duration_ms=1))
    inside(router.router, tracer.arm)
    router.send([packet] * BURST)
    (end,) = inside(router.router, tracer.collect).ends
    after = droppers(router, packet)
    moved = {name: one.rule.packets - before[name].rule.packets for name, one in after.items()}
    moved = {name: packets for name, packets in moved.items() if packets}
    assert end.rule is not None
    named = (end.rule.backend, end.rule.table, end.rule.chain, end.rule.position)
    assert named in after
    assert after[named].verdict == end.verdict
    assert moved == ({} if taker == "native-policy" else {named: BURST})
