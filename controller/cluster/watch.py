"""Keeps a `ClusterStore` in step with the API: list, watch, and again, for as long as the controller runs.

What was known stays known when the API goes away; it is marked stale. Changes are coalesced: whoever waits for them
gets one wake-up and the newest snapshot, however many events came.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final

from controller.cluster.api import ApiError, KubeApi, Raw
from controller.cluster.state import ClusterState, Pool
from controller.cluster.store import OPTIONAL, RESOURCES, SPARED, ClusterStore
from model.clock import Clock
from model.probes import stable_id

log = logging.getLogger(__name__)

WATCH_S: Final = 300
BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0)
ABSENT_S: Final = 30.0
"""How often the API is asked again for a kind that it does not know."""
HEARTBEAT_S: Final = 2.0
HEARTBEAT_TIMEOUT_S: Final = 4.0


def backoff_s(attempt: int, key: str) -> float:
    """How long to wait before attempt 1, 2, …: grows to a bound, spread by up to a half."""
    base = BACKOFF_S[min(attempt, len(BACKOFF_S)) - 1]
    return base * (1 + int(stable_id(key, attempt), 16) % 1000 / 2000)


class ClusterWatch:
    """All watches of the controller."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        watch_s: int = WATCH_S,
        absent_s: float = ABSENT_S,
        pools: tuple[Pool, ...] = (),
    ) -> None:
        """`watch_s`: how long one watch lasts; `absent_s`: see ABSENT_S; `pools`: what the API need not tell."""
        self.store = ClusterStore(pools)
        self.errors: dict[str, str] = {}
        """Kind → why it cannot be watched just now."""
        self.lists = 0
        self.events: Counter[str] = Counter()
        self._api = api
        self._clock = clock
        self._watch_s = watch_s
        self._absent_s = absent_s
        self._changed = asyncio.Event()
        self._versions: dict[str, str] = {}
        self._watching: dict[str, asyncio.Timeout] = {}

    def snapshot(self) -> ClusterState:
        """The cluster as last heard of."""
        return self.store.snapshot()

    async def changed(self) -> ClusterState:
        """Waits until something changed since the last call, and gives the newest state."""
        await self._changed.wait()
        self._changed.clear()
        return self.store.snapshot()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind, (path, _) in RESOURCES.items():
                group.create_task(self._keep(kind, path), name=f"watch {kind}")
            group.create_task(self._heartbeat(), name="watch heartbeat")

    async def _keep(self, kind: str, path: str) -> None:
        """Lists, then watches on from version to version; lists again only if the API no longer has that version."""
        failures = heard = 0
        while True:
            try:
                if kind not in self._versions:
                    await self._list(kind, path)
                heard = self.events[kind]
                await self._follow(kind, path)
                failures = 0
            except ApiError as error:
                if (error.status == 404 and kind in OPTIONAL) or (error.status == 403 and kind in SPARED):
                    self._absent(kind, error)
                    failures = 0
                    await asyncio.sleep(self._absent_s)
                    continue
                failures = 1 if self.events[kind] != heard else failures + 1
                if error.status == 410:
                    self._versions.pop(kind, None)
                    if failures == 1:
                        continue
                self._failed(kind, error, failures)
                await asyncio.sleep(backoff_s(failures, kind))

    def _absent(self, kind: str, error: ApiError) -> None:
        """The API does not know the kind, so there is no object of it; or does not let us see any (403)."""
        self._versions.pop(kind, None)
        if error.status == 404:
            self.errors.pop(kind, None)
        else:
            self._failed(kind, error, 1 if kind not in self.errors else 2)
        if self.store.replace(kind, ()):
            self._changed.set()

    async def _list(self, kind: str, path: str) -> None:
        items, version = await self._api.list(path)
        self.lists += 1
        self._versions[kind] = version
        self.errors.pop(kind, None)
        if self.store.replace(kind, items):
            self._changed.set()

    async def _follow(self, kind: str, path: str) -> None:
        """Takes in events until the watch ends."""
        try:
            async with (
                asyncio.timeout(None) as watching,
                self._api.watch(path, self._versions[kind], self._watch_s) as events,
            ):
                self._watching[kind] = watching
                self.errors.pop(kind, None)
                async for event in events:
                    self._take(kind, event)
        except TimeoutError:
            log.info("watch of %s: renewed", kind)
        finally:
            self._watching.pop(kind, None)

    def _take(self, kind: str, event: Raw) -> None:
        what, raw = event["type"], event["object"]
        if what == "ERROR":
            raise ApiError(int(raw.get("code") or 500), str(raw.get("message") or "watch failed"))
        if what in ("ADDED", "MODIFIED"):
            changed = self.store.put(kind, raw)
        else:
            changed = what == "DELETED" and self.store.remove(kind, raw)
        if changed:
            self._changed.set()
        self._versions[kind] = str(raw["metadata"]["resourceVersion"])
        self.events[kind] += 1

    def _failed(self, kind: str, error: ApiError, failures: int) -> None:
        if failures == 1:
            log.warning("watch of %s: %s", kind, error)
        self.errors[kind] = str(error)

    async def _heartbeat(self) -> None:
        """Tells an API that is silent from a cluster in which nothing happens, and frees watches that died unheard."""
        while True:
            try:
                await self._api.get("/version", timeout_s=HEARTBEAT_TIMEOUT_S)
            except ApiError as error:
                # A refusal is an answer.
                alive = error.status != 0
            else:
                alive = True
            if alive and self.store.stale_since is not None:
                for watching in self._watching.values():
                    watching.reschedule(asyncio.get_running_loop().time())
            if self.store.set_stale(None if alive else self._clock.wall()):
                log.warning("Kubernetes API %s", "answers again" if alive else "does not answer")
                self._changed.set()
            await asyncio.sleep(HEARTBEAT_S)
