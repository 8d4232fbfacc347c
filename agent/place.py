"""A vantage as the agent holds it: its namespace, its lanes, sockets kept ready in it.

Must not look for namespaces itself (`netns.find` does, in a thread): it is told what was found, and notices loss.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from socket import socket as plain_socket
from typing import Final

from agent import resolvconf
from agent.netns import OWN, Found, NamespaceError, call_in
from agent.probers.flight import Hub
from agent.probers.lanes import LANES, DnsLane, IcmpLane, UdpLane
from model.facts import Resolver
from model.probes import Vantage
from model.words import Method

_READY: Final = 4
_RESOLVER_S: Final = 30.0
AnyLane = UdpLane | IcmpLane | DnsLane


class Place:
    """Where probes of one vantage stand. `error` says why none can be sent; it is empty while `found` is set."""

    def __init__(self, vantage: Vantage, hub: Hub) -> None:
        self.vantage = vantage
        self.found: Found | None = None
        self.error = "not looked for yet"
        self.next_try = 0.0
        self.wait_s = 1.0
        self._hub = hub
        self._lanes: dict[tuple[Method, int], AnyLane] = {}
        self._ready: dict[tuple[int, int, int], list[plain_socket]] = {}
        self._resolver: tuple[float, Resolver] | None = None

    def enter(self, found: Found) -> None:
        """Take a namespace that was found."""
        self.leave("")
        self.found = found
        self.wait_s = 1.0

    def leave(self, why: str) -> None:
        """Close all sockets, which also lets go of a namespace that has been removed."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        for socks in self._ready.values():
            for sock in socks:
                sock.close()
        self._ready.clear()
        self._resolver = None
        self.found = None
        self.error = why

    def lane(self, method: Method, family: int) -> AnyLane:
        """The lane of a method, its sockets opened at first use. Raises OSError."""
        lane = self._lanes.get((method, family))
        if lane is None:
            lane = self._lanes[method, family] = LANES[method](self._hub, family, self._open_in)
        return lane

    def socket(self, family: int, kind: int, protocol: int = 0) -> plain_socket:
        """A non-blocking socket of the namespace; a few are made at once and kept ready. Raises OSError."""
        if self.found is None:
            raise OSError(errno.ESTALE, self.error)
        count = 1 if self.found.path == OWN else _READY
        ready = self._ready.setdefault((family, kind, protocol), [])
        if not ready:
            ready.extend(self._open_in(lambda: [plain_socket(family, kind, protocol) for _ in range(count)]))
        sock = ready.pop()
        sock.setblocking(False)
        return sock

    def resolver(self) -> Resolver:
        """The namespace's resolv.conf, read anew every 30 s; without servers where there is none."""
        now = time.monotonic()
        if self._resolver is None or now - self._resolver[0] > _RESOLVER_S:
            self._resolver = (now, resolvconf.or_empty(self.found.path) if self.found else Resolver())
        return self._resolver[1]

    def _open_in(self, function: Callable[[], list[plain_socket]]) -> list[plain_socket]:
        if self.found is None:
            raise OSError(errno.ESTALE, self.error)
        try:
            return call_in(self.found.path, function)
        except NamespaceError as error:
            raise OSError(errno.ESTALE, str(error)) from None
