"""Keeps a dict of one resource's objects in step with the API server, whatever happens on the way.

List, watch, list again after 410, and after a disconnect with a bounded backoff; for ever, until cancelled.
Must not decide anything: who reads the objects is told that something changed, and looks.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import aiohttp
import msgspec

from lab.client import ApiClient, ApiError, Object

Key = tuple[str, str]
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]
OnChange = Callable[[ChangeType, Object], None]

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0

log = logging.getLogger(__name__)


class Reflector:
    """`objects` by (namespace, name), "" for cluster-wide ones; read it, never write it.

    `changed` is set after each change (the reader clears it); `synced` once the first list is in;
    `on_change` is called with each difference, synchronously, after `objects` holds it.
    """

    def __init__(
        self,
        client: ApiClient,
        key: str,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        changed: asyncio.Event | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        """Share `changed` among several reflectors, and one loop waits for them all."""
        self.key = key
        self.objects: dict[Key, Object] = {}
        self.changed = changed if changed is not None else asyncio.Event()
        self.synced = asyncio.Event()
        self._client = client
        self._namespace = namespace
        self._selectors: dict[str, Any] = {
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        self._on_change = on_change
        self._version: str | None = None

    async def run(self) -> None:
        """Run until cancelled; failures of server and network are waited out, others are raised."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                if self._version is None:
                    self._version = await self._list()
                async for version in self._watch(self._version):
                    self._version, backoff_s = version, FIRST_BACKOFF_S
            except ApiError as error:
                if error.code == 410:
                    self._version = None
                else:
                    # A refusal may end (a role comes, a server starts): keep what is known.
                    log.warning("%s: %s", self.key, error)
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
                log.info("%s: %s", self.key, error or type(error).__name__)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)

    async def _list(self) -> str:
        listing = await self._client.list_raw(self.key, self._namespace, **self._selectors)
        kind, api = str(listing.get("kind", "")).removesuffix("List"), listing.get("apiVersion")
        fresh = {key_of(item): {"apiVersion": api, "kind": kind, **item} for item in listing.get("items") or []}
        for key in self.objects.keys() - fresh.keys():
            self._apply("DELETED", self.objects[key])
        for key, item in fresh.items():
            known = self.objects.get(key)
            if known is None:
                self._apply("ADDED", item)
            elif known["metadata"].get("resourceVersion") != item["metadata"].get("resourceVersion"):
                self._apply("MODIFIED", item)
        if not self.synced.is_set():
            self.synced.set()
            self.changed.set()
        return str(listing["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> AsyncIterator[str]:
        async with self._client.watch(self.key, self._namespace, version, **self._selectors) as events:
            async for kind, item in events:
                if kind in ("ADDED", "MODIFIED"):
                    # An ADDED of a known key is a change: the server resends it where a selector let go.
                    self._apply("MODIFIED" if key_of(item) in self.objects else "ADDED", item)
                elif kind == "DELETED":
                    self._apply("DELETED", item)
                yield item["metadata"]["resourceVersion"]

    def _apply(self, kind: ChangeType, item: Object) -> None:
        if kind == "DELETED":
            self.objects.pop(key_of(item), None)
        else:
            self.objects[key_of(item)] = item
        self.changed.set()
        if self._on_change is not None:
            self._on_change(kind, item)


def key_of(item: Object) -> Key:
    """Return (namespace, name) of an object, "" where it has no namespace."""
    metadata = item["metadata"]
    return metadata.get("namespace") or "", metadata["name"]
