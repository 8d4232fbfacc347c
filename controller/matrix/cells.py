"""Paths → cells: expectation held against state, and several paths folded into one cell. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from controller.matrix.paths import PathStatus
from controller.matrix.track import Track
from controller.plan.paths import Path
from model.diagnosis import Expectation
from model.words import CellState, Outcome, Verdict

# From the worst to the least telling. A path that was never measured does not hide one that was.
STATE_ORDER = (
    CellState.FAILING,
    CellState.DEGRADED,
    CellState.STARVED,
    CellState.STALE,
    CellState.OK,
    CellState.UNKNOWN,
    CellState.UNSAMPLED,
)
STATE_RANK = {state: rank for rank, state in enumerate(STATE_ORDER)}

VERDICT_ORDER = (
    Verdict.UNEXPECTED_BLOCK,
    Verdict.UNEXPECTED_PASS,
    Verdict.BLOCKED_AS_INTENDED,
    Verdict.HEALTHY,
    Verdict.UNKNOWN,
)
VERDICT_RANK = {verdict: rank for rank, verdict in enumerate(VERDICT_ORDER)}

# State × what is expected (allowed: yes, no, left open). What is not here is unknown.
VERDICTS: dict[tuple[CellState, bool | None], Verdict] = {
    (CellState.OK, True): Verdict.HEALTHY,
    (CellState.OK, None): Verdict.HEALTHY,
    (CellState.OK, False): Verdict.UNEXPECTED_PASS,
    (CellState.DEGRADED, True): Verdict.UNEXPECTED_BLOCK,
    (CellState.DEGRADED, None): Verdict.UNEXPECTED_BLOCK,
    (CellState.DEGRADED, False): Verdict.UNEXPECTED_PASS,
    (CellState.FAILING, True): Verdict.UNEXPECTED_BLOCK,
    (CellState.FAILING, None): Verdict.UNEXPECTED_BLOCK,
    (CellState.FAILING, False): Verdict.BLOCKED_AS_INTENDED,
}


ENFORCED_S = 4.0
UNEXPECTED = frozenset({Verdict.UNEXPECTED_BLOCK, Verdict.UNEXPECTED_PASS})


def verdict_of(state: CellState, expected: Expectation) -> Verdict:
    """Expectation held against state. What policies leave open (they have a word in it, but no last one) is unknown."""
    if expected.allowed is None and expected.because:
        return Verdict.UNKNOWN
    return VERDICTS.get((state, expected.allowed), Verdict.UNKNOWN)


def verdict_of_track(path: Path, track: Track) -> Verdict:
    """The verdict of a path. After a change of what is expected, results from before it say nothing any more, and for
    ENFORCED_S only those that agree with it do: so long network plugins may take to write their rules.
    """
    verdict = verdict_of(track.state, path.expected)
    since = track.expected_since
    if since and (
        track.last_at is None
        or track.last_at < since
        or (track.outcome is Outcome.OK) is (track.state is CellState.FAILING)
        or (track.last_at < since + ENFORCED_S and verdict in UNEXPECTED)
    ):
        return Verdict.UNKNOWN
    return verdict


def is_well(state: CellState, path: Path) -> bool:
    """Whether a path is as it should be: what may pass does, and what policy forbids does not."""
    if path.expected.allowed is not False:
        return state is CellState.OK
    return state is CellState.FAILING and not path.vital


class CellSum:
    """A cell in the making: the paths folded in so far."""

    __slots__ = ("failing", "last_at", "loss", "paths", "rtt_us", "state", "verdict")

    def __init__(self) -> None:
        """A cell that nothing measures."""
        self.state = CellState.UNSAMPLED
        self.verdict = Verdict.UNKNOWN
        self.loss = 0.0
        self.rtt_us = 0
        self.last_at: float | None = None
        self.paths = 0
        self.failing: tuple[str, ...] = ()

    def add(self, path: Path, track: Track) -> None:
        """Folds one path in: the worst state and verdict, the greatest loss, the shortest time, the newest age."""
        state = track.state
        self.paths += 1
        if STATE_RANK[state] < STATE_RANK[self.state]:
            self.state = state
        verdict = verdict_of_track(path, track)
        if VERDICT_RANK[verdict] < VERDICT_RANK[self.verdict]:
            self.verdict = verdict
        if track.losses:
            self.loss = max(self.loss, track.loss)
        rtt_us = track.rtt_us
        if rtt_us and (not self.rtt_us or rtt_us < self.rtt_us):
            self.rtt_us = rtt_us
        if track.last_at is not None and (self.last_at is None or track.last_at > self.last_at):
            self.last_at = track.last_at
        if state is CellState.FAILING:
            self.failing = (*self.failing, f"{path.network.value} {path.method.value} IPv{path.family}")

    def merge(self, other: CellSum) -> None:
        """Folds another cell in."""
        self.paths += other.paths
        self.state = min(self.state, other.state, key=STATE_RANK.__getitem__)
        self.verdict = min(self.verdict, other.verdict, key=VERDICT_RANK.__getitem__)
        self.loss = max(self.loss, other.loss)
        self.rtt_us = min(filter(None, (self.rtt_us, other.rtt_us)), default=0)
        self.last_at = max((t for t in (self.last_at, other.last_at) if t is not None), default=None)
        self.failing += other.failing


def cell_of(paths: Iterable[tuple[Path, Track]]) -> CellSum:
    """The cell of these paths."""
    cell = CellSum()
    for path, track in paths:
        cell.add(path, track)
    return cell


def status_of(path: Path, track: Track) -> PathStatus:
    """What the matrix says of a path."""
    return PathStatus(
        path=path,
        state=track.state,
        verdict=verdict_of_track(path, track),
        since=track.since,
        expected_since=track.expected_since,
        loss=track.loss,
        rtt_us=track.rtt_us,
        last_at=track.last_at,
        last_outcome=track.outcome,
        consecutive=abs(track.run),
        late_ms=track.late_ms,
        observations=track.observations,
        ever_ok=track.ever_ok,
        first_failure_at=track.first_failure_at,
        last_ok_at=track.last_ok_at,
        detail=_detail(track),
    )


def _detail(track: Track) -> str:
    if track.state is CellState.STARVED:
        return f"the agent itself was {track.late_ms} ms late"
    if track.state is CellState.UNKNOWN and track.outcome is Outcome.NOT_MEASURED:
        return track.detail or "the agent could not measure"
    return track.detail
