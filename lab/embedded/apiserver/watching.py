"""Watch: changes of one resource as a stream of JSON lines, from a version on.

A watch reads the store's bounded history at its own pace; one that falls behind it is told 410 and ended, so a slow
client costs no memory.
"""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from aiohttp import web

from lab.embedded.apiserver.errors import Refusal, expired
from lab.embedded.apiserver.events import from_storage
from lab.embedded.apiserver.kinds import EVENTS, Kind, Object, storage_key
from lab.embedded.apiserver.requests import integer, json_response, truth, wants_table
from lab.embedded.apiserver.selectors import Predicate, field_predicate, label_predicate
from lab.embedded.apiserver.store import Change, Entry, Store
from lab.embedded.apiserver.tables import table

BOOKMARK_EVERY_S = 30.0
LONGEST_WATCH_S = 3600
WRITE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource a request is about."""

    kind: Kind
    namespace: str | None
    tests: tuple[Predicate, ...]

    def holds(self, entry: Entry | None) -> bool:
        """Return whether an object is selected."""
        if entry is None:
            return False
        item = entry.item
        if self.namespace and item["metadata"].get("namespace") != self.namespace:
            return False
        return all(test(item) for test in self.tests)

    def entries(self, store: Store) -> Iterator[Entry]:
        """Return the selected objects, in order."""
        for _, entry in store.entries(storage_key(self.kind), self.namespace or None):
            if all(test(entry.item) for test in self.tests):
                yield entry


def selection(kind: Kind, namespace: str | None, name: str, request: web.Request) -> Selection:
    """Return what a list or watch request selects."""
    fields = field_predicate(kind, request.query.get("fieldSelector", ""))
    labels = label_predicate(request.query.get("labelSelector", ""))
    named = field_predicate(kind, f"metadata.name={name}") if name else None
    return Selection(kind, namespace, tuple(test for test in (fields, labels, named) if test is not None))


def list_objects(request: web.Request, chosen: Selection, store: Store) -> web.Response:
    """Answer a list, whole or in pieces (limit and continue)."""
    kind, limit = chosen.kind, integer(request.query, "limit")
    after = _continued(request.query.get("continue", ""))
    entries = list(chosen.entries(store))
    if after is not None:
        entries = [e for e in entries if _place(e) > after]
    metadata: Object = {"resourceVersion": str(store.version)}
    if limit and len(entries) > limit:
        metadata["remainingItemCount"] = len(entries) - limit
        entries = entries[:limit]
        token = msgspec.json.encode(_place(entries[-1]))
        metadata["continue"] = base64.urlsafe_b64encode(token).decode()
    if wants_table(request):
        include = request.query.get("includeObject", "Metadata")
        answer = table(kind, (from_storage(kind, e.item) for e in entries), str(store.version), include=include)
        answer["metadata"] = metadata
        return json_response(answer)
    head = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata}
    body = msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(_raw(kind, e) for e in entries) + b"]}"
    return json_response(body)


def _place(entry: Entry) -> tuple[str, str]:
    metadata = entry.item["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def _continued(token: str) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[str, str])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise Refusal(400, "continue key is not valid") from error


def _raw(kind: Kind, entry: Entry) -> bytes:
    return entry.raw if kind.group != EVENTS else msgspec.json.encode(from_storage(kind, entry.item))


async def watch_objects(request: web.Request, chosen: Selection, store: Store) -> web.StreamResponse:
    """Answer a watch until its time is over, its client is gone or its history is."""
    if "sendInitialEvents" in request.query:
        message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList"
        raise Refusal(422, f"ListOptions.meta.k8s.io is invalid: {message} feature gate is enabled")
    resource, asked = storage_key(chosen.kind), integer(request.query, "resourceVersion")
    version = asked or store.version
    if version < store.oldest(resource):
        raise expired(version, store.oldest(resource))
    first = list(chosen.entries(store)) if not asked else []
    given_s = integer(request.query, "timeoutSeconds")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(LONGEST_WATCH_S if given_s is None else given_s, LONGEST_WATCH_S)
    stream = _Stream(request, chosen.kind)
    changed = store.subscribe(resource)
    try:
        await stream.open()
        await stream.send([stream.line("ADDED", entry) for entry in first])
        while True:
            changed.clear()
            changes = store.changes(resource, version)
            if changes is None:
                await stream.send([stream.error(expired(version, store.oldest(resource)))])
                break
            lines = [line for change in changes if (line := _line(stream, chosen, change)) is not None]
            version = max(version, store.version)
            await stream.send(lines)
            left_s = deadline - loop.time()
            if left_s <= 0:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(left_s, BOOKMARK_EVERY_S))
            if not changed.is_set() and truth(request.query, "allowWatchBookmarks"):
                await stream.send([stream.bookmark(version := store.version)])
        await stream.response.write_eof()
    except (ConnectionError, TimeoutError):
        pass  # the client is gone, or reads no more
    finally:
        store.unsubscribe(resource, changed)
    return stream.response


def _line(stream: "_Stream", chosen: Selection, change: Change) -> bytes | None:
    before, after = chosen.holds(change.before), chosen.holds(change.after)
    if after and change.after is not None:
        return stream.line("MODIFIED" if before else "ADDED", change.after)
    # An object that is selected no longer is shown as it is now.
    return stream.line("DELETED", change.last) if before else None


class _Stream:
    """The lines of one watch, objects or Tables."""

    def __init__(self, request: web.Request, kind: Kind) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._request = request
        self._kind = kind
        self._table = wants_table(request)
        self._include = request.query.get("includeObject", "Metadata")

    async def open(self) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await self.response.prepare(self._request)

    async def send(self, lines: list[bytes]) -> None:
        if lines:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self.response.write(b"".join(lines))

    def line(self, event: str, entry: Entry) -> bytes:
        raw = _raw(self._kind, entry)
        if self._table:
            item = from_storage(self._kind, entry.item)
            shown = table(self._kind, [item], item["metadata"]["resourceVersion"], include=self._include)
            raw = msgspec.json.encode(shown)
        return b'{"type":"' + event.encode() + b'","object":' + raw + b"}\n"

    def bookmark(self, version: int) -> bytes:
        item = {
            "kind": self._kind.name,
            "apiVersion": self._kind.api_version,
            "metadata": {"resourceVersion": str(version), "creationTimestamp": None},
        }
        if self._table:
            item = table(self._kind, [], str(version))
        return msgspec.json.encode({"type": "BOOKMARK", "object": item}) + b"\n"

    @staticmethod
    def error(refusal: Refusal) -> bytes:
        return msgspec.json.encode({"type": "ERROR", "object": refusal.status()}) + b"\n"
