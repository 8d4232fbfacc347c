"""Netlink in the few messages that facts need: dumps, and single questions, to rtnetlink and its sisters.

Own code over `socket` and `struct`, since the facts process lives for a tenth of a second and importing pyroute2 costs
that much. It only reads: no message of this module changes anything. Sources: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 1
NLM_F_DUMP: Final = 0x300
NLM_F_DUMP_INTR: Final = 0x10
RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26
RTM_GETNEIGH: Final = 30
RTM_GETRULE: Final = 34
SOL_NETLINK: Final = 270
NETLINK_GET_STRICT_CHK: Final = 12
NLA_TYPE: Final = 0x3FFF
DEADLINE_S: Final = 5.0
DUMP_ATTEMPTS: Final = 4

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERRNO: Final = struct.Struct("=i")

Attributes = dict[int, bytes]


class NetlinkError(OSError):
    """The kernel's own errno as the answer; for routes that is a finding."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message's fixed header (family specific, unparsed) and its attributes."""

    fixed: bytes
    attributes: Attributes


def attributes(data: bytes, offset: int = 0) -> Attributes:
    """The attributes of a message or of a nested attribute, by number without the flag bits."""
    found: Attributes = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & NLA_TYPE] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four octets."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def u32(value: bytes | None, default: int = 0) -> int:
    """A native 32 bit number."""
    return int.from_bytes(value[:4], "little" if _LITTLE else "big") if value else default


def big(value: bytes | None, default: int = 0) -> int:
    """A number in network order, of any length."""
    return int.from_bytes(value, "big") if value else default


def little(value: bytes | None, default: int = 0) -> int:
    """A native number of any length."""
    return int.from_bytes(value, "little" if _LITTLE else "big") if value else default


def text(value: bytes | None) -> str:
    """A C string."""
    return value.split(b"\0", 1)[0].decode(errors="replace") if value else ""


def address(value: bytes | None) -> str:
    """An IPv4 or IPv6 address in text, "" if there is none."""
    if not value or len(value) not in {4, 16}:
        return ""
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


def mac(value: bytes | None) -> str:
    """A link layer address in the usual hexadecimal text."""
    return value.hex(":") if value else ""


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"


class Netlink:
    """A socket to the kernel in the namespace of the thread that makes it. Not for several threads."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if protocol == socket.NETLINK_ROUTE:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.settimeout(DEADLINE_S)
        self._sequence = 0
        self._interrupted = False

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, kind: int, fixed: bytes, *asked: bytes) -> Message:
        """One question, one answer. Raises NetlinkError with the kernel's errno, TimeoutError after the deadline."""
        self._send(kind, NLM_F_REQUEST, fixed + b"".join(asked))
        for message in self._answers(len(fixed)):
            return message
        raise NetlinkError(0, "no answer")

    def dump(self, kind: int, fixed: bytes, *asked: bytes) -> list[Message]:
        """All entries of a table. A dump that the kernel calls inconsistent (changed meanwhile) is taken again."""
        for _ in range(DUMP_ATTEMPTS - 1):
            found, whole = self._dump_once(kind, fixed, asked)
            if whole:
                return found
        return self._dump_once(kind, fixed, asked)[0]

    def scan(self, kind: int, fixed: bytes, *asked: bytes) -> Iterator[Message]:
        """Entries of a table as they come, for tables too large to be kept whole. Who stops early closes the socket."""
        self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, fixed + b"".join(asked))
        return self._answers(len(fixed))

    def _dump_once(self, kind: int, fixed: bytes, asked: tuple[bytes, ...]) -> tuple[list[Message], bool]:
        self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, fixed + b"".join(asked))
        self._interrupted = False
        return list(self._answers(len(fixed))), not self._interrupted

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(16 + len(body), kind, flags, self._sequence, 0) + body)

    def _answers(self, fixed_length: int) -> Iterator[Message]:
        while True:
            data = self._socket.recv(1 << 18)
            offset = 0
            while offset + 16 <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                body = data[offset + 16 : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if flags & NLM_F_DUMP_INTR:
                    self._interrupted = True
                if kind in {NLMSG_ERROR, NLMSG_DONE}:
                    number = -_ERRNO.unpack_from(body)[0] if len(body) >= 4 else 0
                    if number > 0:
                        raise NetlinkError(number, os.strerror(number))
                    return
                yield Message(body[:fixed_length], attributes(body, (fixed_length + 3) & ~3))
