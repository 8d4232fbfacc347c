"""Counts the packets of one flow at every device of this network namespace, for a while.

It listens, with a filter in the kernel, and changes nothing. A packet inside VXLAN or IP-in-IP is counted at the device
where it was seen so, with the tunnel's ends, and again where it comes out.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from agent.wire.bpf import PROTOCOLS, TUNNELS, UDP, flow_filter
from model.facts import TapCount, TapQuery

ETH_P_ALL: Final = 0x0003
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33
PACKET_OUTGOING: Final = 4
VXLAN_PORTS: Final = (8472, 4789)
SNAP: Final = 256
BUFFER: Final = 8 << 20
MOST_MS: Final = 60_000


class Header(NamedTuple):
    """What is looked at in an IP packet: addresses, protocol, where its payload begins."""

    source: bytes
    destination: bytes
    protocol: int
    payload: int


class Tap:
    """Listens from the moment it is made. Raises OSError without CAP_NET_RAW, ValueError for a malformed query."""

    def __init__(self, query: TapQuery, vxlan_ports: Sequence[int] = ()) -> None:
        if query.protocol not in PROTOCOLS:
            raise ValueError(f"tap: unknown protocol {query.protocol!r}")
        self._query = query
        self._ports = tuple(dict.fromkeys((*VXLAN_PORTS, *vxlan_ports)))
        try:
            self._ends = _packed(query.source), _packed(query.destination)
            program = flow_filter(query.family, query.source, query.destination, query.protocol, self._ports, SNAP)
        except OSError:
            raise ValueError(f"tap: not addresses: {query.source!r}, {query.destination!r}") from None
        # Protocol 0: nothing arrives before the filter is in place.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
        try:
            self._attach(program)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            except OSError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self._bind()
        except OSError:
            self._socket.close()
            raise
        self._began = time.monotonic_ns()

    def _attach(self, program: bytes) -> None:
        kept = ctypes.create_string_buffer(program)
        header = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)

    def _bind(self) -> None:
        """To all devices, by hand: Python's bind() wants the name of one."""
        everywhere = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(ETH_P_ALL), 0, 0, 0, 0, b"")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.bind(self._socket.fileno(), everywhere, len(everywhere)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def count(self) -> tuple[TapCount, ...]:
        """Counts until the query's duration is over, then closes. At most a minute."""
        ends = self._began + min(self._query.duration_ms, MOST_MS) * 1_000_000
        found: dict[tuple[str, str, bool, str], list[int]] = {}
        with self._socket:
            while (left := ends - time.monotonic_ns()) > 0:
                if not select.select([self._socket], [], [], left / 1e9)[0]:
                    continue
                data, (device, _, kind, *_) = self._socket.recvfrom(SNAP)
                after_us = (time.monotonic_ns() - self._began) // 1000
                for reply, outer in self._flow(data):
                    key = (device, "out" if kind == PACKET_OUTGOING else "in", reply, outer)
                    found.setdefault(key, [0, after_us])[0] += 1
        return tuple(
            TapCount(device=device, direction=direction, reply=reply, outer=outer, packets=packets, first_us=first)
            for (device, direction, reply, outer), (packets, first) in sorted(found.items(), key=lambda one: one[1][1])
        )

    def _flow(self, data: bytes) -> Iterator[tuple[bool, str]]:
        """Whether the packet, or the one inside it, is the flow's: its way and its outer addresses."""
        header = parse(data)
        if header is None:
            return
        reply = self._way(header, data)
        if reply is not None:
            yield reply, ""
            return
        inner = self._inside(header, data)
        within = parse(inner) if inner else None
        if within is not None:
            reply = self._way(within, inner)
            if reply is not None:
                yield reply, f"{_spelled(header.source)}>{_spelled(header.destination)}"

    def _inside(self, header: Header, data: bytes) -> bytes:
        if header.protocol in TUNNELS:
            return data[header.payload :]
        if (
            header.protocol != UDP
            or int.from_bytes(data[header.payload + 2 : header.payload + 4], "big") not in self._ports
        ):
            return b""
        frame = data[header.payload + 16 :]
        return frame[18:] if frame[12:14] == b"\x81\x00" else frame[14:]

    def _way(self, header: Header, data: bytes) -> bool | None:
        """False for the flow's own way, True for the reply's, None for another flow's packet."""
        source, destination = self._ends
        if header.protocol != PROTOCOLS[self._query.protocol]:
            return None
        ports = self._port_pair(header, data)
        if header.destination == destination and (not source or header.source == source):
            return False if self._has_ports(*ports) else None
        if header.source == destination and (not source or header.destination == source):
            return True if self._has_ports(*reversed(ports)) else None
        return None

    def _port_pair(self, header: Header, data: bytes) -> tuple[int, int]:
        at = header.payload
        if self._query.protocol in {"icmp", "icmpv6"}:
            identifier = int.from_bytes(data[at + 4 : at + 6], "big")
            return identifier, identifier
        return int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")

    def _has_ports(self, source: int, destination: int) -> bool:
        wants_source, wants = self._query.source_port, self._query.port
        if self._query.protocol in {"icmp", "icmpv6"}:
            wants = 0
        return (not wants or destination == wants) and (not wants_source or source == wants_source)


def parse(data: bytes) -> Header | None:
    """The IP header of a packet; None if it is none. IPv6 extension headers are not followed."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        return Header(data[12:16], data[16:20], data[9], (data[0] & 15) * 4)
    if len(data) >= 40 and data[0] >> 4 == 6:
        return Header(data[8:24], data[24:40], data[6], 40)
    return None


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) if address else b""


def _spelled(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
