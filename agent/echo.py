"""The host's echo responder, for probes between nodes: UDP echo and TCP accept on the node's addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

from agent.endpoint import answer_datagrams

_IP_FREEBIND: Final = 15
_RETRY_S: Final = 5.0
IDLE_S: Final = 5.0
MAX_CONNECTIONS: Final = 256


def listen(address: str, kind: int, port: int) -> socket.socket:
    """A bound, non-blocking socket; the address may come to the host later. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


class Echo:
    """Answers on one port of the node's addresses until `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._open: dict[socket.socket, asyncio.TimerHandle] = {}

    def start(self, addresses: Sequence[str], port: int) -> None:
        """Begin to answer. Raises OSError where a port is taken; nothing is left open then."""
        try:
            for address in addresses:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    self._sockets.append(listen(address, kind, port))
        except OSError:
            self.close()
            raise
        for sock in self._sockets:
            if sock.type == socket.SOCK_DGRAM:
                self._loop.add_reader(sock.fileno(), answer_datagrams, sock)
            else:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def close(self) -> None:
        """Close everything."""
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        for sock in list(self._open):
            self._drop(sock)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                sock, _peer = listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            if len(self._open) >= MAX_CONNECTIONS:
                self._drop(next(iter(self._open)))
            self._open[sock] = self._loop.call_later(IDLE_S, self._drop, sock)
            self._loop.add_reader(sock.fileno(), self._drop, sock)

    def _drop(self, sock: socket.socket) -> None:
        """Whatever comes on a connection, its end or a word, ends it: it was opened to be opened."""
        timer = self._open.pop(sock, None)
        if timer is None:
            return
        timer.cancel()
        with contextlib.suppress(OSError):
            self._loop.remove_reader(sock.fileno())
        sock.close()
