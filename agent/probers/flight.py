"""A steady probe on its way, and what its lane and the engine say to each other."""

from __future__ import annotations

from typing import Protocol

from model.probes import Task
from model.words import Outcome


class Flight:
    """One probe that has been sent and not been answered. Times: `sent_ns` wall clock, the others monotonic seconds.

    Mutable, and a plain slotted class, since one is made for every probe.
    """

    __slots__ = ("deadline", "extra", "late_ms", "number", "runner", "sent", "sent_ns", "suspected", "turn")

    def __init__(self, runner: Runner, number: int, turn: int, sent: float, late_ms: int, extra: bool) -> None:
        self.runner = runner
        self.number = number
        self.turn = turn
        self.sent = sent
        self.sent_ns = 0
        self.deadline = sent + runner.task.timeout_ms / 1000
        self.late_ms = late_ms
        self.extra = extra
        self.suspected = False


class Runner(Protocol):
    """What a lane needs to know of a task that runs; `failing` is None until something was measured."""

    task: Task
    failing: bool | None


class Hub(Protocol):
    """What a lane asks of the engine."""

    flights: dict[int, Flight]
    boot: bytes

    def watch(self, fd: int, lane: Lane) -> None:
        """Call the lane's `ready` when the descriptor has something to read."""
        ...

    def unwatch(self, fd: int) -> None:
        """No longer."""
        ...

    def settle(self, flight: Flight, outcome: Outcome, rtt_us: int, detail: str) -> None:
        """The flight has come to its end; not called twice for one."""
        ...


class Lane(Protocol):
    """The sockets of one method in one namespace and family."""

    def launch(self, flight: Flight) -> None:
        """Send, without waiting. Raises OSError."""
        ...

    def ready(self, fd: int, *, errors: bool) -> None:
        """Take everything that has arrived at one of its sockets; `errors`: its error queue is not empty."""
        ...

    def close(self) -> None:
        """Close the sockets; flights under way are the engine's."""
        ...
