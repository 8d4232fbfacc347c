"""The matrix: what follows from what was observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.matrix.cells import verdict_of
from controller.matrix.matrix import MatrixBook
from controller.matrix.paths import PathChanged
from controller.matrix.track import WINDOW, Track, without_outage
from controller.plan.expectation import policy_model
from controller.plan.make import make_plans
from controller.plan.paths import ClusterPlan, PlanSettings
from model.diagnosis import Cell, Expectation
from model.probes import Observation
from model.words import CellState, MatrixKind, Method, Outcome, Verdict
from tests.controller.clusters import cluster

OUTCOMES = {
    "o": Outcome.OK,
    "x": Outcome.TIMEOUT,
    "r": Outcome.REFUSED,
    "?": Outcome.NOT_MEASURED,
    "S": Outcome.TIMEOUT,
    "L": Outcome.REFUSED,
}
STATES = {
    "O": CellState.OK,
    "F": CellState.FAILING,
    "D": CellState.DEGRADED,
    "U": CellState.UNKNOWN,
    "S": CellState.STARVED,
}


class StoppedClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        """See `Clock`."""
        return self.now

    def wall(self) -> float:
        """See `Clock`."""
        return self.now


def replay(results: str) -> str:
    """The state after each of these results, a second apart; S and L are late by 300 ms: a timeout, a refusal."""
    track, states = Track(1.0, 500, 0.0), ""
    for second, letter in enumerate(results):
        outcome = OUTCOMES[letter]
        late = 300 if letter in "SL" else 0
        track.take(Observation("t", second * 1000, outcome, 100, late), second)
        states += next(k for k, v in STATES.items() if v is track.state_of(second))
    return states


@pytest.mark.parametrize(
    ("results", "states"),
    [
        pytest.param("ooo", "OOO", id="one success is enough at first"),
        pytest.param("oxxoo", "OOFFO", id="two failures, two successes"),
        pytest.param("xx", "UF", id="it never worked"),
        pytest.param("rr", "UF", id="refused"),
        pytest.param("oxoxxoxoo", "OOOOFFFFO", id="single losses change nothing"),
        pytest.param("o?xx", "OUOF", id="not measured is unknown"),
        pytest.param("oSSS", "OSSS", id="late timeouts are the agent's own"),
        pytest.param("oLL", "OOF", id="a late refusal is an answer"),
        pytest.param("xxSoo", "UFSFO", id="starving hides a fault, and does not mend it"),
        pytest.param("oooooooooxox", "OOOOOOOOOOOD", id="two of twelve lost"),
        pytest.param("ooooxxxxxxoooooooo", "OOOOOFFFFFFOOOOOOO", id="an outage that is over is not loss"),
        pytest.param("oxooooooooxxxxoo", "OOOOOOOOOODFFFFO", id="loss before an outage counts on"),
    ],
)
def test_states_follow_results(results: str, states: str) -> None:
    """Failing after two failures in a row, ok after two successes; degraded by losses; the agent's own faults apart."""
    assert replay(results) == states


@given(st.text("ox", max_size=60))
def test_the_window_forgets_only_the_outage(results: str) -> None:
    """The window never counts more than it holds, and never more losses than there were."""
    track = Track(1.0, 500, 0.0)
    for second, letter in enumerate(results):
        track.take(Observation("t", 0, OUTCOMES[letter]), second)
        assert 0 <= track.losses.bit_count() <= track.count <= WINDOW
        assert track.losses.bit_count() <= results[: second + 1].count("x")


def test_an_outage_is_cut_out_whole() -> None:
    """Only the failures in a row just before the successes go."""
    assert without_outage(0b0100_1111_00, 10, 2) == (0b0100_00, 6)


@pytest.mark.parametrize(
    ("interval_s", "fresh_s", "stale_s"),
    [pytest.param(1.0, 4.9, 5.1, id="five seconds"), pytest.param(10.0, 29.0, 31.0, id="three intervals")],
)
def test_silence_is_stale(interval_s: float, fresh_s: float, stale_s: float) -> None:
    """No result for three intervals, or for five seconds: what was seen no longer stands for the present."""
    track = Track(interval_s, 500, 0.0)
    track.take(Observation("t", 0, Outcome.OK), 0.0)
    assert (track.state_of(fresh_s), track.state_of(stale_s)) == (CellState.OK, CellState.STALE)


def test_a_result_of_the_past_changes_nothing() -> None:
    """What an agent sends late does not overrule what it measured since."""
    track = Track(1.0, 500, 0.0)
    track.take(Observation("t", 0, Outcome.OK), 100.0)
    track.take(Observation("t", 0, Outcome.TIMEOUT), 99.0)
    track.take(Observation("t", 0, Outcome.TIMEOUT), 98.0)
    assert track.state_of(100.0) is CellState.OK


def test_every_state_has_a_verdict() -> None:
    """Silence of any sort is unknown; the rest is held against what was expected."""
    silent = {CellState.UNKNOWN, CellState.STALE, CellState.STARVED, CellState.UNSAMPLED}
    for state in CellState:
        for allowed in (True, False, None):
            verdict = verdict_of(state, Expectation(allowed=allowed))
            assert (verdict is Verdict.UNKNOWN) is (state in silent)
        left_open = Expectation(allowed=None, because=("NetworkPolicy shop/web",))
        assert verdict_of(state, left_open) is Verdict.UNKNOWN
    assert verdict_of(CellState.FAILING, Expectation(allowed=False)) is Verdict.BLOCKED_AS_INTENDED
    assert verdict_of(CellState.OK, Expectation(allowed=False)) is Verdict.UNEXPECTED_PASS


def planned(count: int = 2) -> tuple[MatrixBook, StoppedClock, ClusterPlan]:
    """A matrix with the plan of a small cluster."""
    state, clock = cluster(count), StoppedClock()
    plan = make_plans(state, policy_model(state), PlanSettings())
    book = MatrixBook(clock)
    book.set_plan(plan)
    return book, clock, plan


def feed(book: MatrixBook, clock: StoppedClock, plan: ClusterPlan, outcome: Outcome, times: int = 1) -> None:
    """Every path has this result, so many times, a second apart."""
    for _ in range(times):
        clock.now += 1
        for node in plan.nodes:
            results = [
                Observation(p.id, int(clock.now * 1000), outcome, 50)
                for p in plan.paths.values()
                if p.source_node == node
            ]
            book.ingest(node, results)


def test_a_cell_sums_its_paths_up() -> None:
    """One failing path makes its cell failing, and no other."""
    book, clock, plan = planned()
    feed(book, clock, plan, Outcome.OK, 2)
    broken = next(
        p
        for p in plan.paths.values()
        if (p.kind, p.method) == (MatrixKind.HOST, Method.TCP) and p.source_node == "node-a"
    )
    for _ in range(2):
        clock.now += 1
        book.ingest("node-a", [Observation(broken.id, int(clock.now * 1000), Outcome.TIMEOUT)])
    ready = {"node-a": True, "node-b": False}
    cells = {(c.source, c.destination): c for c in book.matrix(MatrixKind.NODE, ready).cells}
    assert cells["node-a", "node-b"] == Cell(
        source="node-a",
        destination="node-b",
        state=CellState.FAILING,
        verdict=Verdict.UNEXPECTED_BLOCK,
        loss=0.5,
        rtt_us=50,
        age_s=0.0,
        paths=6,
        failing=("host tcp IPv4",),
        node_ready=False,
    )
    assert {key: c.state for key, c in cells.items() if c.state is not CellState.OK} == {
        ("node-a", "node-b"): CellState.FAILING
    }


def test_changes_are_told_once() -> None:
    """A path that fails is told of when it begins to, and when it has passed; not in between."""
    book, clock, plan = planned()
    told: list[PathChanged] = []
    feed(book, clock, plan, Outcome.OK)
    book.on_change(told.extend)
    feed(book, clock, plan, Outcome.TIMEOUT, 5)
    feed(book, clock, plan, Outcome.OK, 5)
    moves = {(c.old, c.new) for c in told}
    assert moves == {(CellState.OK, CellState.FAILING), (CellState.FAILING, CellState.OK)}
    assert len(told) == 2 * len(plan.paths)


def test_silence_is_found_by_the_tick() -> None:
    """Without any result, the tick alone turns paths stale; not_ok names them, and the counts agree."""
    book, clock, plan = planned()
    feed(book, clock, plan, Outcome.OK)
    book.tick()
    assert book.not_ok() == ()
    clock.now += 60
    book.tick()
    assert {s.state for s in book.not_ok()} == {CellState.STALE}
    assert book.states[CellState.STALE] == len(plan.paths)


def test_nobody_speaks_for_another() -> None:
    """Results of another node's paths, or of none, are thrown away and counted."""
    book, _, plan = planned()
    foreign = next(p.id for p in plan.paths.values() if p.source_node == "node-b")
    book.ingest("node-a", [Observation(foreign, 0, Outcome.OK), Observation("nothing", 0, Outcome.OK)])
    assert (book.observations, book.strangers) == (0, 2)


def test_a_new_plan_keeps_what_stays() -> None:
    """Paths of both plans keep their results, paths that left are gone, and both are told."""
    book, clock, plan = planned(3)
    feed(book, clock, plan, Outcome.OK, 3)
    state = cluster(2)
    smaller = make_plans(state, policy_model(state), PlanSettings())
    told: list[PathChanged] = []
    book.on_change(told.extend)
    book.set_plan(smaller)
    assert set(book.statuses()) == set(smaller.paths)
    assert {s.state for s in book.statuses().values()} == {CellState.OK}
    assert {c.path.id for c in told if c.new is None} == set(plan.paths) - set(smaller.paths)
    assert sum(book.states.values()) == len(smaller.paths)


def test_a_cell_without_paths_is_unsampled() -> None:
    """And its verdict is unknown: not sampled must not read as unhealthy."""
    book, _, _ = planned()
    cell = book.cell(MatrixKind.SERVICE, "node-a", "nowhere")
    assert (cell.state, cell.verdict, cell.paths) == (CellState.UNSAMPLED, Verdict.UNKNOWN, 0)
