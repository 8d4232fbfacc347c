"""One probe as a generator, and the driver that runs many of them at once over plain sockets.

A probe yields what it waits for and is told whether that came in time; it must close its own sockets, on every way
out. Needs neither threads nor asyncio, so the resident agent and the child for probes on demand run the same probes.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
import time
from collections.abc import Callable, Generator
from typing import Final, NamedTuple, Protocol

from model.facts import Resolver
from model.probes import Attempt

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
MAX_CONCURRENT: Final = 512


class Wait(NamedTuple):
    """Wake me when the socket is ready for `events`, or at `deadline` (monotonic seconds)."""

    fd: int
    events: int
    deadline: float


Probe = Generator[Wait, bool, Attempt]


class Ground(Protocol):
    """Where a probe stands: it opens sockets there, and resolves names as a process there would."""

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket of that namespace. Raises OSError, or NamespaceError."""
        ...

    def resolver(self) -> Resolver:
        """Name servers and search list of that namespace."""
        ...


def drive(make: Callable[[int], Probe], count: int, interval_s: float, give_up: float) -> list[Attempt]:
    """Run `count` probes, each started `interval_s` after the one before; those not ended by `give_up` are left out.

    Returns the attempts in the order in which they were started. At most MAX_CONCURRENT run at once: starting waits.
    """
    driver = Driver()
    done: dict[int, Attempt] = {}
    start = time.monotonic()
    begun = 0
    try:
        while len(done) < count:
            now = time.monotonic()
            if now >= give_up:
                break
            while begun < count and now >= start + begun * interval_s and driver.running < MAX_CONCURRENT:
                driver.start(make(begun), lambda attempt, number=begun: done.__setitem__(number, attempt))  # type: ignore[misc]
                begun += 1
            wake = give_up
            if begun < count and driver.running < MAX_CONCURRENT:
                wake = min(wake, start + begun * interval_s)
            driver.step(wake)
    finally:
        driver.close()
    return [done[number] for number in sorted(done)]


class Driver:
    """Runs probes on an epoll of its own. `done` of each is called once with its attempt, unless it is closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[Probe, Callable[[Attempt], None], Wait]] = {}
        self._deadlines: list[tuple[float, int, Wait]] = []

    @property
    def running(self) -> int:
        """How many probes have not ended."""
        return len(self._waiting)

    def fileno(self) -> int:
        """Readable when a probe may go on."""
        return self._epoll.fileno()

    def start(self, probe: Probe, done: Callable[[Attempt], None]) -> None:
        """Run a probe up to the first thing it waits for."""
        self._advance(probe, done, None)

    def step(self, until: float) -> None:
        """Wait for the next event or deadline, at the longest until `until` (monotonic), and carry on from there."""
        now = time.monotonic()
        wake = min(until, self._deadlines[0][0]) if self._deadlines else until
        for fd, _events in self._epoll.poll(max(0.0, wake - now), 256):
            self._resume(fd, True)
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, fd, wait = heapq.heappop(self._deadlines)
            entry = self._waiting.get(fd)
            if entry is not None and entry[2] is wait:
                self._resume(fd, False)

    def next_deadline(self) -> float:
        """When the earliest waiting probe runs out of time (monotonic); infinity where none waits."""
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def close(self) -> None:
        """End all probes where they stand; their `done` is not called."""
        for probe, _done, _wait in self._waiting.values():
            probe.close()
        self._waiting.clear()
        self._epoll.close()

    def _resume(self, fd: int, ready: bool) -> None:
        entry = self._waiting.pop(fd, None)
        if entry is None:
            return
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)
        self._advance(entry[0], entry[1], ready)

    def _advance(self, probe: Probe, done: Callable[[Attempt], None], ready: bool | None) -> None:
        try:
            wait = next(probe) if ready is None else probe.send(ready)
        except StopIteration as stop:
            done(stop.value)
            return
        self._epoll.register(wait.fd, wait.events)
        self._waiting[wait.fd] = (probe, done, wait)
        heapq.heappush(self._deadlines, (wait.deadline, wait.fd, wait))
