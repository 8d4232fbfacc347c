"""The resident agent: nothing lost, nothing twice, quick to notice, gone without a trace."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from lab import netns
from model.facts import FactsOrder
from model.probes import ProbeOrder, RelayPeer, Task, Vantage
from model.protocol import Order
from model.words import Method, Outcome
from tests.agent.bed import HOST, add_pod, agent, ip, plan_of, udp, until
from tests.agent.conftest import Bed


def _sequences(bed: Bed) -> list[int]:
    return sorted(sequence for _, sequence in bed.controller.batches)


async def test_observations_arrive_exactly_once_over_broken_connections(bed: Bed) -> None:
    """A connection that breaks, with or without acknowledgements on their way, neither loses nor repeats a probe."""
    bed.controller.plan = plan_of(udp("x", "10.9.0.3", interval_ms=100))
    async with (
        agent(bed.b, "b", "10.9.0.3", "10.9.0.1", bed.folder),
        agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder),
    ):
        for count in (5, 12, 20):
            await until(lambda count=count: len(bed.controller.observations("x")) > count, "observations")
            bed.controller.acking = False
            received = bed.controller.received
            await until(lambda received=received: bed.controller.received > received + 1, "unacknowledged batches")
            bed.controller.break_connections()
            bed.controller.acking = True
        await until(lambda: len(bed.controller.observations("x")) > 60, "observations after the breaks")
        by_boot: dict[str, list[int]] = {}
        for boot, sequence in bed.controller.batches:
            by_boot.setdefault(boot, []).append(sequence)
        assert bed.controller.received > len(bed.controller.batches), "no batch was sent twice: the test shows nothing"
        for sequences in by_boot.values():
            assert sorted(sequences) == list(range(1, len(sequences) + 1))
        times = Counter((o.task, o.at_ms) for o in bed.controller.observations())
        assert len(by_boot) == 2
        assert max(times.values()) <= 2, "each of the two agents probes a moment once"


async def test_dead_target_shows_two_failures_within_a_second(bed: Bed) -> None:
    """A target that falls silent is probed anew at once, on other source ports, and is seen to be back as quickly."""
    bed.controller.plan = plan_of(udp("x", "10.9.0.3", interval_ms=1000))
    async with (
        agent(bed.b, "b", "10.9.0.3", "10.9.0.1", bed.folder),
        agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder),
    ):
        await until(lambda: _oks(bed) >= 3, "first answers")
        ip(bed.net.hub, "link", "set", "p-b", "down")
        await until(lambda: len(_failures(bed)) >= 3, "three failures")
        first = _failures(bed)[:3]
        assert first[2].at_ms - first[0].at_ms < 1800, "in step there would be 2 s between them"
        ip(bed.net.hub, "link", "set", "p-b", "up")
        since_ms = time.time() * 1000
        await until(lambda: len([o for o in _answers(bed) if o.at_ms > since_ms]) >= 2, "recovery")
        back = [o for o in _answers(bed) if o.at_ms > since_ms]
        assert back[1].at_ms - back[0].at_ms < 900, "in step there would be 1 s between them"


def _answers(bed: Bed) -> list:
    return [o for o in bed.controller.observations("x") if o.outcome is Outcome.OK]


def _oks(bed: Bed) -> int:
    return len(_answers(bed))


def _failures(bed: Bed) -> list:
    return [o for o in bed.controller.observations("x") if o.outcome is not Outcome.OK]


async def test_relay_carries_what_it_cannot_read(bed: Bed) -> None:
    """Where the direct way is cut, everything arrives through a neighbour, who sees only TLS of ours;
    when the way is back, it is taken again.
    """
    relays = (RelayPeer("b", ("10.9.0.3",), 8702),)
    bed.controller.plan = plan_of(
        udp("x", "10.9.0.3"), relays=relays, relay_clients=("10.9.0.2", "10.9.0.3"), digest="p"
    )
    async with agent(bed.b, "b", "10.9.0.3", "10.9.0.1", bed.folder):
        await until(lambda: bed.controller.hellos, "hello of b")
        async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
            await until(lambda: len(bed.controller.hellos) == 2, "hello of a")
            await until(lambda: bed.controller.statuses, "status")
            netns.run_sync(bed.a, ["iptables-legacy", "-A", "OUTPUT", "-d", "10.9.0.1", "-j", "DROP"])
            cut = time.time()
            await until(lambda: len(bed.controller.hellos) > 2, "hello through the neighbour")
            assert bed.controller.hellos[-1].via == "b"
            assert bed.controller.hellos[-1].node == "a"
            assert bed.controller.peers[-1] == "10.9.0.3"
            await until(
                lambda: any(o.at_ms > (cut + 1) * 1000 and at > cut + 2 for at, o in bed.controller.arrivals),
                "observations by relay",
            )
            late = [at - o.at_ms / 1000 for at, o in bed.controller.arrivals]
            assert max(late) < 15
            netns.run_sync(bed.a, ["iptables-legacy", "-F", "OUTPUT"])
            await until(lambda: bed.controller.hellos[-1].via == "", "the direct way again")
    stored = (bed.folder / "a" / "state" / "relays.json").read_text()
    assert "10.9.0.3" in stored


@pytest.mark.parametrize("stands", ["on a neighbour's node", "on its own node"])
async def test_a_controller_that_moved_is_found_before_anybody_tells(bed: Bed, stands: str) -> None:
    """Nobody answers where it is said to be: it is looked for on the nodes next to us; its certificate is its word."""
    if stands == "on its own node":
        where, more = (bed.ctl, "10.9.0.1"), ()
    else:
        where, more = (bed.a, "10.9.0.2"), ("--neighbour", "10.9.0.1:8702")
    async with agent(where[0], "a", where[1], "10.9.0.77", bed.folder, *more):
        await until(lambda: bed.controller.hellos, "hello")
        assert bed.controller.hellos[0].via == ""


async def test_relay_serves_no_stranger(bed: Bed) -> None:
    """Who is no node of the plan gets nothing through the relay."""
    stranger = bed.net.add("s", 9)
    async with agent(bed.b, "b", "10.9.0.3", "10.9.0.1", bed.folder) as b:
        await until(lambda: bed.controller.hellos, "hello of b")
        async with agent(stranger, "s", "10.9.0.9", "10.9.0.99", bed.folder, "--neighbour", "10.9.0.3:8702"):
            await until(lambda: "relay refuses" in b.log(), "refusal")
        assert {hello.node for hello in bed.controller.hellos} == {"b"}


async def test_new_plan_keeps_what_stays_the_same(bed: Bed) -> None:
    """Tasks of both plans go on in step; those of the old plan alone end."""
    bed.controller.plan = plan_of(udp("x", "10.9.0.3", interval_ms=1000), udp("y", "10.9.0.1", 9), digest="one")
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: len(bed.controller.observations("x")) >= 2, "first plan")
        await bed.controller.set_plan(
            plan_of(udp("z", "10.9.0.1", 9), udp("x", "10.9.0.3", interval_ms=1000), digest="two")
        )
        await until(lambda: bed.controller.observations("z"), "second plan")
        old = len(bed.controller.observations("y"))
        count = len(bed.controller.observations("x"))
        await until(lambda: len(bed.controller.observations("x")) >= count + 3, "x goes on")
        assert len(bed.controller.observations("y")) <= old + 1
        phases = [o.at_ms % 1000 for o in bed.controller.observations("x")]
        away = [min((p - phases[0]) % 1000, (phases[0] - p) % 1000) for p in phases]
        assert median(away) < 90, phases


async def test_vantage_that_vanishes_is_not_measured_and_comes_back(bed: Bed) -> None:
    """A pod's namespace that goes is our own inability, not a timeout; the pod made anew is entered by itself."""
    pod = bed.net.add("pod", 20)
    add_pod(bed.folder, "uid-1", pod)
    vantage = Vantage(pod_uid="uid-1", namespace="n", name="p", addresses=("10.9.0.20",))
    bed.controller.plan = plan_of(udp("x", "10.9.0.1", 9), vantages=(vantage,))
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: bed.controller.observations("x"), "from within the pod")
        assert {o.outcome for o in bed.controller.observations("x")} == {Outcome.REFUSED}
        bed.net.remove(pod)
        await until(lambda: bed.controller.observations("x")[-1].outcome is Outcome.NOT_MEASURED, "not measured")
        count = len(bed.controller.observations("x"))
        await until(lambda: any(s.vantage_errors for s in bed.controller.statuses), "the status says so")
        assert bed.controller.statuses[-1].vantage_errors.keys() == {"pod/n/p"}
        assert len(bed.controller.observations("x")) <= count + 3
        assert not [o for o in bed.controller.observations("x") if o.outcome is Outcome.TIMEOUT]
        again = bed.net.add("pod", 20)
        add_pod(bed.folder, "uid-1", again)
        await until(lambda: bed.controller.observations("x")[-1].outcome is Outcome.REFUSED, "entered again")


async def test_pod_is_found_by_its_address(bed: Bed) -> None:
    """Where no file bears the UID, the namespace that holds the pod's address is taken."""
    pod = bed.net.add("pod", 21)
    (bed.folder / "netns").mkdir()
    (bed.folder / "netns" / "some-name").symlink_to(netns.path_of(pod))
    vantage = Vantage(pod_uid="uid-unknown", namespace="n", name="p", addresses=("10.9.0.21",))
    bed.controller.plan = plan_of(udp("x", "10.9.0.1", 9), vantages=(vantage,))
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: any(o.outcome is Outcome.REFUSED for o in bed.controller.observations("x")), "refusals")


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
async def test_steady_outcomes_tell_refused_from_silent_from_unreachable(bed: Bed, family: int) -> None:
    """Every way to fail has its own outcome, ICMP errors at once and with their origin."""
    base = "10.9.0." if family == 4 else "fd09::"
    address = base + "3"
    nowhere = "192.0.2.1" if family == 4 else "2001:db8::1"
    rejected = base + "1"
    tool = "iptables-legacy" if family == 4 else "ip6tables-legacy"
    # A host sends one ICMP error a second to each peer (icmp(7), icmp_ratelimit); here every probe shall get its own.
    netns.sysctl_set(bed.ctl, {"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0"})
    netns.run_sync(bed.ctl, [tool, "-A", "INPUT", "-p", "udp", "--dport", "7", "-j", "DROP"])
    netns.run_sync(bed.ctl, [tool, "-A", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP"])
    prohibited = "icmp-admin-prohibited" if family == 4 else "icmp6-adm-prohibited"
    reject = ["-p", "udp", "--dport", "8", "-j", "REJECT", "--reject-with", prohibited]
    netns.run_sync(bed.ctl, [tool, "-A", "INPUT", *reject])
    for node in (bed.a, bed.b):
        netns.run_sync(node, [tool, "-A", "OUTPUT", "-p", "udp", "--dport", "6", "-j", "DROP"])

    def task(name: str, method: Method, to: str, port: int = 0) -> Task:
        return Task(
            id=name, vantage=0, method=method, family=family, address=to, port=port, interval_ms=300, timeout_ms=250
        )

    bed.controller.plan = plan_of(
        task("udp-ok", Method.UDP, address, 8701),
        task("udp-refused", Method.UDP, rejected, 9),
        task("udp-silent", Method.UDP, rejected, 7),
        task("udp-rejected", Method.UDP, rejected, 8),
        task("udp-forbidden", Method.UDP, rejected, 6),
        task("udp-nowhere", Method.UDP, nowhere, 9),
        task("tcp-ok", Method.TCP, address, 8701),
        task("tcp-refused", Method.TCP, rejected, 9),
        task("tcp-silent", Method.TCP, rejected, 7),
        task("tcp-nowhere", Method.TCP, nowhere, 9),
        task("icmp-ok", Method.ICMP, rejected),
        task("icmp-nowhere", Method.ICMP, nowhere),
        task("malformed", Method.UDP, "no-address", 9),
    )
    wanted = {
        "udp-ok": ("ok", ""),
        "udp-refused": ("refused", f"icmp{'' if family == 4 else 'v6'} {'3/3' if family == 4 else '1/4'}"),
        "udp-silent": ("timeout", ""),
        "udp-rejected": ("unreachable", f"icmp{'' if family == 4 else 'v6'} {'3/13' if family == 4 else '1/1'}"),
        "udp-forbidden": ("unreachable", "EPERM"),
        "udp-nowhere": ("unreachable", "ENETUNREACH"),
        "tcp-ok": ("ok", ""),
        "tcp-refused": ("refused", "ECONNREFUSED"),
        "tcp-silent": ("timeout", ""),
        "tcp-nowhere": ("unreachable", "ENETUNREACH"),
        "icmp-ok": ("ok", ""),
        "icmp-nowhere": ("unreachable", "ENETUNREACH"),
        "malformed": ("not_measured", "'no-address' is no IPv"),
    }
    async with (
        agent(bed.b, "b", address, "10.9.0.1", bed.folder),
        agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder),
    ):
        await until(
            lambda: all(len(bed.controller.observations(name)) >= (1 if name == "malformed" else 8) for name in wanted),
            "observations of all tasks",
        )
    for name, (outcome, detail) in wanted.items():
        # The last ones: b's responder and the neighbour tables need a moment.
        seen = bed.controller.observations(name)[-3:]
        assert [(o.outcome.value, o.detail) for o in seen if o.outcome.value != outcome] == [], name
        assert all(o.detail.startswith(detail) for o in seen), (name, seen)
        if outcome in ("ok", "refused"):
            assert all(o.rtt_us > 0 for o in seen) and min(o.rtt_us for o in seen) < 100_000, (name, seen)


async def test_stall_of_our_own_is_no_loss(bed: Bed) -> None:
    """An agent that was stopped for a second reports no timeout for answers that came meanwhile, but its lateness."""
    bed.controller.plan = plan_of(*(udp(f"x{n}", "10.9.0.3", interval_ms=100) for n in range(10)))
    async with (
        agent(bed.b, "b", "10.9.0.3", "10.9.0.1", bed.folder),
        agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder) as a,
    ):
        await until(lambda: len(bed.controller.observations("x9")) > 10, "observations")
        await until(lambda: len(bed.controller.hellos) == 2, "both agents")
        begun_ms = time.time() * 1000
        for _ in range(3):
            os.kill(a.pid, 19)
            await asyncio.sleep(0.9)
            os.kill(a.pid, 18)
            await asyncio.sleep(0.4)
        await until(lambda: max((s.late_ms for s in bed.controller.statuses), default=0) > 500, "lateness")
        since = [o for o in bed.controller.observations() if o.at_ms > begun_ms]
        assert len(since) > 50
        assert {o.outcome for o in since} == {Outcome.OK}


async def test_end_leaves_no_child_and_says_goodbye(bed: Bed) -> None:
    """SIGTERM: a probe under way is killed with the agent, the controller is told, the code is 0."""
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder) as a:
        await until(lambda: bed.controller.hellos, "hello")
        await bed.controller.send(
            Order(
                order=1,
                timeout_ms=60_000,
                probe=ProbeOrder(
                    vantage=HOST, method=Method.ICMP, family=4, address="10.9.0.77", count=500, interval_ms=100
                ),
            )
        )
        await until(lambda: _children(a.pid), "a child")
        children = _children(a.pid)
        assert await a.end() == 0
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        await until(lambda: bed.controller.goodbyes, "goodbye")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


async def test_refused_token_is_told_and_not_hammered(bed: Bed) -> None:
    """An agent that is not let in says so clearly, waits longer, and reads the token anew at every attempt."""
    good = (bed.folder / "token").read_text()
    (bed.folder / "token").write_text("wrong")
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder) as a:
        await until(lambda: "status 401" in a.log(), "a clear word")
        (bed.folder / "token").write_text(good)
        assert not bed.controller.hellos
        assert await until(lambda: bed.controller.hellos, "hello with the new token") > 0.5


async def test_garbage_ends_the_connection_but_not_the_agent(bed: Bed) -> None:
    """A frame that is no message is told and answered by a new connection."""
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder) as a:
        await until(lambda: bed.controller.hellos, "hello")
        for ws in list(bed.controller.sockets):
            await ws.send_str('{"type":"nonsense"}')
        await until(lambda: len(bed.controller.hellos) == 2, "a second hello")
        assert "no message" in a.log()


async def test_link_events_are_told_after_the_silence(bed: Bed) -> None:
    """A node whose uplink was down says so, once, when it can speak again; its hello names the device."""
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: bed.controller.statuses, "status")
        ip(bed.net.hub, "link", "set", "p-a", "down")
        await asyncio.sleep(0.2)
        ip(bed.net.hub, "link", "set", "p-a", "up")
        bed.controller.break_connections()
        await until(lambda: any(s.link_events for s in bed.controller.statuses), "events")
        told = next(s.link_events for s in bed.controller.statuses if s.link_events)
        assert [(e.device, e.carrier) for e in told] == [("eth0", False), ("eth0", True)]
        count = len(bed.controller.statuses)
        await until(lambda: len(bed.controller.statuses) > count + 1, "later statuses")
        assert not bed.controller.statuses[-1].link_events
        assert len(bed.controller.hellos) >= 2
        assert bed.controller.hellos[-1].uplink == "eth0"


async def test_orders_run_in_children(bed: Bed) -> None:
    """A probe on demand is answered with its attempts from its vantage; nonsense is answered with a reason."""
    pod = bed.net.add("pod", 22)
    add_pod(bed.folder, "uid-3", pod)
    vantage = Vantage(pod_uid="uid-3", namespace="n", name="p", addresses=("10.9.0.22",))
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: bed.controller.hellos, "hello")
        probe = ProbeOrder(vantage=vantage, method=Method.TCP, family=4, address="10.9.0.1", port=8703)
        answer = await bed.controller.ask(Order(order=1, timeout_ms=10_000, probe=probe))
        assert answer.probe is not None, answer
        assert [a.outcome for a in answer.probe.attempts] == [Outcome.OK] * 3
        assert {a.source_address for a in answer.probe.attempts} == {"10.9.0.22"}
        assert len({a.source_port for a in answer.probe.attempts}) == 3
        unknown = Vantage(pod_uid="nowhere", namespace="n", name="q", addresses=("10.9.0.250",))
        for number, order in enumerate(
            (
                Order(order=10, timeout_ms=5000),
                Order(order=11, timeout_ms=5000, facts=FactsOrder(vantage=unknown)),
                Order(
                    order=12,
                    timeout_ms=5000,
                    probe=ProbeOrder(vantage=HOST, method=Method.ICMP, family=4, address="10.9.0.1", count=10**6),
                ),
            ),
            10,
        ):
            refused = await bed.controller.ask(order)
            assert refused.order == number
            assert refused.error
        slow = ProbeOrder(vantage=HOST, method=Method.ICMP, family=4, address="10.9.0.77", timeout_ms=9000)
        late = await bed.controller.ask(Order(order=20, timeout_ms=500, probe=slow))
        assert "500 ms" in late.error
