"""IPIP and loss of a real kernel: what a trace sees of a burst inside a tunnel, and before and behind netem."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from model.facts import FactsOrder
from model.probes import Vantage
from model.trace import Burst
from tests.agent.host.kernel import facts, run
from tests.agent.wire.child import counts, mark_of, trace

SETUP = """
ip netns add a; ip netns add b; ip netns add pa; ip netns add pb
ip link add eth0 netns a type veth peer name eth0 netns b
ip -n a addr add 10.60.0.1/24 dev eth0; ip -n b addr add 10.60.0.2/24 dev eth0
for n in a b; do
  ip -n $n link set lo up; ip -n $n link set eth0 up
  ip netns exec $n sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
  ip -n $n link add cali0 type veth peer name eth0 netns p$n
  ip -n $n link set cali0 up; ip -n p$n link set lo up; ip -n p$n link set eth0 up
done
ip -n a link add tunl1 type ipip local 10.60.0.1 remote 10.60.0.2
ip -n b link add tunl1 type ipip local 10.60.0.2 remote 10.60.0.1
ip -n a link set tunl1 up; ip -n b link set tunl1 up
ip -n a addr add 10.61.1.1/24 dev cali0; ip -n pa addr add 10.61.1.5/24 dev eth0
ip -n b addr add 10.61.2.1/24 dev cali0; ip -n pb addr add 10.61.2.5/24 dev eth0
ip -n pa route add default via 10.61.1.1; ip -n pb route add default via 10.61.2.1
ip -n a route add 10.61.2.0/24 dev tunl1; ip -n b route add 10.61.1.0/24 dev tunl1
"""
DESTINATION, OUTER = "10.61.2.5", "10.60.0.1>10.60.0.2"
COUNT, PORT = 40, 7777


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    """Two hosts with a pod each, and an IPIP tunnel between them."""
    run("", SETUP)
    run("pa", f"fping -q -c1 -t3000 {DESTINATION}")
    yield
    for name in ("a", "b", "pa", "pb"):
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


def burst_through(count: int) -> dict[str, dict[tuple[str, str, str], int]]:
    """Sends a marked burst from pod to pod; packets that each host saw, by device, direction and the tunnel's ends."""
    burst = Burst(destination=DESTINATION, port=PORT, count=count, interval_ms=1, wait_ms=200)
    here, there = trace(mark_of("udp", PORT), burst, ("pa", "a"), ("b",))
    assert here.sent == count
    return {"a": counts(here, 1), "b": counts(there, 0)}


def test_a_burst_is_followed_through_the_tunnel() -> None:
    """Every packet at every device: plain at the pod's and the tunnel's, with the tunnel's ends at the uplink."""
    seen = burst_through(COUNT)
    a, b = seen["a"], seen["b"]
    assert a == {("cali0", "in", ""): COUNT, ("tunl1", "out", ""): COUNT, ("eth0", "out", OUTER): COUNT}
    assert b == {("eth0", "in", OUTER): COUNT, ("tunl1", "in", ""): COUNT, ("cali0", "out", ""): COUNT}


def test_loss_shows_where_it_happens() -> None:
    """Netem on the sender's uplink: taps before the queue see all, the other host's only what was left."""
    run("a", "tc qdisc add dev eth0 root netem loss 50%")
    try:
        seen = burst_through(200)
    finally:
        run("a", "tc qdisc del dev eth0 root")
    a, b = seen["a"], seen["b"]
    assert a["tunl1", "out", ""] == 200
    arrived = b["eth0", "in", OUTER]
    assert 50 < arrived < 150
    assert b["tunl1", "in", ""] == b["cali0", "out", ""] == arrived


def test_a_tunnel_that_ends_nowhere() -> None:
    """With the tunnel down at the far end, packets are seen to arrive in it, and nowhere behind."""
    run("b", "ip link set tunl1 down")
    try:
        b = burst_through(COUNT)["b"]
    finally:
        run("b", "ip link set tunl1 up; ip route add 10.61.1.0/24 dev tunl1")
    assert b == {("eth0", "in", OUTER): COUNT}


def test_the_tunnel_is_a_fact() -> None:
    """The device with its kind, and its route."""
    found = facts("a", FactsOrder(vantage=Vantage(), subjects=("links", "routes")))
    assert {link.name: link.kind for link in found.links or ()}["tunl1"] == "ipip"
    assert any(route.destination == "10.61.2.0/24" and route.device == "tunl1" for route in found.routes or ())
