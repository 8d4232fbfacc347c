"""The matrix: what was observed of every path of the plan, in memory only.

A restarted controller begins with an empty one and fills it within seconds, so no result counts twice over it.
Results of paths that are not in the plan, or of another node's, are thrown away and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from controller.matrix.cells import CellSum, cell_of, is_well, status_of
from controller.matrix.paths import PathChanged, PathStatus
from controller.matrix.track import Track
from controller.plan.paths import EMPTY_CLUSTER_PLAN, ClusterPlan, Path
from model.clock import Clock, rfc3339
from model.diagnosis import Cell, Matrix
from model.probes import Observation
from model.words import CellState, MatrixKind, Verdict

CellKey = tuple[MatrixKind, str, str]
Entry = tuple[Path, Track]
TICK_PATHS = 20_000
PARTS: dict[MatrixKind, tuple[MatrixKind, ...]] = {
    **{kind: (kind,) for kind in MatrixKind},
    MatrixKind.NODE: (MatrixKind.HOST, MatrixKind.POD),
}


class MatrixBook:
    """Every path with its track, by id and by cell. To be used from one event loop."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is planned, nothing observed."""
        self._clock = clock
        self._plan = EMPTY_CLUSTER_PLAN
        self._entries: dict[str, Entry] = {}
        self._cells: dict[CellKey, dict[str, Entry]] = {}
        self._listeners: list[Callable[[tuple[PathChanged, ...]], None]] = []
        self._not_ok: dict[str, None] = {}
        self._sweeping: Iterator[str] = iter(())
        self.states: Counter[CellState] = Counter()
        self.observations = 0
        self.strangers = 0
        """Results of paths that are not planned (any more), or of another node's paths."""

    @property
    def plan(self) -> ClusterPlan:
        """The plan that the matrix is kept for."""
        return self._plan

    def on_change(self, listener: Callable[[tuple[PathChanged, ...]], None]) -> None:
        """Have every change of state told; the listener must not block."""
        self._listeners.append(listener)

    # What goes in

    def set_plan(self, plan: ClusterPlan) -> None:
        """Takes a new plan: what both have is kept, with the new one's words about it."""
        now, changes = self._clock.wall(), list[PathChanged]()
        for path_id in self._entries.keys() - plan.paths.keys():
            path, track = self._entries.pop(path_id)
            self._forget(path, track)
            changes.append(PathChanged(path=path, old=track.state, new=None, at=now))
        for path_id, path in plan.paths.items():
            known = self._entries.get(path_id)
            if known is None:
                track = Track(path.interval_s, path.task.timeout_ms, now)
                self.states[track.state] += 1
                self._not_ok[path_id] = None
                changes.append(PathChanged(path=path, old=None, new=track.state, at=now))
            elif known[0] is path or known[0] == path:
                continue
            else:
                track = known[1]
                if known[0].expected.allowed is not path.expected.allowed:
                    track.expected_since = now
                    self._note(path, track.state)
                    changes.append(PathChanged(path=path, old=track.state, new=track.state, at=now))
                track.interval_s, track.timeout_ms = path.interval_s, path.task.timeout_ms
            self._entries[path_id] = (path, track)
            self._cells.setdefault(_key(path), {})[path_id] = (path, track)
        self._plan = plan
        self._tell(changes)

    def _forget(self, path: Path, track: Track) -> None:
        self.states[track.state] -= 1
        self._not_ok.pop(path.id, None)
        cell = self._cells[_key(path)]
        del cell[path.id]
        if not cell:
            del self._cells[_key(path)]

    def ingest(self, node: str, observations: Iterable[Observation], offset_s: float = 0.0) -> None:
        """Takes results of one node's agent; `offset_s` is what its clock lacks to ours. None is of the future."""
        now, entries, changes = self._clock.wall(), self._entries, list[PathChanged]()
        for observation in observations:
            entry = entries.get(observation.task)
            if entry is None or entry[0].source_node != node:
                self.strangers += 1
                continue
            self.observations += 1
            path, track = entry
            track.take(observation, min(observation.at_ms / 1000 + offset_s, now))
            state = track.state_of(now)
            if state is not track.state:
                changes.append(self._turn(path, track, state, now))
        self._tell(changes)

    def tick(self) -> None:
        """To be called a few times a second: finds what has grown stale, a part of the paths at a time."""
        now, changes = self._clock.wall(), list[PathChanged]()
        for _ in range(min(TICK_PATHS, len(self._entries))):
            path_id = next(self._sweeping, None)
            if path_id is None:
                self._sweeping = iter(tuple(self._entries))
                path_id = next(self._sweeping)
            entry = self._entries.get(path_id)
            if entry is None:
                continue
            path, track = entry
            state = track.state_of(now)
            if state is not track.state:
                changes.append(self._turn(path, track, state, now))
        self._tell(changes)

    def explained(self, path_ids: Iterable[str]) -> None:
        """The losses of these paths were explained, and their cause is mended: they count no longer."""
        now, changes = self._clock.wall(), list[PathChanged]()
        for path, track in [entry for path_id in path_ids if (entry := self._entries.get(path_id)) is not None]:
            track.explained()
            state = track.state_of(now)
            if state is not track.state:
                changes.append(self._turn(path, track, state, now))
        self._tell(changes)

    def _turn(self, path: Path, track: Track, state: CellState, now: float) -> PathChanged:
        changed = PathChanged(path=path, old=track.state, new=state, at=now, detail=track.detail)
        self.states[track.state] -= 1
        self.states[state] += 1
        track.state, track.since = state, now
        self._note(path, state)
        return changed

    def _note(self, path: Path, state: CellState) -> None:
        if is_well(state, path):
            self._not_ok.pop(path.id, None)
        else:
            self._not_ok[path.id] = None

    def _tell(self, changes: list[PathChanged]) -> None:
        if changes:
            for listener in self._listeners:
                listener(tuple(changes))

    # What comes out

    def status(self, path_id: str) -> PathStatus | None:
        """One path; None if it is not planned."""
        entry = self._entries.get(path_id)
        return status_of(*entry) if entry else None

    def statuses(self) -> dict[str, PathStatus]:
        """All paths, by id."""
        return {path_id: status_of(*entry) for path_id, entry in self._entries.items()}

    def not_ok(self) -> tuple[PathStatus, ...]:
        """The paths that are not as they should be, in the order in which they became so."""
        return tuple(status_of(*self._entries[path_id]) for path_id in self._not_ok)

    def of_cell(self, kind: MatrixKind, source: str, destination: str) -> tuple[PathStatus, ...]:
        """The paths of a cell; `node` has those of host and pod."""
        return tuple(
            status_of(*entry)
            for part in PARTS[kind]
            for entry in self._cells.get((part, source, destination), {}).values()
        )

    def covered(self, since: float) -> int:
        """How many paths were observed since this moment of the wall clock."""
        return sum(1 for _, track in self._entries.values() if track.last_at is not None and track.last_at >= since)

    def __len__(self) -> int:
        return len(self._entries)

    def cell(self, kind: MatrixKind, source: str, destination: str) -> CellSum:
        """One cell, summed up; without paths it is unsampled."""
        parts = [
            cell_of(found.values()) for part in PARTS[kind] if (found := self._cells.get((part, source, destination)))
        ]
        if not parts:
            return CellSum()
        for other in parts[1:]:
            parts[0].merge(other)
        return parts[0]

    def rows(self, kind: MatrixKind, ready: Mapping[str, bool | None]) -> Iterator[tuple[Cell, ...]]:
        """The cells of one kind, row by row; `ready` is what Kubernetes says of each node."""
        columns = self.columns(kind)
        for source in self._plan.nodes:
            yield tuple(
                self.cell_document(kind, source, destination, ready)
                for destination in columns
                if not (kind is MatrixKind.HOST and source == destination)
            )

    def cell_document(self, kind: MatrixKind, source: str, destination: str, ready: Mapping[str, bool | None]) -> Cell:
        """One cell as it leaves the controller."""
        node_ready = ready.get(source, True) is True and ready.get(destination, True) is True
        # Most cells of a big, sampled matrix have no path: they cost least.
        parts = PARTS[kind]
        if (parts[0], source, destination) not in self._cells and (parts[-1], source, destination) not in self._cells:
            return Cell(
                source=source,
                destination=destination,
                state=CellState.UNSAMPLED,
                verdict=Verdict.UNKNOWN,
                node_ready=node_ready,
            )
        found = self.cell(kind, source, destination)
        return Cell(
            source=source,
            destination=destination,
            state=found.state,
            verdict=found.verdict,
            loss=round(found.loss, 3),
            rtt_us=found.rtt_us,
            age_s=None if found.last_at is None else round(max(0.0, self._clock.wall() - found.last_at), 3),
            paths=found.paths,
            failing=found.failing,
            node_ready=node_ready,
        )

    def columns(self, kind: MatrixKind) -> tuple[str, ...]:
        """The columns of one kind: all nodes for those of nodes."""
        if kind in (MatrixKind.NODE, MatrixKind.HOST, MatrixKind.POD):
            return self._plan.nodes
        return self._plan.columns.get(kind, ())

    def matrix(self, kind: MatrixKind, ready: Mapping[str, bool | None]) -> Matrix:
        """The whole matrix of one kind, now."""
        cells = tuple(cell for row in self.rows(kind, ready) for cell in row)
        return Matrix(
            kind=kind.value,
            at=rfc3339(self._clock.wall()),
            rows=self._plan.nodes,
            columns=self.columns(kind),
            cells=cells,
        )


def _key(path: Path) -> CellKey:
    return (path.kind, path.source_node, path.destination)
