"""Nfnetlink in the few messages that a rule trace needs: transactions of nf_tables, single requests, and events.

What is sent is built by `table` and `packetlog`. Sources: linux/netfilter/nfnetlink.h, net/netfilter/nfnetlink.c.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from agent.host.netlink import (
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    NetlinkError,
    attribute,
)

NETLINK_NETFILTER: Final = 12
NETLINK_ADD_MEMBERSHIP: Final = 1
NLM_F_ACK: Final = 0x4
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLA_F_NESTED: Final = 0x8000
SUBSYSTEM_ULOG: Final = 4
SUBSYSTEM_NFTABLES: Final = 10
BATCH_BEGIN: Final = 16
BATCH_END: Final = 17
SO_RCVBUFFORCE: Final = 33
EVENT_BUFFER: Final = 4 << 20
DEADLINE_S: Final = 5.0
FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
NUMBERS: Final = {name: number for number, name in FAMILIES.items()}

_HEADER: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct("!BBH")
_ERRNO: Final = struct.Struct("=i")
_ATTRIBUTE: Final = struct.Struct("=HH")


class Request(NamedTuple):
    """One message: number within its subsystem, flags besides REQUEST and ACK, nf family, attributes."""

    kind: int
    flags: int
    family: int
    body: bytes


class Received(NamedTuple):
    """One message from the kernel: subsystem << 8 | number, nf family, attributes unparsed."""

    kind: int
    family: int
    body: bytes


def number(kind: int, value: int, size: int = 4) -> bytes:
    """An attribute that is a number: netfilter's are big-endian, and signed ones come as their two's complement."""
    return attribute(kind, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "big"))


def name(kind: int, value: str) -> bytes:
    """An attribute that is a C string."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def pairs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """All attributes in their order, for lists of which every element has the same number."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


class Nfnetlink:
    """A socket to netfilter in the namespace of the thread that makes it. Not for several threads.

    With `group` it is for events alone: read it by `events`. Raises OSError without CAP_NET_ADMIN.
    """

    def __init__(self, group: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(DEADLINE_S)
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, EVENT_BUFFER)
            if group:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0

    def fileno(self) -> int:
        """For select()."""
        return self._socket.fileno()

    def close(self) -> None:
        """Also gives back what the kernel ties to the socket: owned tables, the log group."""
        self._socket.close()

    def transact(self, requests: Sequence[Request]) -> None:
        """All of them or none, in nf_tables. Raises NetlinkError with the first errno, TimeoutError."""
        data = [self._framed(BATCH_BEGIN, 0, 0, b"", SUBSYSTEM_NFTABLES)]
        due = set()
        for request in requests:
            data.append(self._framed(SUBSYSTEM_NFTABLES << 8 | request.kind, request.flags | NLM_F_ACK, *request[2:]))
            due.add(self._sequence)
        data.append(self._framed(BATCH_END, 0, 0, b"", SUBSYSTEM_NFTABLES))
        self._socket.send(b"".join(data))
        first = 0
        while due:
            for kind, sequence, body in self._read():
                if kind == NLMSG_ERROR:
                    first = first or -_ERRNO.unpack_from(body)[0]
                    # An error of the batch as such bears the number of its first message.
                    due = due - {sequence} if sequence in due else set()
        if first:
            raise NetlinkError(first, os.strerror(first))

    def ask(self, subsystem: int, request: Request, resource: int = 0) -> None:
        """One request that is only acknowledged. Raises NetlinkError, TimeoutError."""
        kind = subsystem << 8 | request.kind
        self._socket.send(self._framed(kind, request.flags | NLM_F_ACK, request.family, request.body, resource))
        while True:
            for answer, sequence, body in self._read():
                if answer == NLMSG_ERROR and sequence == self._sequence:
                    errno = -_ERRNO.unpack_from(body)[0]
                    if errno:
                        raise NetlinkError(errno, os.strerror(errno))
                    return

    def dump(self, request: Request) -> list[Received]:
        """All that nf_tables has of a kind. Raises NetlinkError, TimeoutError."""
        kind = SUBSYSTEM_NFTABLES << 8 | request.kind
        self._socket.send(self._framed(kind, NLM_F_DUMP, request.family, request.body))
        found: list[Received] = []
        while True:
            for answer, sequence, body in self._read():
                if sequence != self._sequence:
                    continue
                if answer in {NLMSG_ERROR, NLMSG_DONE}:
                    errno = -_ERRNO.unpack_from(body)[0] if len(body) >= 4 else 0
                    if errno > 0:
                        raise NetlinkError(errno, os.strerror(errno))
                    return found
                found.append(Received(answer, body[0], body[4:]))

    def events(self) -> list[Received]:
        """What one read gives; empty where nothing waits. Raises OSError ENOBUFS once where events were lost."""
        if not select.select([self._socket], [], [], 0)[0]:
            return []
        data = self._socket.recv(1 << 16)
        return [Received(kind, body[0], body[4:]) for kind, _, body in _split(data) if len(body) >= 4]

    def _framed(self, kind: int, flags: int, family: int, body: bytes, resource: int = 0) -> bytes:
        self._sequence += 1
        whole = _GENERIC.pack(family, 0, resource) + body
        return _HEADER.pack(16 + len(whole), kind, flags | NLM_F_REQUEST, self._sequence, 0) + whole

    def _read(self) -> list[tuple[int, int, bytes]]:
        return list(_split(self._socket.recv(1 << 18)))


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and body of each message."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3
