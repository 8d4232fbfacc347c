"""Reading Kubernetes objects: small pure functions over the dicts of lab.client.

Must not write, and must not know of namespaces or processes.
"""

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from lab.client import Object

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own: no vowels, so no words


def now_text() -> str:
    """Return the time as Kubernetes writes it: UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time() -> str:
    """Return the time as Leases and Events write it: UTC, microseconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def short_hash(*parts: str, length: int = 5) -> str:
    """Return a suffix as Kubernetes gives to generated names, the same each time for the same parts."""
    number = int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:16], "big")
    letters = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "".join(letters)


def digest(value: Any) -> str:
    """Return a hash of any JSON value, independent of the order of keys."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def name(item: Object) -> str:
    """metadata.name."""
    return str(item["metadata"]["name"])


def namespace(item: Object) -> str:
    """metadata.namespace, "" where there is none."""
    return str(item["metadata"].get("namespace") or "")


def uid(item: Object) -> str:
    """metadata.uid."""
    return str(item["metadata"].get("uid") or "")


def labels(item: Object) -> dict[str, str]:
    """metadata.labels."""
    return item["metadata"].get("labels") or {}


def annotations(item: Object) -> dict[str, str]:
    """metadata.annotations."""
    return item["metadata"].get("annotations") or {}


def terminating(item: Object) -> bool:
    """Return whether the object has a deletionTimestamp."""
    return bool(item["metadata"].get("deletionTimestamp"))


def owner_uid(item: Object) -> str | None:
    """Uid of the controlling owner."""
    for reference in item["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return str(reference.get("uid"))
    return None


def owner_reference(owner: Object, kind: str, api_version: str) -> Object:
    """Return the reference by which `owner` controls another object."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def condition(item: Object, kind: str) -> Object | None:
    """Return the status condition of type `kind`."""
    for entry in (item.get("status") or {}).get("conditions") or []:
        if entry.get("type") == kind:
            found: Object = entry
            return found
    return None


def condition_true(item: Object, kind: str) -> bool:
    """Return whether the status condition of type `kind` is True."""
    entry = condition(item, kind)
    return entry is not None and entry.get("status") == "True"


def pod_active(pod: Object) -> bool:
    """Return whether a controller counts the pod: not terminating, not finished."""
    return not terminating(pod) and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def matches(selector: Mapping[str, Any] | None, have: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector (matchLabels, matchExpressions) selects these labels; None selects nothing."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(have.get(key) != value for key, value in wanted.items()):
        return False
    return all(_expression(entry, have) for entry in selector.get("matchExpressions") or [])


def _expression(entry: Mapping[str, Any], have: Mapping[str, str]) -> bool:
    key, operator, values = entry["key"], entry["operator"], entry.get("values") or []
    value = have.get(key)
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator == "Exists":
        return key in have
    if operator == "DoesNotExist":
        return key not in have
    if value is None or not value.lstrip("-").isdigit() or len(values) != 1:
        return False
    return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])


def container_ports(pod: Object) -> Iterable[tuple[Object, Object]]:
    """Yield (container, port) for every declared port."""
    for container in pod["spec"].get("containers") or []:
        for port in container.get("ports") or []:
            yield container, port


def replicas_of(item: Object) -> int:
    """spec.replicas, whose default is 1."""
    count = item["spec"].get("replicas")
    return 1 if count is None else int(count)
