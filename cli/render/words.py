"""Glyphs, colours and units: one look for one meaning, on every table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from model.words import CellState, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Look:
    """How a meaning is shown: a glyph of one column, a style of rich, and words."""

    glyph: str
    style: str
    words: str


STATES: dict[CellState, Look] = {
    CellState.OK: Look("✓", "green", "ok"),
    CellState.FAILING: Look("✗", "bold red", "failing"),
    CellState.DEGRADED: Look("▲", "yellow", "degraded"),
    CellState.UNKNOWN: Look("?", "magenta", "unknown"),
    CellState.STALE: Look("~", "cyan", "stale"),
    CellState.STARVED: Look("s", "cyan", "starved (the agent got no CPU)"),
    CellState.UNSAMPLED: Look("·", "dim", "not sampled"),
}
BLOCKED = Look("⊘", "blue", "blocked as intended")
OPEN = Look("!", "bold yellow", "passes, but policy forbids it")

VERDICTS: dict[Verdict, Look] = {
    Verdict.HEALTHY: Look("✓", "bold green", "works"),
    Verdict.BLOCKED_AS_INTENDED: Look("✓", "bold green", "blocked as intended"),
    Verdict.UNEXPECTED_BLOCK: Look("✗", "bold red", "does not get through"),
    Verdict.UNEXPECTED_PASS: Look("✗", "bold red", "gets through, but policy forbids it"),
    Verdict.UNKNOWN: Look("?", "bold yellow", "inconclusive"),
}

OUTCOMES: dict[Outcome, str] = {
    Outcome.OK: "ok",
    Outcome.TIMEOUT: "timeout: no answer came",
    Outcome.REFUSED: "refused by the far end",
    Outcome.UNREACHABLE: "unreachable: the way refused it",
    Outcome.RESET: "reset in the middle",
    Outcome.TOO_BIG: "too big for the path",
    Outcome.NAME_NOT_FOUND: "the name does not exist",
    Outcome.SERVER_FAILURE: "the server failed",
    Outcome.TLS_ERROR: "TLS failed",
    Outcome.HTTP_ERROR: "HTTP error",
    Outcome.WRONG_ANSWER: "a wrong answer came",
    Outcome.NOT_MEASURED: "could not be measured",
}


def look_of(state: CellState, verdict: Verdict) -> Look:
    """The look of a cell: what policy intends goes before what the wire does."""
    if verdict is Verdict.BLOCKED_AS_INTENDED and state in (CellState.OK, CellState.FAILING):
        return BLOCKED
    if verdict is Verdict.UNEXPECTED_PASS and state in (CellState.OK, CellState.FAILING):
        return OPEN
    return STATES[state]


def duration(us: float) -> str:
    """Microseconds in the unit that reads best."""
    if us < 1000:
        return f"{us:.0f} µs"
    if us < 1_000_000:
        return f"{us / 1000:.3g} ms" if us < 100_000 else f"{us / 1000:.0f} ms"
    return f"{us / 1_000_000:.3g} s"


def age(seconds: float | None) -> str:
    """Seconds in the unit that reads best; never measured is said so."""
    if seconds is None:
        return "never"
    for limit, divisor, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.1f} {unit}" if limit == 10 else f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def loss(share: float) -> str:
    """A share 0…1 in percent; a loss that is not nothing never reads as 0 %."""
    if 0 < share < 0.01:
        return "<1 %"
    return f"{share * 100:.0f} %"


def since(moment: str, now: datetime | None = None) -> float | None:
    """Seconds from an RFC 3339 moment until now; None if it cannot be read."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())
