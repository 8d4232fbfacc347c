"""A rule trace among others: side by side, killed, flushed by somebody, in the midst of a stream; it leaves nothing."""

# ruff: noqa: E501 - rules stand as one writes them
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.host.ruletrace import leftovers
from agent.host.ruletrace.packetlog import PacketLog
from agent.host.ruletrace.tracer import RuleTracer
from model.facts import FactsOrder
from model.netfilter import RuleTraceQuery, TracedFlow
from model.probes import Vantage
from tests.agent.host.kernel import CLIENT, SERVER, Router, inside, run
from tests.agent.host.takers import clear, syn
from tests.agent.host.tracing import query, settings, tables, told, trace

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("flows", [(80, 81), (80, 80)], ids=["two-flows", "the-same-flow"])
def test_two_traces_side_by_side(router: Router, backend: str, flows: tuple[int, int]) -> None:
    """Each tells of its own packets alone; of the legacy log only one can have the lines, the other has the counters."""
    for port in (80, 81):
        run(router.router, f"iptables-{backend} -A FORWARD -p tcp --dport {port} -j DROP")
    tracers = [RuleTracer(query(syn(4, port))) for port in flows]
    for tracer in tracers:
        inside(router.router, tracer.arm)
    router.send([syn(4, flows[0])] * 3 + ([syn(4, flows[1])] * 4 if flows[1] != flows[0] else []))
    found = [inside(router.router, tracer.collect) for tracer in tracers]
    for one, port, count in zip(found, flows, (3, 4 if flows[1] != flows[0] else 3), strict=True):
        assert [end.rule.position for end in one.ends if end.rule] == [port - 79], one
        assert (one.seen, one.traced, one.ends[0].packets) == (count, count, count)
    assert [one.ends[0].how for one in found] == (
        ["legacy-trace", "counters"] if backend == "legacy" else ["nft-trace", "nft-trace"]
    )
    assert tables(router) in {"", "table ip filter"}


def test_counters_that_do_not_tell_are_no_answer(router: Router) -> None:
    """Where the log is somebody else's and two rules took as many packets, no rule is named, and it is said why."""
    run(router.router, "iptables-legacy -A FORWARD -p tcp --dport 80 -j DROP; "
        "iptables-legacy -A FORWARD -p tcp --dport 81 -j DROP")  # fmt: skip
    other = inside(router.router, lambda: PacketLog((4,)))
    try:
        found = trace(router, syn(4), *[syn(4), syn(4, port=81)] * 3)
    finally:
        inside(router.router, other.close)
    assert [(end.verdict, end.hook, end.packets, end.rule) for end in found.ends] == [("lost", "forward", 3, None)]
    assert found.missing == ("legacy-trace: Operation not permitted", "counters: 2 rules of forward took 3 packets")


@pytest.fixture
def stream() -> Iterator[Router]:
    """A router of its own, since its server is flooded."""
    with Router() as made:
        yield made


def test_what_is_under_way_at_the_end_is_not_lost(stream: Router) -> None:
    """A steady stream of packets, and traces that begin and end in the midst of it: nothing is lost."""
    sender = inside(stream.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sender:
        sender.bind((CLIENT, 40001))
        ended = threading.Event()

        def send() -> None:
            while not ended.is_set():
                sender.sendto(b"x", (SERVER, 5000))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            flow = TracedFlow(
                family=4, source=CLIENT, destination=SERVER, protocol="udp", source_port=40001, destination_port=5000
            )
            traced = 0
            while traced < 500:
                tracer = RuleTracer(RuleTraceQuery(flows=(flow,), packets=1000, duration_ms=10))
                inside(stream.router, tracer.arm)
                found = inside(stream.router, tracer.collect)
                assert {(end.verdict, end.hook) for end in found.ends} <= {("accept", "postrouting")}
                assert found.missing == ()
                traced += found.traced
        finally:
            ended.set()
            thread.join()


def test_somebody_flushes_all_rules(router: Router) -> None:
    """What was told until then is told, and that the trace was cut short."""
    run(router.router, "iptables-nft -A FORWARD -p tcp --dport 80 -j DROP")
    tracer = RuleTracer(query(syn(4)))
    inside(router.router, tracer.arm)
    router.send([syn(4)] * 3)
    run(router.router, "nft flush ruleset")
    found = inside(router.router, tracer.collect)
    assert [(end.verdict, end.hook, end.packets) for end in found.ends] == [("drop", "forward", 3)]
    assert found.missing == ("somebody removed the table of the trace",)


KILLED = """
import sys, time
from agent.host.enter import enter
from agent.host.ruletrace.tracer import RuleTracer
from model.netfilter import RuleTraceQuery, TracedFlow
enter(sys.argv[1])
tracer = RuleTracer(RuleTraceQuery(flows=(
    TracedFlow(family=4, source="", destination="10.50.2.2", protocol="tcp"),
    TracedFlow(family=6, source="", destination="fd50:2::2", protocol="tcp"))))
tracer.arm()
print("armed", flush=True)
time.sleep(60)
"""


def test_kill_9_leaves_nothing_after_the_next_start(router: Router) -> None:
    """Tables and the log's settings are put back when an agent starts or traces again."""
    for program in ("iptables", "ip6tables"):
        run(router.router, f"{program}-legacy -A FORWARD -p tcp --dport 80 -j DROP")
    rules, loggers = tables(router), settings(router)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, f"/run/netns/{router.router}"], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"armed\n"
            assert "kubereach_trace" in tables(router)
            assert settings(router) != loggers
        finally:
            os.kill(child.pid, signal.SIGKILL)
    assert len(inside(router.router, leftovers.remove)) == 2
    assert (tables(router), settings(router)) == (rules, loggers)


def test_what_cannot_be_put_back_stands_in_nobodys_way(router: Router) -> None:
    """A dead trace's note of a logger that the kernel has no more is removed, and others trace on."""
    run(router.router, "iptables-nft -A FORWARD -p tcp --dport 80 -j DROP; "
        "nft 'table inet kubereach_trace_note_4194303_1_1 { comment \"2=nobody\"\n}'")  # fmt: skip
    assert [told(end)[0] for end in trace(router, syn(4)).ends] == ["drop"]
    assert tables(router) == "table ip filter"


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_living_trace_is_no_leftover(router: Router, backend: str) -> None:
    """Who clears away leftovers does not touch a trace that runs."""
    run(router.router, f"iptables-{backend} -A FORWARD -p tcp --dport 80 -j DROP")
    tracer = RuleTracer(query(syn(4)))
    inside(router.router, tracer.arm)
    assert inside(router.router, leftovers.remove) == ()
    router.send([syn(4)] * 3)
    found = inside(router.router, tracer.collect)
    assert [(*told(end), end.packets) for end in found.ends] == [
        ("drop", "forward", "nft_compat" if backend == "nft" else "legacy", "FORWARD", 1, 3)
    ]
    assert "kubereach" not in tables(router)


def test_where_settings_cannot_be_written(router: Router) -> None:
    """In a container, where /proc/sys is read-only, the legacy log is had nevertheless, and put back."""
    run(router.router, "iptables-legacy -A FORWARD -p tcp --dport 80 -j DROP")
    loggers = settings(router)
    order = FactsOrder(vantage=Vantage(), rule_trace_asked=msgspec.structs.replace(query(syn(4)), duration_ms=900))
    command = (
        "mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && "
        f"! echo NONE 2>/dev/null > /proc/sys/net/netfilter/nf_log/2 && exec {sys.executable} -m agent.host "
        f"--netns /run/netns/{router.router}"
    )
    with subprocess.Popen(
        ["unshare", "-m", "bash", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(msgspec.json.encode(order))
        child.stdin.close()
        assert child.stdout.readline() == b'{"armed":true}\n'
        assert settings(router) != loggers
        router.send([syn(4)] * 3)
        answer = msgspec.json.decode(child.stdout.read())
    assert [end["how"] for end in answer["rule_trace"]["ends"]] == ["legacy-trace"], answer
    assert settings(router) == loggers
