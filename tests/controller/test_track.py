"""When the losses of a path count no longer: an incident explained them and is over, or too much came since."""

from __future__ import annotations

import pytest

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


def fed(results: str) -> Track:
    """A path with these results, a second apart: "." came, "x" was lost."""
    track = Track(1.0, 500, 0.0)
    for second, result in enumerate(results):
        outcome = Outcome.OK if result == "." else Outcome.TIMEOUT
        track.take(Observation("t", second * 1000, outcome), float(second))
    return track


@pytest.mark.parametrize(
    ("results", "state"),
    [
        pytest.param(".x" * 10, CellState.DEGRADED, id="every other"),
        pytest.param(".x" * 10 + "." * 8, CellState.DEGRADED, id="every other, then eight come"),
        pytest.param(".x" * 10 + "." * 11, CellState.OK, id="every other, then as many as can be no chance"),
        pytest.param("....x" * 4 + "." * 11, CellState.DEGRADED, id="a fifth: eleven in a row are nothing special"),
        pytest.param("....x" * 4 + "." * 20, CellState.OK, id="a fifth, and out of the window"),
    ],
)
def test_losses_are_over_when_too_many_results_came_in_a_row(results: str, state: CellState) -> None:
    """One of two backends was gone for a while: its losses stay in sight for less than those of a rare loss must."""
    track = fed(results)
    assert track.state_of(float(len(results))) is state
    assert (track.loss == 0.0) is (state is CellState.OK)
