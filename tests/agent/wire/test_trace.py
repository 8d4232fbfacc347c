"""A trace sees its burst at every device, both ways, in tunnels, translated and in errors; and leaves nothing behind."""

# ruff: noqa: E501 - commands stand as one writes them
from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from agent.wire.burst import build
from agent.wire.mark import read, words
from model.trace import Burst, Mark
from tests.agent.host.kernel import inside, run
from tests.agent.wire.child import Child, counts, mark_of, trace

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


@pytest.fixture(scope="module")
def overlay() -> Iterator[Overlay]:
    """Two hosts with pods, joined by VXLAN."""
    made = Overlay(4790)
    try:
        run("", SETUP.format(a=made.a, b=made.b, pa=made.pa, pb=made.pb, port=made.port))
        run(made.pa, "fping -q -c1 -t3000 10.61.2.2")
        yield made
    finally:
        for name in (made.a, made.b, made.pa, made.pb):
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


OUTER, BACK = "10.60.0.1>10.60.0.2", "10.60.0.2>10.60.0.1"


def at_host(veth: str, direction: str, outer: str) -> dict[tuple[str, str, str], int]:
    """What a host between pod and uplink sees of five packets that go that way at the pod's end."""
    other = "in" if direction == "out" else "out"
    return {
        (veth, direction, ""): 5,
        ("cni0", direction, ""): 5,
        ("flannel.1", other, ""): 5,
        ("eth0", other, outer): 5,
    }


@pytest.mark.parametrize(
    ("protocol", "port", "back"),
    [("tcp", 80, "reply"), ("udp", 8700, "error"), ("icmp", 0, "reply")],
    ids=["tcp", "udp", "icmp"],
)
def test_sees_every_device_both_ways(overlay: Overlay, protocol: str, port: int, back: str) -> None:
    """Each device counts each packet once, the uplink inside the tunnel; the pod's reset, echo or refusal on its way back."""
    burst = Burst(destination="10.61.2.2", port=port, count=5, interval_ms=2)
    here, there = trace(mark_of(protocol, port), burst, (overlay.pa, overlay.a), (overlay.b, overlay.pb))
    assert (here.sent, here.refused, here.missed, here.errors) == (5, "", 0, {})
    assert counts(here, 0) == {("eth0", "out", ""): 5}
    assert counts(here, 1) == at_host("vetha", "in", OUTER)
    assert counts(there, 0) == at_host("vethb", "out", OUTER)
    assert counts(there, 1) == {("eth0", "in", ""): 5, ("socket", "in", ""): 5}
    assert counts(there, 0, back) == at_host("vethb", "in", BACK)
    assert counts(here, 1, back) == at_host("vetha", "out", BACK)
    home = {("eth0", "in", ""): 5} | ({("socket", "in", ""): 5} if back == "reply" else {})
    assert counts(here, 0, back) == home
    order = [s.device for s in here.seen if s.way == "request"]
    assert order == ["eth0", "vetha", "cni0", "flannel.1", "eth0"]
    assert {s.resets for s in here.seen if s.way != "request"} == {5 if protocol == "tcp" else 0}
    if back == "error":
        assert {s.note for s in here.seen if s.way == "error"} == {"port unreachable from 10.61.2.2"}


def test_sees_through_translation(overlay: Overlay) -> None:
    """A packet is known by its mark where neither of its addresses is left."""
    rules = "nft add table ip t; nft add chain ip t p '{ type nat hook prerouting priority -100; }'; nft add chain ip t q '{ type nat hook postrouting priority 100; }'; nft add rule ip t p ip daddr 10.96.0.9 tcp dport 80 dnat to 10.61.2.2:8080; nft add rule ip t q masquerade random"
    run(overlay.a, rules)
    try:
        mark = Mark(family=4, protocol="tcp", token=7 << 12, ports=(80, 8080))
        here, there = trace(
            mark, Burst(destination="10.96.0.9", port=80, count=3), (overlay.pa, overlay.a), (overlay.b, overlay.pb)
        )
    finally:
        run(overlay.a, "nft delete table ip t")
    ends = [(s.device, s.source, s.destination) for s in here.seen if s.way == "request"]
    assert ends[0] == ("eth0", "10.61.1.2", "10.96.0.9:80")
    assert ends[-1] == ("eth0", "10.61.1.0", "10.61.2.2:8080")
    back = [(s.source, s.destination) for s in here.seen if s.way == "reply"]
    assert (back[0], back[-1]) == (("10.61.2.2:8080", "10.61.1.0"), ("10.96.0.9:80", "10.61.1.2"))
    assert counts(there, 1)["socket", "in", ""] == 3


def test_numbers_tell_which_packets_were_lost(overlay: Overlay) -> None:
    """Of a burst that a rule thins out, the devices behind it have other numbers than those before."""
    run(
        overlay.b,
        "nft add table ip t; nft add chain ip t f '{ type filter hook forward priority 0; }'; nft add rule ip t f icmp type echo-request icmp sequence '{ 2, 5, 9 }' drop",
    )
    try:
        here, there = trace(
            mark_of("icmp"),
            Burst(destination="10.61.2.2", count=10, interval_ms=1, wait_ms=200),
            (overlay.pa, overlay.a),
            (overlay.b, overlay.pb),
        )
    finally:
        run(overlay.b, "nft delete table ip t")
    came = {s.device: s.bits for s in there.seen if s.way == "request" and s.vantage == 0}
    everything = sum(1 << n for n in range(1, 11))
    assert came["flannel.1"] == everything
    assert came["vethb"] == everything & ~(1 << 2 | 1 << 5 | 1 << 9)
    assert next(s.packets for s in here.seen if s.device == "socket") == 7


def test_what_the_sender_is_refused_is_told(overlay: Overlay) -> None:
    """No route, or the sender's own packet filter: the kernel's errno, and nothing sent."""
    run(
        overlay.pa,
        "ip route add blackhole 10.61.3.0/24; ip route add unreachable 10.61.4.0/24; nft add table ip t; nft add chain ip t o '{ type filter hook output priority 0; }'; nft add rule ip t o ip daddr 10.61.5.1 reject",
    )
    try:
        for to, word in (("10.61.3.1", "EINVAL"), ("10.61.4.1", "EHOSTUNREACH"), ("10.61.5.1", "EPERM")):
            (told,) = trace(mark_of("udp", 9), Burst(destination=to, port=9, count=2, wait_ms=1), (overlay.pa,))
            assert (told.sent, told.refused.split(":")[0]) == (0, word)
    finally:
        run(overlay.pa, "nft delete table ip t; ip route del 10.61.3.0/24; ip route del 10.61.4.0/24")


def test_a_closed_input_is_told_from_a_silent_process(overlay: Overlay) -> None:
    """What INPUT drops reaches the last device and no socket."""
    run(
        overlay.pb,
        "nft add table ip t; nft add chain ip t i '{ type filter hook input priority 0; }'; nft add rule ip t i udp dport 8700 drop",
    )
    try:
        _, there = trace(
            mark_of("udp", 8700),
            Burst(destination="10.61.2.2", port=8700, count=2, wait_ms=100),
            (overlay.pa, overlay.a),
            (overlay.b, overlay.pb),
        )
    finally:
        run(overlay.pb, "nft delete table ip t")
    assert counts(there, 1) == {("eth0", "in", ""): 2}


def test_ipv6(overlay: Overlay) -> None:
    """The same with IPv6, to a socket and back, beside packets that are not ours."""
    for name, address in ((overlay.a, "fd60::1"), (overlay.b, "fd60::2")):
        run(name, f"ip addr replace {address}/64 dev eth0 nodad")
    run(overlay.a, "fping -6 -q -c1 -t3000 fd60::2")
    for protocol, port in (("icmpv6", 0), ("tcp", 80), ("udp", 9)):
        mark = mark_of(protocol, port, 6)
        here, there = trace(mark, Burst(destination="fd60::2", port=port, count=3), (overlay.a,), (overlay.b,))
        assert counts(there, 0) == {("eth0", "in", ""): 3, ("socket", "in", ""): 3}, protocol
        back = "error" if protocol == "udp" else "reply"
        assert counts(here, 0, back)["eth0", "in", ""] == 3, protocol
        assert next(s.destination for s in there.seen if s.device == "eth0") == (
            "fd60::2" if not port else f"[fd60::2]:{port}"
        )


def test_dns_is_asked(overlay: Overlay) -> None:
    """To port 53 the burst asks questions; the answers are known by the name in them."""

    def serve(sock: socket.socket) -> None:
        for _ in range(3):
            data, peer = sock.recvfrom(512)
            sock.sendto(data[:2] + b"\x81\x83" + data[4:], peer)

    def bound() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.61.2.2", 53))
        sock.settimeout(10)
        return sock

    sock = inside(overlay.pb, bound)
    server = threading.Thread(target=serve, args=(sock,))
    server.start()
    try:
        (here,) = trace(mark_of("udp", 53, dns=True), Burst(destination="10.61.2.2", port=53, count=3), (overlay.pa,))
    finally:
        server.join()
        sock.close()
    assert counts(here, 0, "reply") == {("eth0", "in", ""): 3, ("socket", "in", ""): 3}


def test_ends_without_traffic_and_without_cue(overlay: Overlay) -> None:
    """A watch that nobody ends is over after its time, and one whose agent is gone at once."""
    assert Child(mark_of("udp", 9), overlay.a, limit_ms=200).told().seen == ()
    orphan = Child(mark_of("udp", 9), overlay.a)
    assert orphan.process.stdin is not None
    orphan.process.stdin.close()
    assert orphan.process.wait(5) == 0
    assert orphan.process.stdout is not None
    orphan.process.stdout.close()


def test_kill_leaves_nothing(overlay: Overlay) -> None:
    """All that a trace makes are sockets: with the process they are gone, whatever ended it."""
    child = Child(
        mark_of("tcp", 80),
        overlay.pa,
        overlay.a,
        burst=Burst(destination="10.61.2.2", port=80, count=900, interval_ms=5),
    )
    child.cue("send")
    assert run(overlay.pa, "cat /proc/net/packet").count("\n") > 1
    child.process.send_signal(signal.SIGKILL)
    child.process.wait(5)
    for stream in (child.process.stdin, child.process.stdout):
        assert stream is not None
        stream.close()
    for name in (overlay.pa, overlay.a):
        assert run(name, "cat /proc/net/packet").count("\n") == 1
        assert run(name, "cat /proc/net/raw").count("\n") == 1
        assert run(name, "nft list ruleset").strip() == ""


def test_packets_are_kept_whole(overlay: Overlay) -> None:
    """What is kept for a capture file is the packet from its IP header on, and no more of them than was asked."""
    child = Child(mark_of("icmp"), overlay.pa, burst=Burst(destination="10.61.2.2", count=5, size=600), keep=4)
    child.cue("send")
    told = child.told()
    assert [(k.direction, k.way, k.number, k.length) for k in told.kept[:1]] == [("out", "request", 1, 628)]
    assert len(told.kept) == 4
    assert len(told.kept[0].data) == 256 and told.kept[0].data[0] == 0x45


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp", "icmpv6"])
def test_every_packet_is_read_as_it_was_built(protocol: str) -> None:
    """Mark and number come out of a packet as they went in, plain, and within an ICMP error; another token does not."""
    family, (source, to) = (6, ("fd00::1", "fd00::2")) if protocol == "icmpv6" else (4, ("192.0.2.1", "192.0.2.2"))
    port = 0 if protocol.startswith("icmp") else 9
    mark = mark_of(protocol, port, family)
    for number, packet in enumerate(build(mark, Burst(destination=to, port=port, count=40), source, (4242,)), 1):
        found = read(mark, frozenset(), packet)
        assert found is not None and (found.way, found.number, found.source) == ("request", number, source)
        assert any(int.from_bytes(packet[w.offset : w.offset + 4], "big") & w.mask == w.value for w in words(mark))
        if family == 4:
            error = b"\x45" + bytes(8) + b"\x01" + bytes(2) + socket.inet_aton("192.0.2.9") + socket.inet_aton(source)
            quoted = error + b"\x03\x0d" + bytes(6) + packet[:64]
            told = read(mark, frozenset(), quoted)
            assert told is not None and (told.way, told.number) == ("error", number)
            assert told.note == "administratively prohibited from 192.0.2.9"
        assert (
            read(Mark(family=family, protocol=protocol, token=1 << 20, ports=mark.ports), frozenset(), packet) is None
        )


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [("gre", {}), ("udp", {"count": 0}), ("udp", {"count": 5000}), ("tcp", {"port": 0}), ("udp", {"size": 70_000})],
    ids=["protocol", "none", "too many", "no port", "too large"],
)
def test_bursts_that_are_refused(protocol: str, changes: dict[str, int]) -> None:
    """What cannot be built, or is beyond the caps, is refused and not sent in part."""
    fields = {"port": 9, "count": 3, **changes}
    with pytest.raises(ValueError, match="burst"):
        build(mark_of(protocol, 9), Burst(destination="192.0.2.2", **fields), "192.0.2.1", (7,))
