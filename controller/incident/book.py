"""Incidents: diagnoses with a lifetime. Opened by the engine, merged by what is to be mended, closed after healing.

Kept in SQLite so that a restarted controller goes on with what was open. Decides nothing about networks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path as FilePath

import msgspec

from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.clock import Clock, rfc3339
from model.diagnosis import Cause, CellRef, Incident
from model.probes import stable_id
from model.words import IncidentState

KEPT = 500
CELLS_SHOWN = 200


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An incident with what the engine needs to close it: the scopes that it explains, and when it was last seen.

    `standing`: what it tells shows in Kubernetes' objects, not in paths; only whoever opened it closes it.
    """

    incident: Incident
    scopes: tuple[Scope, ...]
    opened_s: float
    healthy_since_s: float | None = None
    standing: bool = False


def key_of(cause: Cause) -> str:
    """What makes two diagnoses one incident: the same code on the same object."""
    thing = cause.object
    return stable_id(cause.code, thing.kind, thing.node, thing.namespace, thing.name)


class IncidentBook:
    """All incidents, open and resolved, newest first. Every change is told to the listeners and kept on disk."""

    def __init__(self, clock: Clock, store: FilePath | None = None) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._listeners: list[Callable[[Incident], None]] = []
        self._database = _open(store) if store else None
        if self._database:
            for (text,) in self._database.execute("SELECT entry FROM incidents ORDER BY opened_s"):
                entry = msgspec.json.decode(text, type=Entry)
                self._entries[entry.incident.id] = entry

    def list(self, state: IncidentState | None = None) -> list[Incident]:
        """Incidents, open ones first, then by the time of opening, newest first."""
        found = [e.incident for e in self._entries.values() if state is None or e.incident.state is state]
        found.sort(key=lambda i: i.opened_at, reverse=True)
        found.sort(key=lambda i: i.state is not IncidentState.OPEN)
        return found

    def get(self, incident_id: str) -> Incident | None:
        """One incident by its id."""
        entry = self._entries.get(incident_id)
        return entry.incident if entry else None

    def open_entries(self) -> tuple[Entry, ...]:
        """What is open now."""
        return tuple(e for e in self._entries.values() if e.incident.state is IncidentState.OPEN)

    def on_change(self, listener: Callable[[Incident], None]) -> None:
        """Have every change of an incident told; the listener must not block."""
        self._listeners.append(listener)

    def open(self, findings: tuple[Finding, ...], first_sign_s: float, cells: tuple[CellRef, ...]) -> Incident:
        """Open an incident for these findings, best first; or widen the open one with the same code and object."""
        now = self._clock.wall()
        best = findings[0].cause
        scopes = (findings[0].scope,)
        same = next((e for e in self.open_entries() if key_of(e.incident.causes[0]) == key_of(best)), None)
        if same is not None:
            merged = tuple(dict.fromkeys((*same.scopes, *scopes)))
            known = tuple(dict.fromkeys((*same.incident.cells, *cells)))
            incident = msgspec.structs.replace(
                same.incident, cells=known[:CELLS_SHOWN], cell_count=len(known), causes=tuple(f.cause for f in findings)
            )
            return self._put(msgspec.structs.replace(same, incident=incident, scopes=merged, healthy_since_s=None))
        incident = Incident(
            id=stable_id(key_of(best), now),
            state=IncidentState.OPEN,
            opened_at=rfc3339(now),
            resolved_at=None,
            title=best.summary,
            causes=tuple(f.cause for f in findings),
            cells=cells[:CELLS_SHOWN],
            cell_count=len(cells),
            ruled_out=findings[0].ruled_out,
            missing_evidence=findings[0].missing,
            first_sign_at=rfc3339(first_sign_s),
            named_at=rfc3339(now),
        )
        return self._put(Entry(incident=incident, scopes=scopes, opened_s=now, standing=findings[0].standing))

    def update(self, incident_id: str, *, healthy_since_s: float | None, cells: tuple[CellRef, ...]) -> None:
        """Note which cells an open incident concerns now, and since when none of its paths fails."""
        entry = self._entries[incident_id]
        known = tuple(dict.fromkeys((*entry.incident.cells, *cells)))[:CELLS_SHOWN]
        if known == entry.incident.cells and healthy_since_s == entry.healthy_since_s:
            return
        changed = msgspec.structs.replace(
            entry.incident, cells=known, cell_count=max(entry.incident.cell_count, len(known))
        )
        told = changed != entry.incident
        entry = msgspec.structs.replace(entry, incident=changed, healthy_since_s=healthy_since_s)
        if told:
            self._put(entry)
        else:
            self._entries[incident_id] = entry

    def resolve(self, incident_id: str) -> None:
        """Close it: what it explains has passed again."""
        entry = self._entries[incident_id]
        now = self._clock.wall()
        incident = msgspec.structs.replace(entry.incident, state=IncidentState.RESOLVED, resolved_at=rfc3339(now))
        self._put(msgspec.structs.replace(entry, incident=incident))
        self._forget_oldest()

    def close(self) -> None:
        """Close the store."""
        if self._database:
            self._database.close()

    def _put(self, entry: Entry) -> Incident:
        self._entries[entry.incident.id] = entry
        if self._database:
            with self._database:
                self._database.execute(
                    "INSERT OR REPLACE INTO incidents(id, opened_s, entry) VALUES (?, ?, ?)",
                    (entry.incident.id, entry.opened_s, msgspec.json.encode(entry)),
                )
        for listener in self._listeners:
            listener(entry.incident)
        return entry.incident

    def _forget_oldest(self) -> None:
        closed = [e for e in self._entries.values() if e.incident.state is IncidentState.RESOLVED]
        closed.sort(key=lambda e: e.opened_s)
        for entry in closed[: max(0, len(self._entries) - KEPT)]:
            del self._entries[entry.incident.id]
            if self._database:
                with self._database:
                    self._database.execute("DELETE FROM incidents WHERE id = ?", (entry.incident.id,))


def _open(path: FilePath) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE IF NOT EXISTS incidents(id TEXT PRIMARY KEY, opened_s REAL, entry BLOB)")
    return database
