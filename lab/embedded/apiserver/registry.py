"""What create, update, patch and delete mean for each kind: the order in which the other modules are asked.

Synchronous: every operation is whole before the next begins, so nothing here needs a lock. Raises Refusal.
"""

import copy
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lab.embedded.apiserver import addresses, merge, schema
from lab.embedded.apiserver.custom import defined_kind, definition_status
from lab.embedded.apiserver.defaults import apply_defaults
from lab.embedded.apiserver.errors import (
    Problem,
    Refusal,
    already_exists,
    conflict,
    invalid,
    not_found,
    required,
)
from lab.embedded.apiserver.events import from_storage, to_storage
from lab.embedded.apiserver.kinds import BY_KEY, DEFINITIONS, EVENTS, KINDS, Kind, Object, storage_key
from lab.embedded.apiserver.store import Entry, Key, Store
from lab.embedded.apiserver.validation import validate, validate_update

_WITHOUT_GENERATION = ("", "rbac.authorization.k8s.io", "coordination.k8s.io", EVENTS)
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Of one deletion; None where the client said nothing."""

    grace_period_s: int | None = None
    orphan: bool = False
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False


class Registry:
    """The objects of one lab. `families` are the Service address families, the first is the default."""

    def __init__(self, store: Store, families: tuple[str, ...], ca_pem: str) -> None:
        self.store = store
        self._families = families
        self._ca_pem = ca_pem

    def entry(self, kind: Kind, namespace: str, name: str) -> Entry:
        """One object as it is kept; 404 otherwise."""
        entry = self.store.get(storage_key(kind), (namespace, name))
        if entry is None:
            raise not_found(kind, name)
        return entry

    def create(self, kind: Kind, namespace: str, item: Object, *, dry_run: bool = False) -> Object:
        """Create from a decoded object."""
        metadata = item.setdefault("metadata", {})
        self._name(kind, namespace, metadata)
        if kind.namespaced:
            self._admit_namespace(kind, namespace, metadata["name"])
        if metadata.get("resourceVersion"):
            raise Refusal(400, "resourceVersion should not be set on objects to be created")
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp=now())
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"):
            metadata.pop(name, None)
        if kind.key == "pods" or kind.group not in _WITHOUT_GENERATION:
            metadata["generation"] = 1
        if kind.has_status and kind.name != "Node":
            item["status"] = schema.zero_status(kind)
        apply_defaults(kind, item)
        self._start_state(kind, item)
        problems = validate(kind, item)
        if kind.key == "services" and not problems:
            problems = self._allocate(item, None)
        if problems:
            raise invalid(kind, metadata["name"], problems)
        key = (namespace, metadata["name"])
        if self.store.get(storage_key(kind), key) is not None:
            raise already_exists(kind, metadata["name"])
        if dry_run:
            return item
        created = self._put(kind, key, item)
        self._after_create(kind, key, item)
        return created

    def _name(self, kind: Kind, namespace: str, metadata: Object) -> None:
        if not metadata.get("name"):
            prefix = metadata.get("generateName")
            if not prefix:
                raise invalid(kind, "", [required("metadata.name", "name or generateName is required")])
            taken = self.store.get
            while not metadata.get("name") or taken(storage_key(kind), (namespace, metadata["name"])):
                suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
                metadata["name"] = prefix[: 63 - len(suffix)] + suffix
        if kind.namespaced:
            if metadata.get("namespace") not in (None, "", namespace):
                raise Refusal(
                    400, "the namespace of the provided object does not match the namespace sent on the request"
                )
            metadata["namespace"] = namespace
        else:
            metadata.pop("namespace", None)

    def _admit_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        entry = self.store.get("namespaces", ("", namespace))
        if entry is None:
            raise not_found(BY_KEY["namespaces"], namespace)
        if entry.item["metadata"].get("deletionTimestamp"):
            message = (
                f'{kind.qualified} "{name}" is forbidden: unable to create new content in namespace {namespace} '
                "because it is being terminated"
            )
            raise Refusal(403, message)

    def _start_state(self, kind: Kind, item: Object) -> None:
        if kind.name == "Namespace":
            item["status"] = {"phase": "Active"}
        elif kind.key == "pods":
            item["status"] = {"phase": "Pending", "qosClass": _qos(item["spec"])}
            account = item["spec"]["serviceAccountName"]
            if self.store.get("serviceaccounts", (item["metadata"]["namespace"], account)) is None:
                where = f"{item['metadata']['namespace']}/{account}"
                text = f'error looking up service account {where}: serviceaccount "{account}" not found'
                raise Refusal(403, f'pods "{item["metadata"]["name"]}" is forbidden: {text}')
        elif kind.key in ("services", "networking.k8s.io/ingresses"):
            item["status"] = {"loadBalancer": {}}
        elif kind.key == DEFINITIONS:
            item["status"] = definition_status(item["metadata"]["creationTimestamp"])

    def _after_create(self, kind: Kind, key: Key, item: Object) -> None:
        if kind.name == "Namespace":
            self._furnish(key[1])
        owners = item["metadata"].get("ownerReferences") or ()
        if owners and not any(self.store.has_uid(owner["uid"]) for owner in owners):
            # Its owner went while it was being made: the garbage collector's work.
            self.delete(kind, *key, DeleteOptions())

    def _furnish(self, namespace: str) -> None:
        account = {"metadata": {"name": "default"}}
        self.create(BY_KEY["serviceaccounts"], namespace, self.typed(BY_KEY["serviceaccounts"], account))
        ca: Object = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self._ca_pem}}
        self.create(BY_KEY["configmaps"], namespace, self.typed(BY_KEY["configmaps"], ca))

    @staticmethod
    def typed(kind: Kind, item: Object) -> Object:
        """Return the object led by its apiVersion and kind."""
        rest = {name: value for name, value in item.items() if name not in ("apiVersion", "kind")}
        return {"apiVersion": kind.api_version, "kind": kind.name, **rest}

    def update(self, kind: Kind, key: Key, item: Object, sub: str = "", *, dry_run: bool = False) -> Object:
        """Replace the object, or its status."""
        kept = self.entry(kind, *key)
        old = from_storage(kind, kept.fresh())
        new = self._carry_over(kind, old, item, sub)
        apply_defaults(kind, new)
        problems = []
        if kind.key == "services" and not sub:
            # What was given out is kept or taken back before the rest is judged.
            problems = self._allocate(new, old)
        problems = problems or validate(kind, new) + validate_update(kind, new, old)
        if problems:
            raise invalid(kind, key[1], problems)
        if new == old or dry_run:
            return new
        spec_changed = {k: v for k, v in new.items() if k not in ("metadata", "status")} != {
            k: v for k, v in old.items() if k not in ("metadata", "status")
        }
        if spec_changed and "generation" in old["metadata"]:
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        stored = self._put(kind, key, new)
        metadata = new["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            if not metadata.get("deletionGracePeriodSeconds") and kind.name != "Namespace":
                self._remove(kind, key)
            elif kind.name == "Namespace":
                self._finish_namespace(key[1])
        return stored

    def _carry_over(self, kind: Kind, old: Object, item: Object, sub: str) -> Object:
        metadata, before = item.setdefault("metadata", {}), old["metadata"]
        version, uid = metadata.get("resourceVersion"), metadata.get("uid")
        if version and version != before["resourceVersion"]:
            raise conflict(kind, before["name"])
        if uid and uid != before["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
            raise conflict(kind, before["name"], why)
        if metadata.get("name", before["name"]) != before["name"]:
            raise Refusal(400, f"the name of the object ({metadata['name']}) does not match the name on the URL")
        if metadata.get("namespace") not in (None, "", before.get("namespace")):
            raise Refusal(400, "the namespace of the object does not match the namespace on the URL")
        if sub == "status":
            new = copy.deepcopy(old)
            new["status"] = item.get("status") or {}
            return new
        for name in _SERVERS_OWN:
            metadata.pop(name, None)
            if name in before:
                metadata[name] = before[name]
        if kind.has_status:
            item.pop("status", None)
            if "status" in old:
                item["status"] = old["status"]
        if kind.name == "Namespace":
            item.setdefault("spec", {})["finalizers"] = old["spec"].get("finalizers") or []
        return self.typed(kind, item)

    def _allocate(self, item: Object, old: Object | None) -> list[Problem]:
        own = (item["metadata"]["namespace"], item["metadata"]["name"])
        others = (entry.item for key, entry in self.store.entries("services") if key != own)
        before = None if old is None else old["spec"]
        return addresses.allocate(item["spec"], before, addresses.taken_by(others), self._families)

    def patched(self, kind: Kind, old: Object, content: str, patch: Any) -> Object:
        """Return the object that a patch of a content type makes of an old one; nothing is kept."""
        definition = schema.definition_of(kind.group, kind.name)
        try:
            if content == "application/json-patch+json":
                new = merge.json_patch(old, patch)
            elif content == "application/merge-patch+json":
                new = merge.merge_patch(old, patch)
            elif content == "application/strategic-merge-patch+json":
                new = merge.strategic_merge(definition, old, patch)
            elif content.startswith("application/apply-patch"):
                new = merge.apply_merge(definition, old, patch)
            else:
                raise Refusal(415, f"the body of the request was in an unknown format - {content}")
        except (merge.PatchError, TypeError, AttributeError) as error:
            name = old["metadata"]["name"]
            problem = Problem("patch", "FieldValueInvalid", f"Invalid value: {error}")
            raise invalid(kind, name, [problem]) from error
        if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            raise Refusal(400, "the patch leaves no object")
        return new

    def delete(self, kind: Kind, namespace: str, name: str, options: DeleteOptions) -> Object | None:
        """Delete; returns the object while it is still on its way out, None when it is gone."""
        key = (namespace, name)
        kept = self.entry(kind, namespace, name)
        metadata = kept.item["metadata"]
        if options.uid not in (None, metadata["uid"]):
            raise conflict(kind, name, f"Precondition failed: UID in precondition: {options.uid}")
        if options.version not in (None, metadata["resourceVersion"]):
            raise conflict(kind, name, f"Precondition failed: resourceVersion {options.version}")
        if options.dry_run:
            return None
        if kind.name == "Namespace":
            return self._delete_namespace(key, kept)
        grace_s = _grace(kind, kept.item, options)
        if options.orphan:
            self._orphan(metadata["uid"])
        if grace_s == 0 and not metadata.get("finalizers"):
            self._remove(kind, key)
            return None
        if metadata.get("deletionTimestamp") and grace_s >= metadata.get("deletionGracePeriodSeconds", 0):
            return kept.item
        item = kept.fresh()
        item["metadata"]["deletionTimestamp"] = now(grace_s)
        item["metadata"]["deletionGracePeriodSeconds"] = grace_s
        if "generation" in item["metadata"]:
            item["metadata"]["generation"] += 1
        return self.store.put(storage_key(kind), key, item).item

    def _remove(self, kind: Kind, key: Key) -> None:
        gone = self.store.remove(storage_key(kind), key).item
        self._collect(gone["metadata"]["uid"])
        if kind.key == DEFINITIONS:
            defined = defined_kind(gone)
            for inner in self.store.keys(storage_key(defined)):
                self._remove(defined, inner)
        if kind.namespaced:
            self._finish_namespace(key[0])

    def _collect(self, uid: str) -> None:
        for resource, key in self.store.dependents(uid):
            entry = self.store.get(resource, key)
            if entry is None:
                continue
            owners = entry.item["metadata"]["ownerReferences"]
            left = [owner for owner in owners if owner["uid"] != uid and self.store.has_uid(owner["uid"])]
            if left:
                item = entry.fresh()
                item["metadata"]["ownerReferences"] = left
                self.store.put(resource, key, item)
            else:
                self.delete(BY_KEY[resource], *key, DeleteOptions())

    def _orphan(self, uid: str) -> None:
        for resource, key in self.store.dependents(uid):
            entry = self.store.get(resource, key)
            if entry is not None:
                item = entry.fresh()
                owners = [o for o in item["metadata"]["ownerReferences"] if o["uid"] != uid]
                item["metadata"]["ownerReferences"] = owners
                self.store.put(resource, key, item)

    def _delete_namespace(self, key: Key, kept: Entry) -> Object | None:
        name = key[1]
        if name in ("default", "kube-system", "kube-public"):
            raise Refusal(403, f'namespaces "{name}" is forbidden: this namespace may not be deleted')
        item = kept.item
        if not item["metadata"].get("deletionTimestamp"):
            item = kept.fresh()
            item["metadata"]["deletionTimestamp"] = now()
            item["status"] = {**(item.get("status") or {}), "phase": "Terminating"}
            item = self.store.put("namespaces", key, item).item
            for kind in KINDS:
                if kind.namespaced and kind.stored and kind.group != EVENTS:
                    for _, name_inside in self.store.keys(storage_key(kind), name):
                        # An owner's removal may have taken it along already.
                        if self.store.get(storage_key(kind), (name, name_inside)) is not None:
                            self.delete(kind, name, name_inside, DeleteOptions())
        self._finish_namespace(name)
        return item if self.store.get("namespaces", key) is not None else None

    def _finish_namespace(self, name: str) -> None:
        entry = self.store.get("namespaces", ("", name))
        if entry is None or not entry.item["metadata"].get("deletionTimestamp"):
            return
        empty = not any(self.store.keys(resource, name) for resource in self.store.resources())
        if empty and not entry.item["metadata"].get("finalizers"):
            self._remove(BY_KEY["namespaces"], ("", name))

    def _put(self, kind: Kind, key: Key, item: Object) -> Object:
        stored = self.store.put(storage_key(kind), key, to_storage(kind, self.typed(kind, item)))
        return from_storage(kind, stored.item)


_SERVERS_OWN = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "name",
    "namespace",
    "resourceVersion",
    "generateName",
    "managedFields",
)


def now(offset_s: int = 0) -> str:
    """Return the time as Kubernetes writes it, to the second."""
    return (datetime.now(UTC) + timedelta(seconds=offset_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _grace(kind: Kind, item: Object, options: DeleteOptions) -> int:
    """Seconds until a pod that a node runs may be removed; nothing else waits."""
    if kind.key != "pods" or not item["spec"].get("nodeName"):
        return 0
    if (item.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    if options.grace_period_s is not None:
        return max(0, options.grace_period_s)
    default: int = item["spec"].get("terminationGracePeriodSeconds", 30)
    return default


def _qos(spec: Object) -> str:
    every = [container.get("resources") or {} for container in spec.get("containers") or ()]
    if not any(r.get("limits") or r.get("requests") for r in every):
        return "BestEffort"
    for resources in every:
        limits = resources.get("limits") or {}
        if set(limits) < {"cpu", "memory"} or (resources.get("requests") or limits) != limits:
            return "Burstable"
    return "Guaranteed"
