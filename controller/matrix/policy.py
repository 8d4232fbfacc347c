"""What policies say between namespaces or workloads, beside what was observed there. Pure.

The expectation is complete; observed is what the steady paths between pods happen to sample. A path to a Service counts
for the group of its backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from controller.cluster.state import ClusterState, Pod
from controller.matrix.cells import STATE_RANK, VERDICT_RANK
from controller.matrix.paths import PathStatus
from controller.policy import PolicyModel
from controller.policy.table import NOTHING, Entry, Expected, by_namespace, by_workload, groups_of, table
from model.words import CellState, Verdict

BY = {"namespace": by_namespace, "workload": by_workload}
MAX_GROUPS = 500


class PolicyCell(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One cell: `expected` is allowed, partly (`ports` says which), denied or unknown; `state` and `verdict` as in the
    other matrices, of what was observed; `paths` of them, newest `age_s` ago.
    """

    source: str
    destination: str
    expected: Expected
    ports: tuple[str, ...] = ()
    state: CellState = CellState.UNSAMPLED
    verdict: Verdict = Verdict.UNKNOWN
    loss: float = 0.0
    rtt_us: int = 0
    age_s: float | None = None
    paths: int = 0
    failing: tuple[str, ...] = ()


class PolicyMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """The matrix of policies by namespace or workload. Cells come row by row."""

    kind: str
    by: str
    at: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[PolicyCell, ...]


class TooManyError(ValueError):
    """More groups than a matrix can show; the text says how many."""


@lru_cache(maxsize=2)
def expectations(model: PolicyModel, by: str, within: str) -> tuple[tuple[str, ...], dict[tuple[str, str], Entry]]:
    """The names of the groups (of namespace `within` alone, if given) and what may pass between them.

    Raises:
        TooManyError: there are more than MAX_GROUPS.

    """
    groups = groups_of(model, BY[by])
    if within:
        groups = {name: mask for name, mask in groups.items() if name.split("/")[0] == within}
    if len(groups) > MAX_GROUPS:
        raise TooManyError(f"{len(groups)} {by}s are more than the {MAX_GROUPS} that a matrix shows")
    return tuple(groups), table(model, groups)


def policy_matrix(
    names: tuple[str, ...],
    entries: Mapping[tuple[str, str], Entry],
    by: str,
    statuses: Iterable[PathStatus],
    cluster: ClusterState,
    now: float,
    at: str,
) -> PolicyMatrix:
    """Expected beside observed; `now` and `at` are the same moment."""
    seen = _observed(by, statuses, cluster)
    cells = tuple(
        _cell(source, destination, entries.get((source, destination), NOTHING), seen.get((source, destination)), now)
        for source in names
        for destination in names
    )
    return PolicyMatrix(kind="policy", by=by, at=at, rows=names, columns=names, cells=cells)


def _observed(
    by: str, statuses: Iterable[PathStatus], cluster: ClusterState
) -> dict[tuple[str, str], list[PathStatus]]:
    found: dict[tuple[str, str], list[PathStatus]] = {}
    for status in statuses:
        path = status.path
        source = cluster.pods.get(path.vantage.pod_uid)
        if source is None or status.last_at is None or path.expected.allowed is None:
            continue
        for target in {_name(by, pod) for pod in _targets(status, cluster)}:
            found.setdefault((_name(by, source), target), []).append(status)
    return found


def _targets(status: PathStatus, cluster: ClusterState) -> list[Pod]:
    """The pod that a path leads to, or those behind its Service."""
    pod = cluster.pods_by_address.get(status.path.address)
    if pod is not None:
        return [pod]
    service = cluster.services_by_address.get(status.path.address)
    ready = [b for b in cluster.backends_of(service) if b.ready] if service is not None else []
    return [pod for b in ready if (pod := cluster.pod_of(b)) is not None]


def _name(by: str, pod: Pod) -> str:
    return pod.namespace if by == "namespace" else f"{pod.namespace}/{pod.workload[1]}"


def _cell(source: str, destination: str, entry: Entry, seen: list[PathStatus] | None, now: float) -> PolicyCell:
    if not seen:
        return PolicyCell(source=source, destination=destination, expected=entry.expected, ports=entry.ports)
    newest = max(s.last_at or 0.0 for s in seen)
    return PolicyCell(
        source=source,
        destination=destination,
        expected=entry.expected,
        ports=entry.ports,
        state=min((s.state for s in seen), key=STATE_RANK.__getitem__),
        verdict=min((s.verdict for s in seen), key=VERDICT_RANK.__getitem__),
        loss=round(max(s.loss for s in seen), 3),
        rtt_us=min((s.rtt_us for s in seen if s.rtt_us), default=0),
        age_s=round(max(0.0, now - newest), 3),
        paths=len(seen),
        failing=tuple(s.path.id for s in seen if s.state is CellState.FAILING),
    )
