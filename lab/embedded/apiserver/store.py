"""Objects in memory, in step with an SQLite file: what a write has returned, `kill -9` does not lose.

Each object is kept beside its JSON, so that lists and watches only join bytes. Changes of the recent past are kept
per resource, in a bounded ring from which watches read; a watch that is behind the ring is too old (410).
Must not know what objects mean. Objects that are handed out are shared: readers never change them.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lab.embedded.apiserver.kinds import Object

Key = tuple[str, str]
HISTORY_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is kept."""

    version: int
    item: Object
    raw: bytes

    def fresh(self) -> Object:
        """Return a copy that the caller may change."""
        copy: Object = msgspec.json.decode(self.raw)
        return copy


@dataclass(frozen=True, slots=True)
class Change:
    """One step of history. `before` is None for a creation, `after` is None for a removal."""

    version: int
    before: Entry | None
    after: Entry | None
    # What a removal shows: the object at its last state, with the version of the removal.
    last: Entry


class _Shelf:
    """The objects of one resource, and its recent history."""

    __slots__ = ("entries", "history", "oldest", "waiting")

    def __init__(self, oldest: int) -> None:
        self.entries: dict[Key, Entry] = {}
        self.history: deque[Change] = deque()
        # Watches may begin at this version or later.
        self.oldest = oldest
        self.waiting: set[asyncio.Event] = set()


class Store:
    """Writes are synchronous and ordered; a write costs some 50 µs."""

    def __init__(self, path: Path | str, history_length: int = HISTORY_LENGTH) -> None:
        """Open or make the file. Raises sqlite3.Error where it is no store."""
        self._length = history_length
        self._database = sqlite3.connect(path, isolation_level=None)
        # The page cache outlives the process: OFF loses data with the machine only, and so the lab.
        self._database.executescript(
            """PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
            CREATE TABLE IF NOT EXISTS objects (
                resource TEXT, namespace TEXT, name TEXT, version INTEGER, body BLOB,
                PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER);"""
        )
        row = self._database.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()
        self.version: int = row[0] if row else 0
        # History starts empty: what was before this process began cannot be watched.
        self._start = self.version
        self._shelves: dict[str, _Shelf] = {}
        self._by_owner: dict[str, set[tuple[str, Key]]] = {}
        self._by_uid: dict[str, tuple[str, Key]] = {}
        query = "SELECT resource, namespace, name, version, body FROM objects"
        for resource, namespace, name, version, body in self._database.execute(query):
            entry = Entry(version, msgspec.json.decode(body), body)
            self._shelf(resource).entries[namespace, name] = entry
            self._index(resource, (namespace, name), entry)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def get(self, resource: str, key: Key) -> Entry | None:
        """One object, None if there is none."""
        return self._shelf(resource).entries.get(key)

    def keys(self, resource: str, namespace: str | None = None) -> list[Key]:
        """The keys of a resource in order, of one namespace if given."""
        entries = self._shelf(resource).entries
        if namespace is None:
            return sorted(entries)
        return sorted(key for key in entries if key[0] == namespace)

    def entries(self, resource: str, namespace: str | None = None) -> Iterator[tuple[Key, Entry]]:
        """Keys and objects of a resource in order, of one namespace if given."""
        found = self._shelf(resource).entries
        return ((key, found[key]) for key in self.keys(resource, namespace))

    def resources(self) -> list[str]:
        """The resources of which anything was ever kept or watched."""
        return list(self._shelves)

    def dependents(self, uid: str) -> list[tuple[str, Key]]:
        """Where the objects lie that name the uid among their owners."""
        return sorted(self._by_owner.get(uid, ()))

    def has_uid(self, uid: str) -> bool:
        """Whether an object with the uid exists."""
        return uid in self._by_uid

    def put(self, resource: str, key: Key, item: Object) -> Entry:
        """Create or replace; stamps metadata.resourceVersion into the item given."""
        shelf = self._shelf(resource)
        before = shelf.entries.get(key)
        version = self.version + 1
        item["metadata"]["resourceVersion"] = str(version)
        after = Entry(version, item, msgspec.json.encode(item))
        with self._transaction(version):
            self._database.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", (resource, *key, version, after.raw)
            )
        if before is not None:
            self._forget(resource, key, before)
        shelf.entries[key] = after
        self._index(resource, key, after)
        self._record(shelf, Change(version, before, after, after))
        return after

    def remove(self, resource: str, key: Key) -> Entry:
        """Remove; KeyError if it is not there. Returns the last state."""
        shelf = self._shelf(resource)
        before = shelf.entries[key]
        version = self.version + 1
        with self._transaction(version):
            self._database.execute(
                "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", (resource, *key)
            )
        del shelf.entries[key]
        self._forget(resource, key, before)
        item = before.fresh()
        item["metadata"]["resourceVersion"] = str(version)
        last = Entry(version, item, msgspec.json.encode(item))
        self._record(shelf, Change(version, before, None, last))
        return last

    def oldest(self, resource: str) -> int:
        """The oldest version from which a watch of the resource can be served."""
        return self._shelf(resource).oldest

    def changes(self, resource: str, after: int) -> list[Change] | None:
        """The changes later than a version, in order; None if that is too old."""
        shelf = self._shelf(resource)
        if after < shelf.oldest:
            return None
        found: list[Change] = []
        for change in reversed(shelf.history):
            if change.version <= after:
                break
            found.append(change)
        found.reverse()
        return found

    def subscribe(self, resource: str) -> asyncio.Event:
        """Return an event that is set at each change of the resource; give it back to `unsubscribe`."""
        event = asyncio.Event()
        self._shelf(resource).waiting.add(event)
        return event

    def unsubscribe(self, resource: str, event: asyncio.Event) -> None:
        """End a subscription."""
        self._shelf(resource).waiting.discard(event)

    def _shelf(self, resource: str) -> _Shelf:
        shelf = self._shelves.get(resource)
        if shelf is None:
            shelf = self._shelves[resource] = _Shelf(self._start)
        return shelf

    def _transaction(self, version: int) -> "_Transaction":
        return _Transaction(self._database, version)

    def _record(self, shelf: _Shelf, change: Change) -> None:
        self.version = change.version
        shelf.history.append(change)
        if len(shelf.history) > self._length:
            shelf.oldest = shelf.history.popleft().version
        for event in shelf.waiting:
            event.set()

    def _index(self, resource: str, key: Key, entry: Entry) -> None:
        metadata = entry.item["metadata"]
        self._by_uid[metadata["uid"]] = (resource, key)
        for owner in metadata.get("ownerReferences") or ():
            self._by_owner.setdefault(owner["uid"], set()).add((resource, key))

    def _forget(self, resource: str, key: Key, entry: Entry) -> None:
        metadata = entry.item["metadata"]
        self._by_uid.pop(metadata["uid"], None)
        for owner in metadata.get("ownerReferences") or ():
            places = self._by_owner.get(owner["uid"], set())
            places.discard((resource, key))
            if not places:
                self._by_owner.pop(owner["uid"], None)


class _Transaction:
    """A write and the version that it makes are kept together or not at all."""

    def __init__(self, database: sqlite3.Connection, version: int) -> None:
        self._database = database
        self._version = version

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._database.execute("INSERT OR REPLACE INTO counters VALUES ('version', ?)", (self._version,))
        self._database.execute("COMMIT" if kind is None else "ROLLBACK")
