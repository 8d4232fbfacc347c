"""What an incident explained is not held against its paths once it is over."""

from __future__ import annotations

from controller.matrix.track import Track
from model.probes import Observation
from model.words import CellState, Outcome


def test_explained_losses_leave_the_window():
    """A path that failed now and then is degraded; once its cause is mended it is ok, and new losses count anew."""
    track = Track(1.0, 500, 0.0)
    for second in range(20):
        track.take(Observation("t", second * 1000, Outcome.TIMEOUT if second % 3 == 0 else Outcome.OK), float(second))
    assert track.state_of(20.0) is CellState.DEGRADED
    track.explained()
    assert track.state_of(20.0) is CellState.OK
    assert track.loss == 0.0


def test_a_failing_path_is_never_forgiven():
    """What fails now goes on failing, whatever was explained."""
    track = Track(1.0, 500, 0.0)
    for second in range(5):
        track.take(Observation("t", second * 1000, Outcome.TIMEOUT), float(second))
    track.explained()
    assert track.state_of(5.0) is CellState.FAILING
    assert track.loss == 1.0
