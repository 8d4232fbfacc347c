"""Watches for the packets of a burst at every device of several network namespaces, and counts them.

It listens, with a filter in the kernel, and changes nothing. In each namespace one packet socket sees every device, and
one raw socket what the kernel hands up to sockets: a packet that came in at the last device and is not seen there was
dropped on its way through the host's own INPUT.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final

from agent.wire.mark import ERROR, PROTOCOLS, REQUEST, Sighting, family_of, program, read
from model.trace import MAX_KEPT, SNAP, Kept, Mark, Seen

ETH_P_ALL: Final = 0x0003
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33
SO_TIMESTAMPNS: Final = 35
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
PACKET_OUTGOING: Final = 4
BUFFER: Final = 8 << 20
STAMP: Final = struct.Struct("=qq")
SOCKET: Final = "socket"
MOST_KINDS: Final = 512
AT_ONCE: Final = 256


@dataclass(slots=True)
class _Tally:
    """What was seen of one kind of packet at one device."""

    bits: int = 0
    packets: int = 0
    highest: int = 0
    resets: int = 0
    repeated: int = 0
    reordered: int = 0
    at_ns: dict[int, int] = field(default_factory=dict)


_Kind = tuple[int, str, str, str, str, str, str, str]


class Watch:
    """Sockets of all namespaces, and what they have seen. `answered` are the numbers that came back to the first one's
    sockets, errors included.
    """

    def __init__(self, mark: Mark, vxlan_ports: frozenset[int], keep: int) -> None:
        self._mark = mark
        self._ports = vxlan_ports
        self._keep = min(keep, MAX_KEPT)
        self._sockets: dict[int, tuple[int, socket.socket, bool]] = {}
        self._tallies: dict[_Kind, _Tally] = {}
        self._kept: list[Kept] = []
        self._missed = 0
        self.answered: set[int] = set()

    def open(self, vantage: int) -> None:
        """Begin to watch the caller's namespace. Raises OSError, without CAP_NET_RAW for one; nothing is left open."""
        opened: list[socket.socket] = []
        try:
            opened.append(self._packet_socket())
            opened.append(self._raw_socket())
        except OSError:
            for sock in opened:
                sock.close()
            raise
        for sock in opened:
            self._sockets[sock.fileno()] = (vantage, sock, sock.family == socket.AF_PACKET)

    def _packet_socket(self) -> socket.socket:
        # Protocol 0: nothing arrives before the filter is in place.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            self._prepare(sock, program(self._mark, SNAP))
            _bind(sock, struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(ETH_P_ALL), 0, 0, 0, 0, b""))
        except OSError:
            sock.close()
            raise
        return sock

    def _raw_socket(self) -> socket.socket:
        sock = socket.socket(family_of(self._mark), socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOLS[self._protocol])
        try:
            # The filter of a raw socket sees a packet of IPv4 from its IP header on, of IPv6 from behind it.
            self._prepare(sock, program(self._mark, SNAP, headless=self._mark.family == 6))
        except OSError:
            sock.close()
            raise
        return sock

    @property
    def _protocol(self) -> str:
        return self._mark.protocol

    def _prepare(self, sock: socket.socket, wanted: bytes) -> None:
        kept = ctypes.create_string_buffer(wanted)
        header = struct.pack("@HP", len(wanted) // 8, ctypes.addressof(kept))
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def filenos(self) -> tuple[int, ...]:
        """What to poll."""
        return tuple(self._sockets)

    def take(self, fileno: int) -> bool:
        """Reads what waits at a socket, a bounded part of it; whether there may be more."""
        vantage, sock, is_packet = self._sockets[fileno]
        for _ in range(AT_ONCE):
            try:
                data, ancillary, _, address = sock.recvmsg(SNAP, 64)
            except BlockingIOError:
                return False
            except OSError:
                continue  # a device went down: the error is told once, and the socket goes on
            at_ns = _stamp(ancillary) or time.time_ns()
            if is_packet:
                direction = "out" if address[2] == PACKET_OUTGOING else "in"
                self._seen(vantage, str(address[0]), direction, data, at_ns)
            else:
                self._delivered(vantage, data, address, at_ns)
        return True

    def _seen(self, vantage: int, device: str, direction: str, data: bytes, at_ns: int) -> None:
        sighting = read(self._mark, self._ports, data)
        if sighting is None:
            return
        self._count(vantage, device, direction, sighting, at_ns)
        if vantage == 0 and sighting.way == ERROR and direction == "in":
            self.answered.add(sighting.number)
        if len(self._kept) < self._keep:
            length = _length(data)
            self._kept.append(
                Kept(vantage, device, direction, sighting.way, sighting.number, at_ns, length, data[:length])
            )

    def _delivered(self, vantage: int, data: bytes, address: tuple[str, int], at_ns: int) -> None:
        if self._mark.family == 6:
            # A raw socket of IPv6 gives the segment alone: a header for it, with the sender that it names.
            header = struct.pack("!IHBB", 6 << 28, len(data), PROTOCOLS[self._protocol], 64)
            data = header + socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0]) + bytes(16) + data
        sighting = read(self._mark, frozenset(), data)
        if sighting is None:
            return
        self._count(vantage, SOCKET, "in", sighting, at_ns)
        if vantage == 0 and sighting.way != REQUEST:
            self.answered.add(sighting.number)

    def _count(self, vantage: int, device: str, direction: str, found: Sighting, at_ns: int) -> None:
        destination = "" if device == SOCKET and self._mark.family == 6 else found.destination
        kind = (vantage, device, direction, found.way, found.source, destination, found.outer, found.note)
        tally = self._tallies.get(kind)
        if tally is None:
            if len(self._tallies) >= MOST_KINDS:
                self._missed += 1
                return
            tally = self._tallies[kind] = _Tally()
        tally.packets += 1
        tally.resets += found.reset
        bit = 1 << found.number
        if tally.bits & bit:
            tally.repeated += 1
            return
        tally.bits |= bit
        tally.reordered += found.number < tally.highest
        tally.highest = max(tally.highest, found.number)
        tally.at_ns[found.number] = at_ns

    def result(self) -> tuple[tuple[Seen, ...], tuple[Kept, ...], int]:
        """What was seen, in the order of the way on this node; the packets kept; how many were missed."""
        missed = self._missed
        for _, sock, is_packet in self._sockets.values():
            if is_packet:
                missed += int.from_bytes(sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)[4:8], sys.byteorder)
        first: dict[int, int] = {}
        for tally in self._tallies.values():
            for number, at_ns in tally.at_ns.items():
                first[number] = min(at_ns, first.get(number, at_ns))
        found = [
            Seen(
                vantage=vantage,
                device=device,
                direction=direction,
                way=way,
                source=source,
                destination=destination,
                outer=outer,
                note=note,
                numbers=f"{tally.bits:x}",
                packets=tally.packets,
                after_ns=median_low(at_ns - first[number] for number, at_ns in tally.at_ns.items()),
                resets=tally.resets,
                repeated=tally.repeated,
                reordered=tally.reordered,
            )
            for (vantage, device, direction, way, source, destination, outer, note), tally in self._tallies.items()
        ]
        return tuple(sorted(found, key=lambda one: (one.after_ns, one.device == SOCKET))), tuple(self._kept), missed

    def close(self) -> None:
        """Close all sockets."""
        for _, sock, _ in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _bind(sock: socket.socket, address: bytes) -> None:
    """To all devices, by hand: Python's bind() wants the name of one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(sock.fileno(), address, len(address)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = STAMP.unpack_from(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0


def _length(data: bytes) -> int:
    """What the IP header says; a frame may have been padded by the link."""
    if data[0] >> 4 == 4:
        return int.from_bytes(data[2:4], "big")
    return 40 + int.from_bytes(data[4:6], "big")
