"""What the matrix says of one path, and the event that it changed. Pure data."""

from __future__ import annotations

import msgspec

from controller.plan.paths import Path
from model.words import CellState, Outcome, Verdict


class PathStatus(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A path at one moment. Times are the controller's wall clock in seconds; `loss` 0…1 and `rtt_us` (median) over
    the window; `consecutive` equal results in a row; `late_ms` the agent's own lateness at the last observation.
    `expected_since`: when what is expected of it last changed, 0 if never. `ever_ok`: it has worked since the
    controller began to watch it. `first_failure_at`: of the present run of failures.
    """

    path: Path
    state: CellState
    since: float
    verdict: Verdict = Verdict.UNKNOWN
    expected_since: float = 0.0
    loss: float = 0.0
    rtt_us: int = 0
    last_at: float | None = None
    last_outcome: Outcome | None = None
    consecutive: int = 0
    late_ms: int = 0
    observations: int = 0
    ever_ok: bool = False
    first_failure_at: float | None = None
    last_ok_at: float | None = None
    detail: str = ""


class PathChanged(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A path went from one state to another. `old` is None for a path that was just planned; `new` is None for one
    that left the plan.
    """

    path: Path
    old: CellState | None
    new: CellState | None
    at: float
    detail: str = ""
