"""A journal of what changes in the host's network: the kernel tells it, a filter in the kernel keeps the noise away.

Resident on every node, so at rest it costs nothing: no polling, two raw netlink sockets, a bounded list. What the
controller has for certain is forgotten. Sources: rtnetlink(7), linux/netconf.h, nf_tables_gen_notify().
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agent.journal_words import Words
from agent.log import log
from model.journal import Change

# Time, message type, body, whether it answers a question of ours.
_Take = Callable[[int, int, bytes, bool], Change | None]
MAX_CHANGES: Final = 256
MAX_TOLD: Final = 64
NETLINK_NETFILTER: Final = 12
SOL_NETLINK, ADD_MEMBERSHIP, SO_ATTACH_FILTER, SO_RCVBUFFORCE = 270, 1, 26, 33
# Room for what comes while the loop is busy; the kernel takes it only when it is needed.
BUFFER: Final = 1 << 20
# Links, addresses, routes and rules of both families, neighbours, settings of devices (RTNLGRP_*).
ROUTE_GROUPS: Final = (1, 3, 5, 7, 8, 9, 11, 19, 24, 25)
NFTABLES_GROUP: Final = 7
RTM_GETLINK: Final = 18
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST_DUMP: Final = 0x301
# Neighbours are told all the time; of these, entries of bridges (family 7) with NUD_NOARP or NUD_PERMANENT and others
# with NUD_PERMANENT are wanted. A new generation of nftables comes alone, behind all that made it.
_BYTE, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x30, 0x15, 0x45, 0x06
_NEIGHBOUR_FILTER: Final = (
    (_BYTE, 0, 0, 4),
    (_JUMP_EQUAL, 1, 0, 28),
    (_JUMP_EQUAL, 0, 6, 29),
    (_BYTE, 0, 0, 16),
    (_JUMP_EQUAL, 2, 0, 7),
    (_BYTE, 0, 0, 24),
    (_JUMP_SET, 2, 3, 0x80),
    (_BYTE, 0, 0, 24),
    (_JUMP_SET, 0, 1, 0xC0),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)
_GENERATION_FILTER: Final = (
    (_BYTE, 0, 0, 4),
    (_JUMP_EQUAL, 0, 3, 15),
    (_BYTE, 0, 0, 5),
    (_JUMP_EQUAL, 0, 1, 10),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)


class Journal:
    """Notes changes of the caller's own network namespace. Needs a running loop; `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self._words = Words()
        self._sockets: list[socket.socket] = []
        self.lost = 0
        self._open(socket.NETLINK_ROUTE, ROUTE_GROUPS, _NEIGHBOUR_FILTER, self._words.message)
        self._open(NETLINK_NETFILTER, (NFTABLES_GROUP,), _GENERATION_FILTER, self._words.generation)
        self._ask_for_links()

    def close(self) -> None:
        """Stop noting."""
        for one in self._sockets:
            self._loop.remove_reader(one.fileno())
            one.close()
        self._sockets.clear()

    @property
    def has_changes(self) -> bool:
        """Whether something has happened that was not delivered yet."""
        return bool(self._changes)

    def changes(self) -> tuple[Change, ...]:
        """What has happened and was not delivered yet, oldest first, at most MAX_TOLD at a time."""
        return tuple(self._changes[at] for at in range(min(MAX_TOLD, len(self._changes))))

    def delivered(self, changes: tuple[Change, ...]) -> None:
        """Forget changes that the controller has."""
        for change in changes:
            if self._changes and self._changes[0] == change:
                self._changes.popleft()

    def _open(self, protocol: int, groups: tuple[int, ...], rules: tuple[tuple[int, ...], ...], take: _Take) -> None:
        """A socket on these groups. Where the right to listen is missing, the rest of the journal goes on without."""
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        try:
            with suppress(PermissionError):
                made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            made.bind((0, 0))
            attach(made, rules)
            for group in groups:
                made.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
        except OSError as error:
            made.close()
            log("warning", "changes are not noted", protocol=protocol, reason=error.strerror)
            return
        self._sockets.append(made)
        self._loop.add_reader(made.fileno(), self._read, made, take)

    def _ask_for_links(self) -> None:
        """How the devices are now, so that a change is told from what was."""
        body = struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0)
        for one in self._sockets[:1]:
            one.send(_HEADER.pack(_HEADER.size + len(body), RTM_GETLINK, _REQUEST_DUMP, 1, 0) + body)

    def _read(self, from_: socket.socket, take: _Take) -> None:
        for _ in range(64):
            try:
                data = from_.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: more came than there was room for; how many, nobody knows.
                self.lost += 1
                continue
            self._take(data, take)

    def _take(self, data: bytes, take: _Take) -> None:
        at_ms = time.time_ns() // 1_000_000
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, _flags, sequence, _pid = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                return
            body = data[offset + _HEADER.size : offset + length]
            change = take(at_ms, kind, body, sequence == 1)
            if change is not None:
                if len(self._changes) == MAX_CHANGES:
                    self.lost += 1
                self._changes.append(change)
            offset += (length + 3) & ~3


def attach(made: socket.socket, rules: tuple[tuple[int, ...], ...]) -> None:
    """Puts a classic BPF program before a socket."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(rules), ctypes.addressof(program)))
