"""Whom to suspect, from the shape alone; when an incident is healthy, and when it is not."""

from __future__ import annotations

import msgspec
import pytest

from controller.diagnosis import localise
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from controller.incident.book import IncidentBook
from model.diagnosis import Cause, Expectation, Object
from model.words import CellState, IncidentState, MatrixKind, Network
from tests.controller.diagnosis import world

NOW = 200.0


def cut(*nodes: str) -> frozenset[tuple[str, str, MatrixKind]]:
    """Everything to and from these nodes fails."""
    kinds = (MatrixKind.HOST, MatrixKind.POD)
    return frozenset(
        (a, b, k) for k in kinds for a in world.NODES for b in world.NODES if a != b and {a, b} & set(nodes)
    )


class FixedClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = NOW

    def monotonic(self) -> float:
        """See model.clock."""
        return self.now

    def wall(self) -> float:
        """See model.clock."""
        return self.now


def finding(scope: Scope, code: str = "node.uplink_down", node: str = "node-b") -> Finding:
    """A finding with this scope."""
    return Finding(
        cause=Cause(code=code, confidence=0.9, object=Object(kind="device", node=node, name="eth0"), summary="…"),
        scope=scope,
    )


def test_the_node_where_failures_meet_is_suspected():
    """A row and a column failing make their node the suspect; a host path is examined first."""
    _, statuses = world.statuses(cut("node-b"))
    unexplained = [s for s in statuses.values() if localise.is_symptom(s, NOW)]
    suspect = localise.choose(unexplained, statuses, silent={"node-b"}, tried=())
    assert suspect is not None
    assert suspect.scope.nodes == ("node-b",)
    assert suspect.path.kind is MatrixKind.HOST
    assert suspect.path.source_node != "node-b"


def test_a_single_pair_is_suspected_as_a_pair():
    """Two nodes that miss each other only are suspected as a pair."""
    pair = frozenset({("node-a", "node-c", MatrixKind.POD), ("node-c", "node-a", MatrixKind.POD)})
    _, statuses = world.statuses(pair)
    unexplained = [s for s in statuses.values() if localise.is_symptom(s, NOW)]
    suspect = localise.choose(unexplained, statuses, silent=(), tried=())
    assert suspect is not None
    assert {frozenset(p) for p in suspect.scope.pairs} == {frozenset({"node-a", "node-c"})}


def test_tried_paths_rest():
    """A path that was just examined is not examined again at once."""
    _, statuses = world.statuses(cut("node-b"))
    unexplained = [s for s in statuses.values() if localise.is_symptom(s, NOW)]
    assert localise.choose(unexplained, statuses, silent=(), tried={s.path.id for s in unexplained}) is None


@pytest.mark.parametrize(
    ("allowed", "state", "age", "expected"),
    [
        pytest.param(True, CellState.FAILING, 5.0, True, id="fails and should pass"),
        pytest.param(None, CellState.FAILING, 5.0, True, id="fails and nothing is said of it"),
        pytest.param(False, CellState.FAILING, 5.0, False, id="a policy forbids it"),
        pytest.param(True, CellState.FAILING, 0.1, False, id="too young to tell"),
        pytest.param(True, CellState.STALE, 50.0, False, id="silence is no failure"),
        pytest.param(True, CellState.STARVED, 50.0, False, id="the agent's own fault"),
    ],
)
def test_what_is_a_symptom(allowed, state, age, expected):
    """Only what should pass, was measured, and has failed for long enough calls for a cause."""
    _, statuses = world.statuses(frozenset({("node-a", "node-b", MatrixKind.HOST)}))
    status = next(s for s in statuses.values() if s.state is CellState.FAILING)
    path = msgspec.structs.replace(status.path, expected=Expectation(allowed=allowed))
    status = msgspec.structs.replace(status, path=path, state=state, since=NOW - age, first_failure_at=NOW - age)
    assert localise.is_symptom(status, NOW) is expected


def test_an_open_incident_explains_its_paths_and_no_others():
    """What a scope covers is explained; a second fault elsewhere is not."""
    book = IncidentBook(FixedClock())
    book.open((finding(Scope(nodes=("node-b",), crossing=True)),), NOW, ())
    other = frozenset({("node-a", "node-c", MatrixKind.POD)})
    _, statuses = world.statuses(cut("node-b") | other)
    review = localise.review(book.open_entries(), statuses, NOW)
    assert [(s.path.source_node, s.path.destination) for s in review.unexplained] == [("node-a", "node-c")]
    assert not review.healthy


def test_healing_takes_a_while_and_silence_heals_nothing():
    """An incident closes once its paths have passed for HEALTHY_S; while all are stale it stays open."""
    clock = FixedClock()
    book = IncidentBook(clock)
    incident = book.open((finding(Scope(nodes=("node-b",), crossing=True)),), NOW, ())
    _, statuses = world.statuses()
    stale = {k: msgspec.structs.replace(s, state=CellState.STALE) for k, s in statuses.items()}
    assert not localise.review(book.open_entries(), stale, NOW).healthy
    assert incident.id in localise.review(book.open_entries(), statuses, NOW).healthy
    book.update(incident.id, healthy_since_s=NOW, cells=())
    assert localise.review(book.open_entries(), statuses, NOW + 0.1).healed == ()
    assert localise.review(book.open_entries(), statuses, NOW + localise.HEALTHY_S + 0.01).healed == (incident.id,)


def test_same_cause_on_the_same_object_is_one_incident():
    """A second diagnosis of the same thing widens the incident instead of opening another."""
    book = IncidentBook(FixedClock())
    first = book.open((finding(Scope(nodes=("node-b",))),), NOW, ())
    second = book.open((finding(Scope(nodes=("node-b",), network=Network.POD)),), NOW, ())
    assert first.id == second.id
    assert len(book.open_entries()[0].scopes) == 2
    assert book.open((finding(Scope(nodes=("node-c",)), node="node-c"),), NOW, ()).id != first.id


def test_incidents_survive_a_restart(tmp_path):
    """What was open before a restart is open after it, with its scopes, and can be closed."""
    clock = FixedClock()
    book = IncidentBook(clock, tmp_path / "incidents.sqlite")
    incident = book.open((finding(Scope(nodes=("node-b",), crossing=True)),), NOW, ())
    book.close()
    again = IncidentBook(clock, tmp_path / "incidents.sqlite")
    (entry,) = again.open_entries()
    assert (entry.incident, entry.scopes) == (incident, (Scope(nodes=("node-b",), crossing=True),))
    again.resolve(incident.id)
    again.close()
    (kept,) = IncidentBook(clock, tmp_path / "incidents.sqlite").list()
    assert kept.state is IncidentState.RESOLVED
    assert kept.resolved_at is not None


def test_wider_words_for_the_same_way_replace_narrower_ones():
    """The tunnel was seen to fail first, then the hosts: one incident, not two. Other things and other ways stay."""
    book = IncidentBook(FixedClock())

    def fabric(name: str, **scope: object) -> Finding:
        cause = Cause(code="fabric.blocked", confidence=0.9, object=Object(kind="path", name=name), summary="…")
        return Finding(cause=cause, scope=Scope(**scope))  # type: ignore[arg-type]

    pair = (("node-a", "node-b"),)
    tunnel = book.open((fabric("node-a → node-b UDP port 8472 (VXLAN)", pairs=pair, network=Network.POD),), NOW, ())
    book.open((fabric("node-c → node-a all traffic", pairs=(("node-c", "node-a"),)),), NOW, ())
    book.open((finding(Scope(pairs=pair)),), NOW, ())
    _, statuses = world.statuses(cut("node-b") | cut("node-c"))
    wrong = [s.path for s in statuses.values() if s.state is CellState.FAILING]
    between = [p for p in wrong if p.source_node == "node-a" and p.destination == "node-b"]
    everything = fabric("node-a → node-b all traffic", pairs=pair)
    entries = book.open_entries()

    def answered(found: Finding) -> list[str]:
        return list(localise.superseded(entries, found.cause, found.scope, wrong, between[0]))

    assert answered(everything) == [tunnel.id]
    assert answered(fabric("node-a → node-b TCP", pairs=pair, network=Network.HOST)) == []
    assert answered(finding(Scope())) == []
