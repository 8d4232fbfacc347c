"""What outlives the controller besides incidents: which agents there were, so that a silent one is missed.

Results are kept in memory alone (`controller.matrix.matrix`); agents send again what was not acknowledged, and since a
new matrix is empty, nothing counts twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from controller.agents import AgentInfo


class AgentMemory:
    """A table of agents in SQLite. Small rows, written when a connection comes or goes."""

    def __init__(self, file: Path | None) -> None:
        """Opens or makes the file; None keeps nothing. A damaged file is begun anew."""
        self._database = _open(file) if file else None

    def load(self) -> tuple[AgentInfo, ...]:
        """The agents of before; rows that cannot be read are left out."""
        if self._database is None:
            return ()
        found = []
        for (row,) in self._database.execute("SELECT info FROM agents ORDER BY node"):
            try:
                found.append(msgspec.json.decode(row, type=AgentInfo))
            except msgspec.DecodeError:
                continue
        return tuple(found)

    def save(self, info: AgentInfo) -> None:
        """Keeps an agent."""
        if self._database is not None:
            with self._database:
                row = (info.node, msgspec.json.encode(info))
                self._database.execute("INSERT OR REPLACE INTO agents(node, info) VALUES (?, ?)", row)

    def forget(self, nodes: Iterable[str]) -> None:
        """Drops agents."""
        if self._database is not None:
            with self._database:
                self._database.executemany("DELETE FROM agents WHERE node = ?", [(node,) for node in nodes])

    def close(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()


def _open(file: Path) -> sqlite3.Connection:
    try:
        return _connect(file)
    except sqlite3.DatabaseError:
        for part in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
            part.unlink(missing_ok=True)
        return _connect(file)


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE IF NOT EXISTS agents(node TEXT PRIMARY KEY, info BLOB)")
    return database
