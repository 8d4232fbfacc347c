"""ICMP echo over raw sockets (RFC 792, RFC 4443); "ping sockets" are closed in fresh namespaces, so raw it is.

A filter in the kernel keeps all but the answers to our own identifier away, or every ping of the host woke us.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from typing import Final

from agent.probers.drive import Ground, Probe
from agent.probers.udp import HEADER, MAX_PAYLOAD, exchange, forbid_fragments, open_connected
from model.ports import UDP_MAGIC
from model.probes import Attempt, ProbeOrder
from model.words import Outcome

ECHO: Final = struct.Struct("!BBHHH")
_SO_ATTACH_FILTER: Final = 26


def checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071) of an even number of octets or an odd one."""
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 2**16 - 1, so the remainder of the whole is that of the sum of its 16-bit words.
    number = int.from_bytes(data, "big")
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


def request(family: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    """An echo request; of ICMPv6 the kernel fills in the checksum."""
    if family == 6:
        return ECHO.pack(128, 0, 0, identifier, sequence) + payload
    packet = ECHO.pack(8, 0, 0, identifier, sequence) + payload
    return ECHO.pack(8, 0, checksum(packet), identifier, sequence) + payload


def echo_payload(family: int, data: bytes) -> bytes:
    """What an echo answer carries (IPv4 raw sockets see the IP header too); empty where it is no echo answer."""
    start = 0 if family == 6 else (data[0] & 15) * 4 if data else 0
    if len(data) < start + ECHO.size or data[start] != (129 if family == 6 else 0):
        return b""
    return data[start + ECHO.size :]


def only_own(sock: socket.socket, family: int, identifier: int) -> None:
    """Let pass only echo answers to `identifier` (classic BPF, net/core/filter.c)."""
    answer = 129 if family == 6 else 0
    load = [(0xB1, 0, 0, 0)] if family != 6 else [(0x01, 0, 0, 0)]  # X = length of the IP header; nothing in IPv6
    program = [
        *load,
        (0x50, 0, 0, 0),  # A = octet at X: type
        (0x15, 0, 3, answer),
        (0x48, 0, 0, 4),  # A = 16 bits at X + 4: identifier
        (0x15, 0, 1, identifier),
        (0x06, 0, 0, 0xFFFFFFFF),
        (0x06, 0, 0, 0),
    ]
    raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(raw)))


def protocol_of(family: int) -> int:
    """Number of ICMP or ICMPv6."""
    return socket.IPPROTO_ICMPV6 if family == 6 else socket.IPPROTO_ICMP


def probe(ground: Ground, order: ProbeOrder, number: int) -> Probe:
    """One echo of `size` octets of payload, with an identifier of its own, given as its source port."""
    opened = open_connected(ground, order, number, socket.SOCK_RAW, protocol_of(order.family))
    if isinstance(opened, Attempt):
        return opened
    try:
        ports = order.source_ports
        identifier = ports[number % len(ports)] if ports else int.from_bytes(os.urandom(2), "big") or 1
        only_own(opened, order.family, identifier)
        forbid_fragments(opened, order.family, order.dont_fragment)
        header = HEADER.pack(UDP_MAGIC, os.urandom(4), number, time.time_ns())
        payload = header[: order.size or None] + bytes(max(0, min(order.size, MAX_PAYLOAD) - len(header)))

        def judge(data: bytes) -> tuple[Outcome, str, tuple[str, ...]] | None:
            return (Outcome.OK, "", ()) if echo_payload(order.family, data) == payload else None

        packet = request(order.family, identifier, number & 0xFFFF, payload)
        deadline = time.monotonic() + order.timeout_ms / 1000
        return (yield from exchange(opened, packet, judge, deadline, identifier))
    finally:
        opened.close()
