"""A router between a client and a server, in namespaces of its own, and packets through it.

Every probe is told by its IP id; a fence packet, which every rule set lets pass first, follows the probes, so that no
test waits for packets that never come.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from model.facts import Facts, FactsOrder, Packet
from model.probes import Vantage

T = TypeVar("T")
FENCE_PORT = 9999
CLIENT, SERVER = "10.50.1.2", "10.50.2.2"
CLIENT6, SERVER6 = "fd50:1::2", "fd50:2::2"
_ids = itertools.count(1)
_numbers = itertools.count()
SETUP = """
ip netns add {c}; ip netns add {r}; ip netns add {s}
ip link add in0 netns {r} type veth peer name eth0 netns {c}
ip link add out0 netns {r} type veth peer name eth0 netns {s}
for n in {c} {r} {s}; do ip -n $n link set lo up; done
ip -n {r} addr add 10.50.1.1/24 dev in0; ip -n {r} addr add 10.50.2.1/24 dev out0
ip -n {r} addr add fd50:1::1/64 dev in0 nodad; ip -n {r} addr add fd50:2::1/64 dev out0 nodad
ip -n {r} link set in0 up; ip -n {r} link set out0 up
ip -n {c} addr add 10.50.1.2/24 dev eth0; ip -n {c} addr add fd50:1::2/64 dev eth0 nodad; ip -n {c} link set eth0 up
ip -n {s} addr add 10.50.2.2/24 dev eth0; ip -n {s} addr add 10.50.2.3/24 dev eth0
ip -n {s} addr add fd50:2::2/64 dev eth0 nodad; ip -n {s} link set eth0 up
ip -n {c} route add default via 10.50.1.1; ip -n {c} -6 route add default via fd50:1::1
ip -n {s} route add default via 10.50.2.1; ip -n {s} -6 route add default via fd50:2::1
ip netns exec {r} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
  net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.in0.rp_filter=0 net.ipv4.conf.out0.rp_filter=0
"""


def inside(namespace: str, action: Callable[[], T]) -> T:
    """Runs an action in a thread that entered the namespace and ends there."""
    found: list[Any] = []

    def run() -> None:
        with Path(f"/run/netns/{namespace}").open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000):
                found.append(OSError(ctypes.get_errno(), namespace))
                return
        try:
            found.append(action())
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]  # type: ignore[no-any-return]


def run(namespace: str, command: str, given: str | None = None) -> str:
    """A shell command in a namespace; it must succeed."""
    prefix = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    done = subprocess.run(
        [*prefix, "bash", "-ec", command], input=given, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{command}\n{given or ''}\n{done.stderr}"
    return done.stdout


def facts(namespace: str, order: FactsOrder, *options: str, armed: Callable[[], None] | None = None) -> Facts:
    """What the facts process answers; `armed` is done once it says that it listens."""
    command = [sys.executable, "-m", "agent.host", "--netns", f"/run/netns/{namespace}", *options]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    try:
        assert process.stdin is not None and process.stdout is not None
        if armed is not None:
            process.stdin.write(msgspec.json.encode(order))
            process.stdin.close()
            process.stdin = None
            assert json.loads(process.stdout.readline()) == {"armed": True}
            armed()
        out, said = process.communicate(None if armed else msgspec.json.encode(order), timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said.decode()
    return msgspec.json.decode(out.splitlines()[-1], type=Facts)


def ip_json(namespace: str, command: str) -> list[dict[str, Any]]:
    """What `ip -j` says there."""
    found: list[dict[str, Any]] = json.loads(run(namespace, f"ip -j {command}") or "[]")
    return found


class Router:
    """Client, router and server."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.client, self.router, self.server = (f"krh-{os.getpid()}-{number}{end}" for end in "crs")

    def __enter__(self) -> Router:
        try:
            return self._made()
        except BaseException:
            self._remove()
            raise

    def _made(self) -> Router:
        run("", SETUP.format(c=self.client, r=self.router, s=self.server))
        for family, to in (("4", SERVER), ("6", SERVER6)):
            run(self.client, f"fping -q -{family} -c1 -t3000 {to}")
        self._sender = inside(self.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        self._sender6 = inside(self.client, self._raw6)
        self._receiver = inside(self.server, self._tap)
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._sender, self._sender6, self._receiver):
            one.close()
        self._remove()

    def _remove(self) -> None:
        for name in (self.client, self.router, self.server):
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)

    @staticmethod
    def _raw6() -> socket.socket:
        found = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        found.setsockopt(socket.IPPROTO_IPV6, 36, 1)
        return found

    @staticmethod
    def _tap() -> socket.socket:
        found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        found.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)
        found.bind(("eth0", 3))
        return found

    def send(self, packets: Sequence[Packet]) -> list[Packet | None]:
        """Sends the packets from the client; each as it arrives at the server, None if it does not."""
        from scapy.layers.inet import ICMP, IP, TCP, UDP
        from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

        numbers = []
        for packet in [*packets, fence(4)]:
            number = next(_ids) % 65000 + 1
            numbers.append(number)
            inner = {
                "tcp": lambda p: TCP(sport=p.source_port, dport=p.destination_port, flags="S"),
                "udp": lambda p: UDP(sport=p.source_port, dport=p.destination_port) / b"x",
                "icmp": lambda p, n=number: ICMP(type=p.icmp_type, id=n) / b"x",
                "icmpv6": lambda _, n=number: ICMPv6EchoRequest(id=n, data=b"x"),
            }[packet.protocol](packet)
            if packet.family == 4:
                data = bytes(IP(src=packet.source, dst=packet.destination, id=number, flags="DF") / inner)
                self._sender.sendto(data, (packet.destination, 0))
            else:
                data = bytes(IPv6(src=packet.source, dst=packet.destination, fl=number) / inner)
                self._sender6.sendto(data, (packet.destination, 0))
        arrived = self._receive(set(numbers), numbers[-1])
        return [arrived.get(number) for number in numbers[:-1]]

    def _receive(self, wanted: set[int], last: int) -> dict[int, Packet]:
        found: dict[int, Packet] = {}
        ends = time.monotonic() + 5
        while last not in found:
            self._receiver.settimeout(max(0.01, ends - time.monotonic()))
            data, (_, _, kind, *_) = self._receiver.recvfrom(2048)
            version = data[0] >> 4
            number = int.from_bytes(data[4:6] if version == 4 else data[2:4], "big")
            if kind != 4 and number in wanted:
                at, protocol = (20, data[9]) if version == 4 else (40, data[6])
                packed = (data[12:16], data[16:20]) if version == 4 else (data[8:24], data[24:40])
                family = socket.AF_INET if version == 4 else socket.AF_INET6
                source, destination = (socket.inet_ntop(family, one) for one in packed)
                ports = (int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big"))
                found[number] = Packet(
                    family=version, source=source, destination=destination,
                    protocol={6: "tcp", 17: "udp", 1: "icmp", 58: "icmpv6"}.get(protocol, ""),
                    source_port=ports[0] if protocol in {6, 17} else 0,
                    destination_port=ports[1] if protocol in {6, 17} else 0,
                )  # fmt: skip
        return found


def fence(family: int) -> Packet:
    """The packet that every rule set lets pass."""
    source, destination = (CLIENT, SERVER) if family == 4 else (CLIENT6, SERVER6)
    return Packet(
        family=family,
        source=source,
        destination=destination,
        protocol="udp",
        source_port=1,
        destination_port=FENCE_PORT,
    )


def disagreements(router: Router, packets: Sequence[Packet]) -> tuple[list[str], int]:
    """Where the walk and the kernel differ, and how many walks were unsure."""
    found = facts(router.router, FactsOrder(vantage=Vantage(), walks_asked=tuple(packets)))
    assert not found.errors, found.errors
    arrived = router.send(packets)
    differing, unsure = [], 0
    for walk, real in zip(found.walks or (), arrived, strict=True):
        if walk.verdict == "unsure":
            unsure += 1
            print(walk.asked, walk.unsure)
            continue
        if (walk.verdict == "accept") != (real is not None):
            differing.append(f"{walk.asked}: walk says {walk.verdict} ({walk.decided_by}), kernel {real}")
        elif real is not None:
            ways = walk.alternatives or (walk.packet,)
            ends = {(way.source, way.destination, way.destination_port) for way in ways}
            if (real.source, real.destination, real.destination_port) not in ends:
                differing.append(f"{walk.asked}: walk says {ends}, kernel {real}")
    return differing, unsure
