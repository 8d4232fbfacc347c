"""IPIP and loss of a real kernel: what taps see of a burst inside a tunnel, and before and behind netem."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from model.facts import Facts, FactsOrder, TapCount, TapQuery
from model.probes import Vantage
from tests.agent.host.kernel import facts, inside, run

ROOT = Path(__file__).resolve().parents[3]
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
SOURCE, DESTINATION, OUTER = "10.61.1.5", "10.61.2.5", "10.60.0.1>10.60.0.2"
COUNT, PORT = 40, 7777


@pytest.fixture(scope="module", autouse=True)
def _network() -> Iterator[None]:
    """Two hosts with a pod each, and an IPIP tunnel between them."""
    run("", SETUP)
    run("pa", f"fping -q -c1 -t3000 {DESTINATION}")
    yield
    for name in ("a", "b", "pa", "pb"):
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


def burst_through(count: int) -> dict[str, tuple[TapCount, ...]]:
    """Sends datagrams from pod to pod while both hosts listen; what each host saw."""
    query = TapQuery(
        family=4, source=SOURCE, destination=DESTINATION, protocol="udp", port=PORT, source_port=PORT,
        duration_ms=2000,
    )  # fmt: skip
    taps = {name: _tap(name, query) for name in ("a", "b")}
    try:
        for tap in taps.values():
            assert tap.stdout is not None and tap.stdout.readline().strip() == b'{"armed":true}'
        inside("pa", lambda: _send(count))
        lines = {name: tap.communicate(timeout=20)[0].splitlines()[-1] for name, tap in taps.items()}
    finally:
        for tap in taps.values():
            tap.kill()
            tap.wait()
    return {name: msgspec.json.decode(line, type=Facts).tap or () for name, line in lines.items()}


def _send(count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((SOURCE, PORT))
        for _ in range(count):
            sender.sendto(b"x", (DESTINATION, PORT))


def _tap(name: str, query: TapQuery) -> subprocess.Popen[bytes]:
    tap = subprocess.Popen(
        [sys.executable, "-m", "agent.host", "--netns", f"/run/netns/{name}"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert tap.stdin is not None
    tap.stdin.write(msgspec.json.encode(FactsOrder(vantage=Vantage(), tap=query)))
    tap.stdin.close()
    tap.stdin = None
    return tap


def counts(seen: tuple[TapCount, ...]) -> dict[tuple[str, str, str], int]:
    """Packets by device, direction and the tunnel's ends."""
    return {(one.device, one.direction, one.outer): one.packets for one in seen if not one.reply}


def test_a_burst_is_followed_through_the_tunnel() -> None:
    """Every packet at every device: plain at the pod's and the tunnel's, with the tunnel's ends at the uplink."""
    seen = burst_through(COUNT)
    a, b = counts(seen["a"]), counts(seen["b"])
    assert a == {("cali0", "in", ""): COUNT, ("tunl1", "out", ""): COUNT, ("eth0", "out", OUTER): COUNT}
    assert b == {("eth0", "in", OUTER): COUNT, ("tunl1", "in", ""): COUNT, ("cali0", "out", ""): COUNT}


def test_loss_shows_where_it_happens() -> None:
    """Netem on the sender's uplink: taps before the queue see all, the other host's only what was left."""
    run("a", "tc qdisc add dev eth0 root netem loss 50%")
    try:
        seen = burst_through(200)
    finally:
        run("a", "tc qdisc del dev eth0 root")
    a, b = counts(seen["a"]), counts(seen["b"])
    assert a["tunl1", "out", ""] == 200
    arrived = b["eth0", "in", OUTER]
    assert 50 < arrived < 150
    assert b["tunl1", "in", ""] == b["cali0", "out", ""] == arrived


def test_a_tunnel_that_ends_nowhere() -> None:
    """With the tunnel down at the far end, packets are seen to arrive in it, and nowhere behind."""
    run("b", "ip link set tunl1 down")
    try:
        b = counts(burst_through(COUNT)["b"])
    finally:
        run("b", "ip link set tunl1 up; ip route add 10.61.1.0/24 dev tunl1")
    assert b == {("eth0", "in", OUTER): COUNT}


def test_the_tunnel_is_a_fact() -> None:
    """The device with its kind, and its route."""
    found = facts("a", FactsOrder(vantage=Vantage(), subjects=("links", "routes")))
    assert {link.name: link.kind for link in found.links or ()}["tunl1"] == "ipip"
    assert any(route.destination == "10.61.2.0/24" and route.device == "tunl1" for route in found.routes or ())
