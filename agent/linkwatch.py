"""A journal of the node's uplink: when its device went down or up, told once the controller can be reached again.

A raw rtnetlink socket, since the resident agent has no room for a library (linux/rtnetlink.h, linux/if_link.h).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from typing import Final

from agent.journal_words import attributes
from agent.log import log
from agent.probers.lanes import same_address
from model.protocol import LinkEvent

MAX_EVENTS: Final = 64
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 17, 18, 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_RTMGRP_LINK: Final = 1
_IFLA_IFNAME: Final = 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP, _IFF_LOWER_UP = 1, 0x10000
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BBHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")


class LinkWatch:
    """Watches the device that holds one of the node's addresses. The host's namespace is the caller's."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses
        self._loop = asyncio.get_running_loop()
        self._events: deque[LinkEvent] = deque(maxlen=MAX_EVENTS)
        self._index = 0
        self._state: tuple[bool, bool] | None = None
        self.device = ""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _RTMGRP_LINK))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._read)
        self.look_for_device()

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def events(self) -> tuple[LinkEvent, ...]:
        """What has happened and was not delivered yet, oldest first."""
        return tuple(self._events)

    def delivered(self, events: tuple[LinkEvent, ...]) -> None:
        """Forget events that the controller has."""
        for event in events:
            if self._events and self._events[0] == event:
                self._events.popleft()

    def look_for_device(self) -> None:
        """Ask which device holds the address, where that is not known yet, and then how it is."""
        if not self._index:
            self._dump(_RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))

    def _dump(self, kind: int, body: bytes) -> None:
        length = _HEADER.size + len(body)
        request = _HEADER.pack(length, kind, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body
        try:
            self._socket.send(request)
        except OSError as error:
            log("warning", "cannot ask for links", reason=error.strerror)

    def _read(self) -> None:
        for _ in range(64):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: events were lost, so ask how things stand now.
                self._dump(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0, 0))
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, _flags, _sequence, _pid = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                return
            body = data[offset + _HEADER.size : offset + length]
            if kind == _RTM_NEWADDR:
                self._take_address(body)
            elif kind in (_RTM_NEWLINK, _RTM_DELLINK):
                self._take_link(body, gone=kind == _RTM_DELLINK)
            offset += (length + 3) & ~3

    def _take_address(self, body: bytes) -> None:
        family, _prefix, _flags, _scope, index = _ADDRESS.unpack_from(body)
        found = attributes(body[_ADDRESS.size :])
        raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if self._index or raw is None or len(raw) != (16 if family == socket.AF_INET6 else 4):
            return
        address = socket.inet_ntop(socket.AF_INET6 if family == socket.AF_INET6 else socket.AF_INET, raw)
        if any(same_address(address, one) for one in self._addresses):
            self._index = int(index)
            self._dump(_RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0, 0))

    def _take_link(self, body: bytes, gone: bool) -> None:
        family, _pad, _type, index, flags, _change = _LINK.unpack_from(body)
        if family == socket.AF_BRIDGE:
            # A port's view of itself; a removal from the bridge is no removal of the device.
            return
        name = attributes(body[_LINK.size :]).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("ascii", "replace")
        if index != self._index:
            if not self.device or name != self.device or gone:
                return
            # The device was made anew under its old name.
            self._index = int(index)
        self.device = name or self.device
        state = (False, False) if gone else (bool(flags & _IFF_UP), bool(flags & _IFF_LOWER_UP))
        before, self._state = self._state, state
        if before is None or before == state:
            return
        log("warning", "uplink has changed", device=self.device, up=state[0], carrier=state[1])
        self._events.append(
            LinkEvent(at_ms=time.time_ns() // 1_000_000, device=self.device, up=state[0], carrier=state[1])
        )
