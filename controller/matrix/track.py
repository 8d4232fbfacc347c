"""What one path has shown, and the state that follows. Time is an argument; there is no input or output.

A window of WINDOW results is kept as bits, the newest lowest, since a big cluster has half a million paths. `Track` is
changed in place by its owner alone (`controller.matrix.matrix`); what decides is `state_of`, which only reads.
"""

from __future__ import annotations

from statistics import median_low
from typing import Final

from model.probes import WINDOW, Observation
from model.words import CellState, Outcome

ENOUGH: Final = 10
LOSS: Final = 0.1
LATE_MS: Final = 200
STALE_INTERVALS: Final = 3
STALE_S: Final = 5.0
FAILURES: Final = 2
SUCCESSES: Final = 2
UNLIKELY: Final = 0.001
RTTS: Final = 5
_MASK: Final = (1 << WINDOW) - 1


class Track:
    """The results of one path. Times are the controller's wall clock in seconds.

    `losses` has a bit for each failure among the last `count` results that count. `failing` remembers a fault until it
    has passed, whatever hides it meanwhile. `expected_since`: when what is expected of it last changed, 0 if never.
    `run` counts equal results in a row: positive successes, negative failures.
    """

    __slots__ = (
        "count",
        "detail",
        "ever_ok",
        "expected_since",
        "failing",
        "first_failure_at",
        "interval_s",
        "last_at",
        "last_ok_at",
        "late_ms",
        "losses",
        "observations",
        "outcome",
        "rtts",
        "run",
        "since",
        "starved",
        "state",
        "timeout_ms",
    )

    def __init__(self, interval_s: float, timeout_ms: int, now: float) -> None:
        """A path of which nothing is known."""
        self.interval_s = interval_s
        self.timeout_ms = timeout_ms
        self.state = CellState.UNKNOWN
        self.since = now
        self.expected_since = 0.0
        self.outcome: Outcome | None = None
        self.last_at: float | None = None
        self.last_ok_at: float | None = None
        self.first_failure_at: float | None = None
        self.losses = 0
        self.count = 0
        self.run = 0
        self.observations = 0
        self.rtts: tuple[int, ...] = ()
        self.late_ms = 0
        self.failing = False
        self.starved = False
        self.ever_ok = False
        self.detail = ""

    def take(self, observation: Observation, at: float) -> None:
        """Takes in a result that was made at `at`. One older than the newest counts for nothing: that time is over."""
        if self.last_at is not None and at < self.last_at:
            return
        self.last_at = at
        self.outcome = observation.outcome
        self.late_ms = observation.late_ms
        self.detail = observation.detail
        self.observations += 1
        self.starved = is_starved(observation, self.timeout_ms)
        if observation.outcome is Outcome.OK:
            self._succeeded(observation.rtt_us, at)
        elif observation.outcome is not Outcome.NOT_MEASURED and not self.starved:
            self._failed(at)

    def _succeeded(self, rtt_us: int, at: float) -> None:
        self.run = self.run + 1 if self.run > 0 else 1
        self.losses = (self.losses << 1) & _MASK
        self.count = min(self.count + 1, WINDOW)
        self.rtts = (*self.rtts[1 - RTTS :], rtt_us)
        self.ever_ok = True
        self.last_ok_at = at
        if self.failing and self.run >= SUCCESSES:
            self.failing = False
            self.losses, self.count = without_outage(self.losses, self.count, self.run)
        if not self.failing:
            self.first_failure_at = None
            if self.losses and is_over(self.losses.bit_count(), self.count, self.run):
                self.losses, self.count = 0, self.run

    def _failed(self, at: float) -> None:
        if self.run >= 0:
            self.run = 0
            if not self.failing:
                self.first_failure_at = at
        self.run -= 1
        self.losses = ((self.losses << 1) | 1) & _MASK
        self.count = min(self.count + 1, WINDOW)
        if self.run <= -FAILURES:
            self.failing = True

    def explained(self) -> None:
        """What was lost until now had a cause, and that is mended: the window begins anew with the latest successes."""
        if not self.failing:
            self.losses = 0 if self.run >= 0 else (1 << -self.run) - 1
            self.count = min(self.count, abs(self.run))

    @property
    def loss(self) -> float:
        """The share of the window that failed."""
        return self.losses.bit_count() / self.count if self.count else 0.0

    @property
    def rtt_us(self) -> int:
        """The median of the last RTTS successes."""
        return median_low(self.rtts) if self.rtts else 0

    def stale_at(self) -> float:
        """When the newest result will be too old to stand for the present."""
        return (self.last_at or 0.0) + max(STALE_INTERVALS * self.interval_s, STALE_S)

    def state_of(self, now: float) -> CellState:
        """The state at `now`."""
        if self.last_at is None:
            return CellState.UNKNOWN
        if now > self.stale_at():
            return CellState.STALE
        if self.outcome is Outcome.NOT_MEASURED:
            return CellState.UNKNOWN
        if self.starved:
            return CellState.STARVED
        if self.failing:
            return CellState.FAILING
        if self.run == 0 or (self.run < 0 and not self.ever_ok):
            return CellState.UNKNOWN  # one failure of a path that never worked says nothing yet
        lost = self.losses.bit_count()
        if self.count >= ENOUGH and lost > 1 and lost >= LOSS * self.count:
            return CellState.DEGRADED
        return CellState.OK


def is_starved(observation: Observation, timeout_ms: int) -> bool:
    """Whether a result tells of the agent's own lack of CPU rather than of the network.

    A refusal is an answer, however late; only silence can be the listener's own fault.
    """
    return observation.outcome is Outcome.TIMEOUT and observation.late_ms > min(LATE_MS, timeout_ms / 2)


def is_over(losses: int, count: int, successes: int) -> bool:
    """Whether so many successes, the last of `count` results, would be unlikely if losses went on as they did."""
    before = count - successes
    return before > 0 and (1 - losses / before) ** successes < UNLIKELY


def without_outage(losses: int, count: int, successes: int) -> tuple[int, int]:
    """The window without the failures in a row that came before the last `successes`: that fault is over.

    Losses before it stay, so that a path which loses packets all the time does not look mended after each pair of them.
    """
    run = 0
    while (losses >> (successes + run)) & 1:
        run += 1
    kept = (losses >> (successes + run)) << successes
    return kept, max(successes, count - run)
