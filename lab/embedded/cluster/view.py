"""The cluster as this service sees it, its own writes included.

Reflectors lag behind one's own writes by a moment; a controller that looks again in that moment would write twice. So
what was written is laid over what is watched until the watch has caught up. Must not decide anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp

from lab.client import ApiClient, ApiError, Object, resource_path
from lab.embedded.cluster import objects
from lab.reflector import ChangeType, Key, Reflector, key_of

KINDS: Final = (
    "nodes",
    "pods",
    "services",
    "apps/deployments",
    "apps/replicasets",
    "apps/daemonsets",
    "apps/statefulsets",
    "discovery/endpointslices",
)
OVERLAY_S: Final = 10.0
WRITES_AT_ONCE: Final = 16

log = logging.getLogger(__name__)


def version(item: Object) -> int:
    """Return resourceVersion as a number, by which the lab's API server orders writes."""
    text = str(item["metadata"].get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


class View:
    """Objects of all kinds this service works with; `changed` is set after each difference."""

    def __init__(self, client: ApiClient) -> None:
        """`client` must be open while `run` runs."""
        self.client = client
        self.changed = asyncio.Event()
        self._reflectors = {
            kind: Reflector(client, kind, changed=self.changed, on_change=self._seen(kind)) for kind in KINDS
        }
        # kind → key → (object, None if deleted; version; monotonic deadline)
        self._written: dict[str, dict[Key, tuple[Object | None, int, float]]] = {kind: {} for kind in KINDS}
        self._slots = asyncio.Semaphore(WRITES_AT_ONCE)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors.values():
                group.create_task(reflector.run())

    async def synced(self) -> None:
        """Return once every kind has been listed."""
        for reflector in self._reflectors.values():
            await reflector.synced.wait()

    def all(self, kind: str) -> list[Object]:
        """Return all objects of a kind, own writes included."""
        watched, written = self._reflectors[kind].objects, self._written[kind]
        if not written:
            return list(watched.values())
        now = time.monotonic()
        result = dict(watched)
        for key, (item, number, deadline) in list(written.items()):
            have = watched.get(key)
            if now > deadline or (have is not None and version(have) > number):
                del written[key]
            elif item is None:
                result.pop(key, None)
            elif have is None or version(have) < number:
                result[key] = item
            else:
                del written[key]
        return list(result.values())

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return one object, or None."""
        written = self._written[kind].get((namespace, name))
        watched = self._reflectors[kind].objects.get((namespace, name))
        if written is None or time.monotonic() > written[2]:
            return watched
        return written[0] if watched is None or version(watched) < written[1] else watched

    def _seen(self, kind: str) -> Callable[[ChangeType, Object], None]:
        def seen(change: ChangeType, item: Object) -> None:
            written = self._written[kind].get(key_of(item))
            if written is not None and (change == "DELETED" or version(item) >= written[1]):
                self._written[kind].pop(key_of(item), None)

        return seen

    def _lay(self, kind: str, item: Object) -> None:
        if kind in self._written:
            self._written[kind][key_of(item)] = (item, version(item), time.monotonic() + OVERLAY_S)
            self.changed.set()

    async def create(self, kind: str, body: Object) -> Object | None:
        """Create; None where it exists already or is refused (then logged)."""
        return await self._write(kind, body, self.client.create(kind, body))

    async def patch(self, kind: str, item: Object, body: Object, sub: str = "") -> Object | None:
        """Merge `body` into the object; None where it is gone or refused (then logged)."""
        namespace = objects.namespace(item) or None
        return await self._write(kind, item, self.client.patch(kind, objects.name(item), body, namespace, sub=sub))

    async def bind(self, pod: Object, body: Object) -> bool:
        """Give the pod its node by the binding subresource; False where it is gone or has one."""
        path = resource_path("pods", objects.namespace(pod), objects.name(pod), "binding")
        if await self._write(None, pod, self.client.request("POST", path, body=body)) is None:
            return False
        placed = {**pod, "spec": {**pod["spec"], "nodeName": body["target"]["name"]}}
        placed["metadata"] = {**pod["metadata"], "resourceVersion": str(version(pod) + 1)}
        self._lay("pods", placed)
        return True

    async def delete(self, kind: str, item: Object, grace_period_s: int | None = None) -> None:
        """Delete the object with that uid; already gone is fine."""
        namespace = objects.namespace(item) or None
        call = self.client.delete(kind, objects.name(item), namespace, grace_period_s=grace_period_s)
        answer = await self._write(None, item, call)
        if answer is None or answer.get("kind") != item.get("kind") or grace_period_s == 0:
            return
        if objects.terminating(answer):
            self._lay(kind, answer)

    async def _write(self, kind: str | None, item: Object, call: Awaitable[Object]) -> Object | None:
        async with self._slots:
            try:
                answer = await call
            except ApiError as error:
                if error.code not in (404, 409):
                    log.warning("%s %s: %s", item.get("kind"), objects.name(item), error)
                return None
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.info("%s %s: %s", item.get("kind"), objects.name(item), error or type(error).__name__)
                return None
        if kind is not None:
            self._lay(kind, answer)
        return answer

    async def event(self, item: Object, kind: str, reason: str, message: str, *, component: str) -> None:
        """Record an event about `item`; `kind` is Normal or Warning."""
        namespace = objects.namespace(item) or "default"
        now = objects.now_text()
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{objects.name(item)}.{time.time_ns():x}",
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": item.get("apiVersion", "v1"),
                "kind": item.get("kind", "Pod"),
                "name": objects.name(item),
                "namespace": objects.namespace(item),
                "uid": objects.uid(item),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": component},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._write(None, body, self.client.create("events", body))
