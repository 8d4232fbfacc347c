"""Who is suspect: reads the shape of what fails, and picks the one path whose examination tells most.

Pure: statuses in, choices out. Time is an argument, in seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from controller.diagnosis.explain import INCONCLUSIVE
from controller.diagnosis.scope import Scope
from controller.incident.book import Entry, key_of
from controller.matrix.cells import ENFORCED_S, is_well
from controller.matrix.paths import PathStatus
from controller.plan.paths import Path
from model.diagnosis import Cause
from model.words import CellState, MatrixKind, Method, Outcome, Verdict

SETTLE_S = 0.7
LASTING_S = 8.0
DEGRADED_LOSS = 0.2
HEALTHY_S = 1.2
OF_POLICY = "policy."
WHOLE = 0.85
MEASURED = frozenset({CellState.OK, CellState.FAILING, CellState.DEGRADED})
SILENT = frozenset({CellState.STALE, CellState.UNKNOWN, CellState.STARVED})
LAYER = {
    MatrixKind.HOST: 0,
    MatrixKind.POD: 1,
    MatrixKind.DNS: 2,
    MatrixKind.SERVICE: 3,
    MatrixKind.EGRESS: 4,
    MatrixKind.POLICY: 5,
}
METHOD = {Method.UDP: 0, Method.TCP: 1, Method.DNS: 2, Method.ICMP: 3, Method.HTTP: 4}


@dataclass(frozen=True, slots=True)
class Review:
    """What became of the open incidents, and the failing paths that none of them explains."""

    healed: tuple[str, ...]
    failing_of: Mapping[str, tuple[Path, ...]]
    healthy: frozenset[str]
    unexplained: tuple[PathStatus, ...]


def is_symptom(status: PathStatus, now: float, deaf: Collection[str] = ()) -> bool:
    """Whether a path shows something that calls for a cause: it should pass, and has failed for long enough to tell.

    `deaf` are nodes whose agent is not there to answer: a refusal from such a host says that it was reached.
    """
    if passes_wrongly(status):
        return _settled_s(status, now) >= ENFORCED_S
    if not fails_wrongly(status) and status.state is CellState.FAILING:
        return False
    refused = status.last_outcome is not None and status.last_outcome is Outcome.REFUSED
    if refused and status.path.target_kind == "Node" and not status.path.destination_nodes.isdisjoint(deaf):
        return False
    if status.state is CellState.FAILING:
        if status.expected_since > (status.first_failure_at or status.since):
            return _settled_s(status, now) >= ENFORCED_S
        return now - (status.first_failure_at or status.since) >= SETTLE_S
    return status.state is CellState.DEGRADED and status.loss >= DEGRADED_LOSS and now - status.since >= LASTING_S


def passes_wrongly(status: PathStatus) -> bool:
    """Whether a path gets through that policy forbids."""
    return status.verdict is Verdict.UNEXPECTED_PASS


def fails_wrongly(status: PathStatus) -> bool:
    """Whether a path fails that policy lets through, or that nobody can do without whatever policy says."""
    path = status.path
    return status.state is CellState.FAILING and (path.expected.allowed is not False or path.vital)


def _settled_s(status: PathStatus, now: float) -> float:
    """For how long a path has been as it is, under the policies of now."""
    return now - max(status.since, status.expected_since)


def review(
    entries: Iterable[Entry], statuses: Mapping[str, PathStatus], now: float, deaf: Collection[str] = ()
) -> Review:
    """Hold the matrix against the open incidents."""
    failing = [s for s in statuses.values() if fails_wrongly(s) or passes_wrongly(s)]
    symptoms = [s for s in statuses.values() if is_symptom(s, now, deaf)]
    healed, healthy = [], set()
    failing_of: dict[str, tuple[Path, ...]] = {}
    explained: set[str] = set()
    for entry in entries:
        mine = [s.path for s in failing if any(scope.covers(s.path) for scope in entry.scopes)]
        failing_of[entry.incident.id] = tuple(mine)
        explained.update(s.path.id for s in symptoms if any(scope.covers(s.path) for scope in entry.scopes))
        if entry.standing or mine or not _some_pass(entry, statuses):
            continue
        healthy.add(entry.incident.id)
        if entry.healthy_since_s is not None and now - entry.healthy_since_s >= HEALTHY_S:
            healed.append(entry.incident.id)
    unexplained = tuple(s for s in symptoms if s.path.id not in explained)
    return Review(tuple(healed), failing_of, frozenset(healthy), unexplained)


def superseded(
    entries: Iterable[Entry], best: Cause, scope: Scope, wrong: Collection[Path], path: Path
) -> Iterator[str]:
    """Yield the open incidents that a new finding answers better: riddles, and narrower words for the same way.

    An incident on a path names no thing to mend: where packets were lost is put into words by what was seen to fail
    when it was looked at, and in the first second that is often but a part.
    """
    for entry in entries:
        known = entry.incident.causes[0]
        if known.object.kind != "path" or key_of(known) == key_of(best):
            continue
        its = [p for p in wrong if any(s.covers(p) for s in entry.scopes)]
        covered = all(scope.covers(p) for p in its)
        if known.code == INCONCLUSIVE and best.code != INCONCLUSIVE:
            answered = covered or path in its
        else:
            answered = known.code == best.code and covered and bool(its)
        if answered:
            yield entry.incident.id


def _some_pass(entry: Entry, statuses: Mapping[str, PathStatus]) -> bool:
    """Whether something of what the incident explains is known to pass; or nothing of it is planned any more.

    Silence heals nothing: while a cell that failed is stale or unknown, or every path is, it stays open.
    """
    mine = [s for s in statuses.values() if any(scope.covers(s.path) for scope in entry.scopes)]
    failed = {(c.kind, c.source, c.destination) for c in entry.incident.cells}
    if any(s.state in SILENT and (s.path.kind.value, s.path.source_node, s.path.destination) in failed for s in mine):
        return False
    if entry.incident.causes[0].code.startswith(OF_POLICY):
        # What policies forbid and what is blocked is well again, and where nothing is forbidden any more all is.
        return all(is_well(s.state, s.path) for s in mine)
    return not mine or any(s.state is CellState.OK for s in mine)


@dataclass(frozen=True, slots=True)
class Suspect:
    """The path to examine, and the narrowest scope that the shape of the failures allows.

    `verifies` is the open incident that is held against a fresh examination, "" for a new suspicion.
    """

    path: Path
    scope: Scope
    shape: str
    verifies: str = ""


def choose(
    unexplained: Collection[PathStatus],
    statuses: Mapping[str, PathStatus],
    silent: Collection[str],
    tried: Collection[str],
) -> Suspect | None:
    """Pick the path to examine next among those not `tried`, from the node (or target) in which most failures meet."""
    open_ = [s.path for s in unexplained if s.path.id not in tried]
    if not open_:
        return None
    node = _worst_node(open_, statuses)
    concerned = [p for p in open_ if node is None or _touches(p, node)]
    best = min(
        concerned,
        key=lambda p: (p.source_node in silent, LAYER[p.kind], p.source_node == node, METHOD[p.method], p.family, p.id),
    )
    return Suspect(best, *_shape(best, node, unexplained, statuses))


def _forbidden(path: Path) -> bool:
    """Whether it fails as it should, which says nothing of the network."""
    return path.expected.allowed is False


def _touches(path: Path, node: str) -> bool:
    return path.source_node == node or node in path.destination_nodes


def _worst_node(paths: Iterable[Path], statuses: Mapping[str, PathStatus]) -> str | None:
    """The node of which the greatest share of its measured paths to and from other nodes fails, if several do."""
    failing: dict[str, int] = {}
    for path in paths:
        if len(path.destination_nodes) == 1 and path.source_node not in path.destination_nodes:
            for node in (path.source_node, *path.destination_nodes):
                failing[node] = failing.get(node, 0) + 1
    if not failing:
        return None
    all_: dict[str, int] = {}
    for status in statuses.values():
        path = status.path
        if (
            status.state in MEASURED
            and not _forbidden(path)
            and len(path.destination_nodes) == 1
            and path.source_node not in path.destination_nodes
        ):
            for node in (path.source_node, *path.destination_nodes):
                all_[node] = all_.get(node, 0) + 1
    node = max(failing, key=lambda n: (failing[n] / max(1, all_.get(n, 0)), n))
    return node if failing[node] >= 2 else None


def _shape(
    path: Path, node: str | None, unexplained: Collection[PathStatus], statuses: Mapping[str, PathStatus]
) -> tuple[Scope, str]:
    over = f"{path.network.value} network, IPv{path.family}"
    if node is not None:
        scope = Scope(nodes=(node,), crossing=True, network=path.network, family=path.family)
        if _share(scope, unexplained, statuses) >= WHOLE:
            return (
                scope,
                f"all between {node} and other nodes, {over}",
            )
    if len(path.destination_nodes) == 1 and path.kind in {MatrixKind.HOST, MatrixKind.POD}:
        (other,) = path.destination_nodes
        if other != path.source_node:
            scope = Scope(pairs=((path.source_node, other),), network=path.network, family=path.family)
            if _share(scope, unexplained, statuses) >= WHOLE:
                return (
                    scope,
                    f"everything between {path.source_node} and {other}, {over}",
                )
    if path.kind not in {MatrixKind.HOST, MatrixKind.POD}:
        scope = Scope(columns=(path.destination,), kinds=(path.kind,))
        if _share(scope, unexplained, statuses) >= WHOLE:
            return scope, f"everything to {path.destination}"
    # Many single paths that nothing explains are one riddle: it is named by their class, and so told once.
    return Scope(paths=(path.id,)), f"single {path.kind.value} paths by {path.method.value}, IPv{path.family}"


def _share(scope: Scope, unexplained: Collection[PathStatus], statuses: Mapping[str, PathStatus]) -> float:
    measured = sum(
        1 for s in statuses.values() if s.state in MEASURED and not _forbidden(s.path) and scope.covers(s.path)
    )
    return sum(1 for s in unexplained if scope.covers(s.path)) / measured if measured else 0.0
