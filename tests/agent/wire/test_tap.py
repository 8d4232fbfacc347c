"""The tap counts a flow at each device, both ways, and inside a tunnel; the burst is what it counts."""

# ruff: noqa: E501 - commands stand as one writes them
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.wire.burst import build
from model.facts import Burst, Facts, FactsOrder, TapQuery
from model.probes import Vantage
from tests.agent.host.kernel import facts, run

ROOT = Path(__file__).resolve().parents[3]
# Two hosts with a VXLAN between them, and on each a pod behind a bridge: as flannel wires it, and a custom port.
SETUP = """
for n in {a} {b} {pa} {pb}; do ip netns add $n; ip -n $n link set lo up; done
ip link add eth0 netns {a} type veth peer name eth0 netns {b}
i=0
for n in {a} {b}; do
  i=$((i+1)); j=$((3-i))
  ip -n $n addr add 10.60.0.$i/24 dev eth0; ip -n $n link set eth0 up
  ip -n $n link add flannel.1 type vxlan id 1 dev eth0 local 10.60.0.$i dstport {port} nolearning
  ip -n $n link set flannel.1 address 02:00:00:00:00:0$i; ip -n $n addr add 10.61.$i.0/32 dev flannel.1
  ip -n $n link set flannel.1 up
  ip -n $n route add 10.61.$j.0/24 via 10.61.$j.0 dev flannel.1 onlink
  ip -n $n neigh add 10.61.$j.0 lladdr 02:00:00:00:00:0$j dev flannel.1 nud permanent
  bridge -n $n fdb add 02:00:00:00:00:0$j dst 10.60.0.$j dev flannel.1
  ip -n $n link add cni0 type bridge; ip -n $n addr add 10.61.$i.1/24 dev cni0; ip -n $n link set cni0 up
  ip netns exec $n sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
done
ip link add eth0 netns {pa} type veth peer name vetha netns {a}
ip link add eth0 netns {pb} type veth peer name vethb netns {b}
ip -n {a} link set vetha master cni0 up; ip -n {b} link set vethb master cni0 up
ip -n {pa} addr add 10.61.1.2/24 dev eth0; ip -n {pa} link set eth0 up; ip -n {pa} route add default via 10.61.1.1
ip -n {pb} addr add 10.61.2.2/24 dev eth0; ip -n {pb} link set eth0 up; ip -n {pb} route add default via 10.61.2.1
"""


class Overlay:
    """The namespaces by name."""

    def __init__(self, port: int) -> None:
        self.a, self.b, self.pa, self.pb = (f"krh-{os.getpid()}-t{port}{end}" for end in ("a", "b", "pa", "pb"))
        self.port = port


@pytest.fixture(scope="module", params=[8472, 4790], ids=["flannel-port", "port-of-the-device"])
def overlay(request: pytest.FixtureRequest) -> Iterator[Overlay]:
    """Two hosts with pods, joined by VXLAN."""
    made = Overlay(request.param)
    try:
        run("", SETUP.format(a=made.a, b=made.b, pa=made.pa, pb=made.pb, port=made.port))
        run(made.pa, "fping -q -c1 -t3000 10.61.2.2")
        yield made
    finally:
        for name in (made.a, made.b, made.pa, made.pb):
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


class Listening:
    """A facts process whose tap is armed."""

    def __init__(self, namespace: str, query: TapQuery) -> None:
        order = FactsOrder(vantage=Vantage(), tap=query, subjects=("links",))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agent.host", "--netns", f"/run/netns/{namespace}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(msgspec.json.encode(order))
        self._process.stdin.close()
        assert json.loads(self._process.stdout.readline()) == {"armed": True}

    def answer(self) -> Facts:
        """What it counted."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert self._process.wait(10) == 0
        self._process.stdout.close()
        return msgspec.json.decode(line, type=Facts)


# Two processes must start within it, also where the machine is busy.
LISTEN_MS = 1500


def query(protocol: str, duration_ms: int = LISTEN_MS, **fields: int) -> TapQuery:
    """The flow between the two pods."""
    ends = {"source": "10.61.1.2", "destination": "10.61.2.2"}
    return TapQuery(family=4, protocol=protocol, duration_ms=duration_ms, **ends, **fields)


@pytest.mark.parametrize(("protocol", "port"), [("udp", 8700), ("tcp", 80), ("icmp", 0)])
def test_counts_at_every_device(overlay: Overlay, protocol: str, port: int) -> None:
    """Each device on the way counts each packet of the burst once, the uplink inside the tunnel, replies apart."""
    taps = {name: Listening(name, query(protocol, port=port, source_port=4242)) for name in (overlay.a, overlay.b)}
    burst = Burst(
        family=4, source="10.61.1.2", destination="10.61.2.2", protocol=protocol, source_port=4242, port=port,
        count=5, interval_ms=5,
    )  # fmt: skip
    sent = facts(overlay.pa, FactsOrder(vantage=Vantage(), burst=burst))
    assert (sent.burst_sent, sent.errors) == (5, {})
    # Another flow beside it must not be counted.
    other = msgspec.structs.replace(burst, source_port=4343)
    assert facts(overlay.pa, FactsOrder(vantage=Vantage(), burst=other)).burst_sent == 5
    for name, mine, way, ends in (
        (overlay.a, "vetha", ("in", "out"), "10.60.0.1>10.60.0.2"),
        (overlay.b, "vethb", ("out", "in"), "10.60.0.1>10.60.0.2"),
    ):
        answer = taps[name].answer()
        assert answer.links is not None and not answer.errors
        counts = {(one.device, one.direction, one.outer): one.packets for one in answer.tap or () if not one.reply}
        other_way = "in" if way[1] == "in" else "out"
        assert counts == {
            (mine, way[0], ""): 5,
            ("cni0", way[0], ""): 5,
            ("flannel.1", other_way, ""): 5,
            ("eth0", other_way, ends): 5,
        }
        replies = {one.device: one.packets for one in answer.tap or () if one.reply}
        # The pod answers echo requests and refuses TCP; an ICMP error is no packet of a UDP flow.
        assert replies == ({} if protocol == "udp" else dict.fromkeys((mine, "cni0", "flannel.1", "eth0"), 5))


def test_ends_by_its_deadline_without_traffic(overlay: Overlay) -> None:
    """A tap that sees nothing answers with nothing, in time."""
    answer = Listening(overlay.a, query("udp", 200)).answer()
    assert (answer.tap, answer.errors) == ((), {})


def test_malformed_query_is_its_own_error(overlay: Overlay) -> None:
    """A query that cannot be asked is an error of the tap and leaves the other subjects whole."""
    bad = TapQuery(family=4, source="10.61.1.2", destination="nobody", protocol="tcp")
    answer = facts(overlay.a, FactsOrder(vantage=Vantage(), tap=bad, subjects=("links",)))
    assert answer.links and answer.tap is None and "nobody" in answer.errors["tap"]


def test_ipv6_flow(overlay: Overlay) -> None:
    """IPv6 flows are told apart by all of their addresses' octets."""
    run(
        "",
        f"ip -n {overlay.a} addr replace fd60::1/64 dev eth0 nodad; ip -n {overlay.b} addr replace fd60::2/64 dev eth0 nodad",
    )
    run(overlay.b, "ip addr replace fd60::3/64 dev eth0 nodad")
    ask = TapQuery(family=6, source="fd60::1", destination="fd60::2", protocol="icmpv6", duration_ms=LISTEN_MS)
    listening = Listening(overlay.b, ask)
    for to, count in (("fd60::2", 3), ("fd60::3", 2)):
        burst = Burst(family=6, source="fd60::1", destination=to, protocol="icmpv6", source_port=7, count=count)
        assert facts(overlay.a, FactsOrder(vantage=Vantage(), burst=burst)).burst_sent == count
    requests = [one for one in listening.answer().tap or () if one.direction == "in"]
    # Neighbour discovery between the two is ICMPv6 as well, so a count may be higher, never lower.
    assert requests and requests[0].device == "eth0" and 3 <= requests[0].packets <= 5


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_burst_is_numbered(protocol: str) -> None:
    """Every packet of a burst has its number as IP id, and the burst's source port or identifier."""
    burst = Burst(
        family=4, source="192.0.2.1", destination="192.0.2.2", protocol=protocol, source_port=77, port=9, count=3
    )
    packets = build(burst)
    assert [int.from_bytes(one[4:6], "big") for one in packets] == [1, 2, 3]
    at = 24 if protocol == "icmp" else 20
    assert {int.from_bytes(one[at : at + 2], "big") for one in packets} == {77}


@pytest.mark.parametrize(("protocol", "count"), [("gre", 3), ("udp", 0), ("udp", 5000)])
def test_bursts_that_are_refused(protocol: str, count: int) -> None:
    """Unknown protocols and counts beyond the cap are refused, not sent in part."""
    with pytest.raises(ValueError, match="burst"):
        build(
            Burst(family=4, source="192.0.2.1", destination="192.0.2.2", protocol=protocol, source_port=7, count=count)
        )
