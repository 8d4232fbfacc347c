"""The rule trace against the kernel: whatever takes the packets is named, and what nobody takes is laid to nobody."""

# ruff: noqa: E501 - rules stand as one writes them
from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest
from scapy.layers.inet import ICMP

from agent.host.ruletrace.tracer import RuleTracer
from model.facts import FactsOrder, Packet
from model.netfilter import RuleTraceQuery, TracedFlow
from model.probes import Vantage
from tests.agent.host.kernel import CLIENT, SERVER, Router, facts, inside, run
from tests.agent.host.takers import TAKERS, clear, syn, take
from tests.agent.host.tracing import query, settings, tables, told, trace


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """One router for all tests of this file; each test makes its own rules."""
    with Router() as made:
        yield made


@pytest.fixture(autouse=True)
def clean(router: Router) -> Iterator[None]:
    """No rules are left over, and no connections, since NAT decides once for each; the kernel logs as it did before."""
    loggers = settings(router)
    yield
    clear(router)
    assert (tables(router), settings(router)) == ("", loggers)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("taker", TAKERS)
def test_what_takes_the_packets_is_named(router: Router, taker: str, family: int) -> None:
    """All packets of the burst end at exactly the rule or policy that takes them, by the word of its own backend."""
    expected = take(router, taker, family)
    before = tables(router)
    found = trace(router, syn(family))
    assert [told(end) for end in found.ends] == [expected], found
    assert (found.seen, found.traced, found.ends[0].packets) == (3, 3, 3)
    assert found.missing == ()
    assert found.ends[0].how == ("legacy-trace" if taker.startswith("legacy") else "nft-trace")
    assert found.steps[-1].rule == found.ends[0].rule
    assert tables(router) == before


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("program", ["nft", "legacy"])
def test_a_translated_packet_is_followed(router: Router, program: str, backend: str) -> None:
    """Asked for by its first name, a packet is named anew behind DNAT, and so is the rule that drops it there."""
    run(router.router, f"iptables-{program} -t nat -A PREROUTING -d 10.50.8.8 -p tcp --dport 443 -j DNAT "
        f"--to-destination {SERVER}:80; iptables-{backend} -A FORWARD -p tcp --dport 80 -d {SERVER} -j DROP")  # fmt: skip
    asked = msgspec.structs.replace(syn(4, port=443), destination="10.50.8.8")
    found = trace(router, asked)
    assert [(step.hook, step.verdict, step.packets) for step in found.steps] == [
        ("prerouting", "dnat", 3), ("forward", "drop", 3),
    ]  # fmt: skip
    passed, stopped = found.hooks
    assert (passed.entered_as, passed.left_as) == (f"{CLIENT}:40001>10.50.8.8:443", f"{CLIENT}:40001>{SERVER}:80")
    assert (stopped.hook, stopped.entered, stopped.left) == ("forward", 3, 0)
    assert [end.verdict for end in found.ends] == ["drop"]


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_packet_that_passes(router: Router, backend: str) -> None:
    """It leaves through every hook; rules that took it on its way are told of, those of other packets are not."""
    run(router.router, f"iptables-{backend} -A FORWARD -p tcp --dport 80 -j ACCEPT; "
        f"iptables-{backend} -A FORWARD -p tcp -j DROP")  # fmt: skip
    found = trace(router, syn(4), *[syn(4), syn(4, port=81)] * 3)
    assert [(end.verdict, end.hook, end.packets) for end in found.ends] == [("accept", "postrouting", 3)]
    assert [(step.rule.position, step.verdict) for step in found.steps] == [(1, "accept")]
    assert [(one.hook, one.entered, one.left) for one in found.hooks] == [
        ("prerouting", 3, 3), ("forward", 3, 3), ("postrouting", 3, 3),
    ]  # fmt: skip
    assert found.seen == 3


def test_a_packet_for_the_host_itself(router: Router) -> None:
    """It is handed over behind the input hook, or dropped there."""
    asked = msgspec.structs.replace(syn(4), destination="10.50.1.1")
    assert [(end.verdict, end.hook) for end in trace(router, asked).ends] == [("accept", "input")]
    run(router.router, "iptables-nft -A INPUT -p tcp --dport 80 -j DROP")
    assert [told(end) for end in trace(router, asked).ends] == [("drop", "input", "nft_compat", "INPUT", 1)]


def test_what_no_rule_takes_is_not_laid_to_one(router: Router) -> None:
    """A packet without a route is lost in the routing, whatever rules there are."""
    run(router.router, "iptables-legacy -A FORWARD -p tcp -j DROP; ip route add blackhole 10.50.7.0/24")
    try:
        found = trace(router, msgspec.structs.replace(syn(4), destination="10.50.7.7"), syn(4, port=81), *[
            msgspec.structs.replace(syn(4), destination="10.50.7.7")] * 2)  # fmt: skip
    finally:
        run(router.router, "ip route del blackhole 10.50.7.0/24")
    assert [(end.verdict, end.hook, end.packets, end.rule) for end in found.ends] == [("lost", "routing", 2, None)]


def ping(identifier: int) -> None:
    """Three echo requests from the caller's namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender:
        for number in range(3):
            sender.sendto(bytes(ICMP(type=8, id=identifier, seq=number) / b"x"), (SERVER, 0))


def refused(router: Router, packet: Packet, count: int) -> None:
    """Packets that the client's own kernel does not let out."""
    for _ in range(count):
        with pytest.raises(PermissionError):
            router.send([packet])


def test_echo_requests_are_told_apart_by_their_identifier(router: Router) -> None:
    """Of two pings at once only the one that is asked about is told of."""
    run(router.router, "iptables-nft -A FORWARD -p icmp -j DROP")
    flow = TracedFlow(family=4, source=CLIENT, destination=SERVER, protocol="icmp", source_port=77)
    tracer = RuleTracer(RuleTraceQuery(flows=(flow,), duration_ms=1))
    inside(router.router, tracer.arm)
    for identifier in (77, 78):
        inside(router.client, lambda identifier=identifier: ping(identifier))  # type: ignore[misc]
    found = inside(router.router, tracer.collect)
    assert (found.seen, [told(end) for end in found.ends]) == (
        3, [("drop", "forward", "nft_compat", "FORWARD", 1)],
    )  # fmt: skip


def test_an_order_of_facts_traces(router: Router) -> None:
    """An order arms, says so, and tells: here what a host's own OUTPUT rule rejects."""
    run(router.client, "iptables-nft -A OUTPUT -p tcp --dport 80 -j REJECT")
    try:
        asked = msgspec.structs.replace(query(syn(4)), duration_ms=200)
        order = FactsOrder(vantage=Vantage(), rule_trace_asked=asked)
        answer = facts(router.client, order, armed=lambda: refused(router, syn(4), 5))
    finally:
        run(router.client, "nft flush ruleset")
    assert answer.errors == {}
    assert answer.rule_trace is not None
    assert [(*told(end), end.packets) for end in answer.rule_trace.ends] == [
        ("reject", "output", "nft_compat", "OUTPUT", 1, 5)
    ]


def test_no_more_packets_are_told_of_than_asked(router: Router) -> None:
    """All packets of the flow are counted, and only the first few are marked."""
    tracer = RuleTracer(query(syn(4), most=5))
    inside(router.router, tracer.arm)
    router.send([syn(4)] * 40)
    found = inside(router.router, tracer.collect)
    assert (found.seen, found.traced, sum(end.packets for end in found.ends)) == (40, 5, 5)


@pytest.fixture
def bridged() -> Iterator[Router]:
    """A router whose client comes over a bridge, which shows its packets to iptables (br_netfilter)."""
    with Router() as made:
        run(made.router, "ip link add br0 type bridge; ip addr flush dev in0; ip link set in0 master br0; "
            "ip addr add 10.50.1.1/24 dev br0; ip link set br0 up; sysctl -qw net.bridge.bridge-nf-call-iptables=1")  # fmt: skip
        run(made.client, f"fping -q -c1 -t3000 {SERVER}")
        yield made


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_packet_from_a_bridge_is_followed(bridged: Router, backend: str) -> None:
    """It passes prerouting on the bridge and the other hooks above it, and is one packet to the trace."""
    every = [("prerouting", 3, 3), ("forward", 3, 3), ("postrouting", 3, 3)]
    run(bridged.router, f"iptables-{backend} -A FORWARD -p tcp --dport 81 -j DROP")
    found = trace(bridged, syn(4))
    assert (found.seen, [(end.verdict, end.hook, end.packets) for end in found.ends]) == (
        3,
        [("accept", "postrouting", 3)],
    )
    assert [(one.hook, one.entered, one.left) for one in found.hooks] == every
    found = trace(bridged, syn(4, port=81))
    assert [(end.verdict, end.hook, end.packets) for end in found.ends] == [("drop", "forward", 3)]


def test_what_is_taken_before_the_hooks_is_not_seen(router: Router) -> None:
    """Rules at a device are beyond a trace: it says so, and lays the loss to nobody."""
    run(router.router, "nft 'table netdev krh { chain i { type filter hook ingress device in0 priority 0; "
        "tcp dport 80 drop; }\n}'")  # fmt: skip
    found = trace(router, syn(4))
    assert (found.how, found.seen, found.ends) == ((), 0, ())
    assert found.missing == ("not traced: table netdev krh",)


def test_what_cannot_be_traced_is_refused(router: Router) -> None:
    """A malformed query raises, and leaves nothing."""
    for wrong in (
        RuleTraceQuery(flows=()),
        RuleTraceQuery(flows=(TracedFlow(family=4, source="x", destination="", protocol="tcp"),)),
        RuleTraceQuery(flows=(TracedFlow(family=4, source="", destination="", protocol="any"),)),
        RuleTraceQuery(flows=(TracedFlow(family=4, source="", destination="", protocol="tcp"),), packets=0),
    ):
        with pytest.raises(ValueError, match="rule trace"):
            RuleTracer(wrong).arm()
    assert tables(router) == ""
