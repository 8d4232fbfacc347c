"""Kubernetes YAML into an API server and out of it, as `kubectl apply` and `delete` do.

Serves any API server and any kind it has: kinds are looked up in the server's own discovery.
Must not know what a lab is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from lab.client import ApiClient, ApiError, Object

# What others refer to comes first; the rest in the order given.
_FIRST = ("Namespace", "ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding")


class ManifestError(ValueError):
    """A document that is no Kubernetes object; the message names the source and the document's place in it."""


def read_documents(text: str, source: str) -> list[Object]:
    """Return the objects of a YAML stream, Lists taken apart; raises ManifestError."""
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise ManifestError(f"{source}: {' '.join(str(error).split())}") from None
    found = []
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        for item in _items(document):
            if not isinstance(item, dict) or not item.get("kind") or not item.get("apiVersion"):
                raise ManifestError(f"{source}: document {number}: apiVersion and kind are missing")
            if not isinstance(item.get("metadata"), dict) or not item["metadata"].get("name"):
                raise ManifestError(f"{source}: document {number}: {item['kind']} without metadata.name")
            found.append(item)
    if not found:
        raise ManifestError(f"{source}: no Kubernetes object in it")
    return found


def _items(document: Any) -> Iterator[Any]:
    if isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and "items" in document:
        yield from document["items"] or []
    else:
        yield document


def in_order(items: list[Object]) -> list[Object]:
    """Return the objects in an order in which they may be made."""
    return sorted(items, key=lambda item: _FIRST.index(item["kind"]) if item["kind"] in _FIRST else len(_FIRST))


@dataclass(slots=True)
class Applier:
    """Applies objects through one client; remembers the server's discovery."""

    client: ApiClient
    _known: dict[str, dict[str, Object]] = field(default_factory=dict)

    async def _resource(self, item: Object) -> tuple[str, bool]:
        version = item["apiVersion"]
        if version not in self._known:
            path = f"/api/{version}" if "/" not in version else f"/apis/{version}"
            try:
                listing = await self.client.request("GET", path)
            except ApiError as error:
                if error.code == 404:
                    raise ManifestError(f"{item['kind']}: the API server has no {version}") from None
                raise
            self._known[version] = {entry["kind"]: entry for entry in listing["resources"] if "/" not in entry["name"]}
        entry = self._known[version].get(item["kind"])
        if entry is None:
            raise ManifestError(f"the API server knows no {item['kind']} in {version}")
        group = version.rpartition("/")[0]
        return (f"{group}/{entry['name']}" if group else entry["name"]), bool(entry["namespaced"])

    async def apply(self, item: Object) -> str:
        """Create or change one object; returns a line such as `deployment/web applied`. ApiError, ManifestError."""
        key, namespaced = await self._resource(item)
        name = item["metadata"]["name"]
        namespace = (item["metadata"].get("namespace") or "default") if namespaced else None
        await self.client.patch(key, name, item, namespace, patch_type="apply")
        return f"{item['kind'].lower()}/{name} applied"

    async def delete(self, item: Object) -> str:
        """Delete one object; returns a line that says so, or that it was not there."""
        key, namespaced = await self._resource(item)
        name = item["metadata"]["name"]
        namespace = (item["metadata"].get("namespace") or "default") if namespaced else None
        try:
            await self.client.delete(key, name, namespace)
        except ApiError as error:
            if error.code == 404:
                return f"{item['kind'].lower()}/{name} not found"
            raise
        return f"{item['kind'].lower()}/{name} deleted"
