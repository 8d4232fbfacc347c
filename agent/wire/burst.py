"""A burst of marked packets: scapy builds them, a raw socket sends them, one after the other when their time comes.

Imported only in the child process that sends. The packets are the sender's own: they pass its OUTPUT rules and routes
like any other. Their source ports are held by sockets meanwhile, so that no live connection is touched and the kernel
does not refuse the answers.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Set
from typing import Final

from agent.wire.mark import LEAST_SIZE, family_of, payload, sequence
from model.trace import MAX_PACKETS, Burst, Mark

IPV6_HDRINCL: Final = 36
KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
MAX_SIZE: Final = 65_000


def check(mark: Mark, burst: Burst) -> None:
    """Raises ValueError for a burst that cannot be built."""
    if not 0 < burst.count <= MAX_PACKETS:
        raise ValueError(f"burst: count {burst.count} is not between 1 and {MAX_PACKETS}")
    if mark.protocol not in {"tcp", "udp", "icmp", "icmpv6"}:
        raise ValueError(f"burst: cannot build {mark.protocol!r}")
    if mark.protocol in KINDS and not 0 < burst.port <= 65535:
        raise ValueError(f"burst: {mark.protocol} to port {burst.port}")
    if not 0 <= burst.size <= MAX_SIZE:
        raise ValueError(f"burst: a payload of {burst.size} octets")


def build(mark: Mark, burst: Burst, source: str, ports: tuple[int, ...]) -> list[bytes]:
    """The packets 1…count, from their IP header on; each has its number as IP id or flow label too."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: PLC0415 - 150 ms and 55 MiB, for who sends only
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6  # noqa: PLC0415
    from scapy.packet import Raw  # noqa: PLC0415

    check(mark, burst)
    packets = []
    for number in range(1, burst.count + 1):
        port = ports[(number - 1) % len(ports)] if ports else 0
        content = payload(mark, number, max(burst.size, LEAST_SIZE))
        if mark.family == 4:
            network = IP(src=source, dst=burst.destination, id=number, flags="DF")
        else:
            network = IPv6(src=source, dst=burst.destination, fl=number)
        if mark.protocol == "tcp":
            options = [("MSS", 1220)]
            inner = TCP(sport=port, dport=burst.port, flags="S", seq=sequence(mark, number), options=options)
        elif mark.protocol == "udp":
            inner = UDP(sport=port, dport=burst.port) / Raw(content)
        elif mark.family == 4:
            inner = ICMP(type=8, id=mark.token & 0xFFFF, seq=number) / Raw(content)
        else:
            inner = ICMPv6EchoRequest(id=mark.token & 0xFFFF, seq=number, data=content)
        packets.append(bytes(network / inner))
    return packets


class Sender:
    """Sends a burst from the namespace that it is opened in. Times are monotonic seconds."""

    def __init__(self, mark: Mark, burst: Burst) -> None:
        check(mark, burst)
        self._mark, self._burst = mark, burst
        self._raw: socket.socket | None = None
        self._held: list[socket.socket] = []
        self._packets: list[bytes] = []
        self._begun: float | None = None
        self._at: dict[int, float] = {}
        self._last = 0.0
        self._next = 1
        self.sent: set[int] = set()
        self.repeated = 0
        self.errno = 0

    def open(self) -> tuple[int, ...]:
        """Take source ports and build the packets, in the caller's namespace; returns the ports. Raises OSError.

        No way to the destination is no error here: the kernel says so again when the packets are sent.
        """
        family = family_of(self._mark)
        source = self._burst.source or self._own_address(family)
        if not source:
            return ()
        self._raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
        if family == socket.AF_INET6:
            self._raw.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        # The routing policy sees the source of a bound socket, as it would of any other.
        self._raw.bind((source, 0))
        ports = self._hold(family, source)
        self._packets = build(self._mark, self._burst, source, ports)
        return ports

    def _own_address(self, family: socket.AddressFamily) -> str:
        """The address that the kernel would take as source; remembers its errno where there is no way."""
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            try:
                asking.connect((self._burst.destination, self._burst.port or 9))
            except OSError as error:
                self.errno = error.errno or errno.EIO
                return ""
            return str(asking.getsockname()[0])

    def _hold(self, family: socket.AddressFamily, source: str) -> tuple[int, ...]:
        kind = KINDS.get(self._mark.protocol)
        if kind is None:
            return ()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for _ in range(self._burst.count):
            sock = socket.socket(family, kind)
            self._held.append(sock)
            sock.bind((source, 0))
        return tuple(int(sock.getsockname()[1]) for sock in self._held)

    def begin(self, now: float) -> None:
        """The first packet is due now."""
        if self._begun is None:
            self._begun = now

    def step(self, now: float, answered: Set[int]) -> float | None:
        """Send what is due; when to come again. None once all was sent, and answered or waited for long enough."""
        if self._begun is None:
            return now + 60
        if self._raw is None:
            return None
        burst = self._burst
        while self._next <= burst.count and self._begun + (self._next - 1) * burst.interval_ms / 1000 <= now:
            self._send(self._next)
            self._at[self._next] = self._last = now
            self._next += 1
        if self._next <= burst.count:
            return self._begun + (self._next - 1) * burst.interval_ms / 1000
        return self._after_the_last(now, answered)

    def _after_the_last(self, now: float, answered: Set[int]) -> float | None:
        """Repeat SYNs that have no answer, once; then wait for what is still to come."""
        waiting = self.sent - answered
        if not waiting:
            return None
        burst, due = self._burst, []
        for number in sorted(waiting & self._at.keys()) if burst.repeat_ms else ():
            at = self._at[number] + burst.repeat_ms / 1000
            if at > now:
                due.append(at)
                continue
            del self._at[number]
            self._send(number)
            self.repeated += 1
            self._last = now
        if due:
            return min(due)
        ends = self._last + burst.wait_ms / 1000
        return ends if now < ends else None

    def _send(self, number: int) -> None:
        assert self._raw is not None
        try:
            self._raw.sendto(self._packets[number - 1], (self._burst.destination, 0))
            self.sent.add(number)
        except OSError as error:
            self.errno = error.errno or errno.EIO

    @property
    def refused(self) -> str:
        """What the kernel said to packets that it did not take."""
        return f"{errno.errorcode.get(self.errno, self.errno)}: {os.strerror(self.errno)}" if self.errno else ""

    def close(self) -> None:
        """Close all sockets."""
        for sock in (*self._held, *([self._raw] if self._raw is not None else ())):
            sock.close()
        self._held.clear()
        self._raw = None
