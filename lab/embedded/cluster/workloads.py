"""Deployments → ReplicaSets → Pods, DaemonSets → Pods, StatefulSets → Pods. Pure: objects in, changes out.

Each function looks at the whole present state and returns what is still to do; the caller writes it and asks again.
Names are derived, not random, so that asking twice before the first answer is seen makes no pod twice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Final

from lab.client import Object
from lab.embedded.cluster import objects
from lab.embedded.cluster.changes import Change, Create, Delete, Patch
from lab.embedded.cluster.scheduling import refusal

HASH_LABEL: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"


def _pod(owner: Object, kind: str, name: str, extra_labels: dict[str, str]) -> Object:
    template = copy.deepcopy(owner["spec"]["template"])
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": objects.namespace(owner),
            "labels": {**(metadata.get("labels") or {}), **extra_labels},
            "annotations": metadata.get("annotations") or {},
            "ownerReferences": [objects.owner_reference(owner, kind, "apps/v1")],
        },
        "spec": template["spec"],
    }


def _owned(owner: Object, items: Sequence[Object]) -> list[Object]:
    return [item for item in items if objects.owner_uid(item) == objects.uid(owner)]


def _ready(pods: Sequence[Object]) -> int:
    return sum(1 for pod in pods if objects.condition_true(pod, "Ready"))


def _status(key: str, item: Object, status: Object) -> list[Change]:
    have = item.get("status") or {}
    if all(have.get(field) == value for field, value in status.items()):
        return []
    return [Patch(key, item, {"status": status}, "status")]


def replica_set(item: Object, pods: Sequence[Object]) -> list[Change]:
    """Return the pods to make or remove for one ReplicaSet, and its status."""
    if objects.terminating(item):
        return []
    everyone = _owned(item, pods)
    mine = [pod for pod in everyone if objects.pod_active(pod)]
    wanted = objects.replicas_of(item)
    changes: list[Change] = []
    if len(mine) < wanted:
        taken = {objects.name(pod) for pod in pods if objects.namespace(pod) == objects.namespace(item)}
        ordinal = 0
        for _ in range(wanted - len(mine)):
            while (name := f"{objects.name(item)}-{objects.short_hash(objects.uid(item), str(ordinal))}") in taken:
                ordinal += 1
            taken.add(name)
            changes.append(Create("pods", _pod(item, "ReplicaSet", name, {})))
    elif len(mine) > wanted:
        # the unready go first, then the youngest
        order = sorted(
            mine,
            key=lambda pod: (
                objects.condition_true(pod, "Ready"),
                _negative(pod["metadata"].get("creationTimestamp", "")),
            ),
        )
        changes += [Delete("pods", pod) for pod in order[: len(mine) - wanted]]
    ready = _ready(mine)
    status = {
        "observedGeneration": item["metadata"].get("generation", 1),
        "replicas": len(mine),
        "fullyLabeledReplicas": len(mine),
        "readyReplicas": ready,
        "availableReplicas": ready,
    }
    return changes + _status("apps/replicasets", item, status)


def _negative(timestamp: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in timestamp)


def _fraction(value: Any, total: int, default: str, *, up: bool) -> int:
    value = default if value is None else value
    if isinstance(value, str) and value.endswith("%"):
        exact = total * int(value[:-1]) / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def deployment(item: Object, sets: Sequence[Object], pods: Sequence[Object]) -> list[Change]:
    """Return the ReplicaSets to make or scale for one Deployment (rolling or Recreate), and its status."""
    if objects.terminating(item):
        return []
    spec = item["spec"]
    mine = _owned(item, sets)
    template_hash = objects.short_hash(objects.digest(spec["template"]), length=10)
    current = next((one for one in mine if objects.labels(one).get(HASH_LABEL) == template_hash), None)
    old = [one for one in mine if one is not current]
    wanted = objects.replicas_of(item)
    paused = bool(spec.get("paused"))
    revisions = [int(objects.annotations(one).get(REVISION) or 0) for one in mine]
    changes: list[Change] = []
    surge, unavailable = _limits(spec, wanted)
    old_total = sum(objects.replicas_of(one) for one in old)
    recreate = (spec.get("strategy") or {}).get("type") == "Recreate"
    old_pods = [pod for one in old for pod in _owned(one, pods)]
    if current is None:
        if not paused:
            count = max(0, min(wanted, wanted + surge - old_total)) if mine else wanted
            count = 0 if recreate and old_pods else count
            revision = str(max(revisions, default=0) + 1)
            changes.append(Create("apps/replicasets", _new_set(item, template_hash, count, revision)))
    else:
        have = objects.replicas_of(current)
        count = max(0, min(wanted, wanted + surge - old_total))
        count = (have if recreate and old_pods else count) if not paused else have
        # never shrink the new set below what it has unless the Deployment itself was scaled down
        count = max(count, min(have, wanted))
        if count != have:
            changes.append(Patch("apps/replicasets", current, {"spec": {"replicas": count}}))
        newest = max(revisions)
        if int(objects.annotations(current).get(REVISION) or 0) < newest:
            changes.append(_revise("apps/replicasets", current, str(newest + 1)))
    if not paused:
        changes += _shrink_old(item, old, current, pods, 0 if recreate else wanted - unavailable)
    return changes + _deployment_status(item, mine, current, pods, wanted, unavailable)


def _limits(spec: Object, wanted: int) -> tuple[int, int]:
    rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    surge = _fraction(rolling.get("maxSurge"), wanted, "25%", up=True)
    unavailable = _fraction(rolling.get("maxUnavailable"), wanted, "25%", up=False)
    return (surge, unavailable) if surge or unavailable else (surge, 1)


def _new_set(item: Object, template_hash: str, count: int, revision: str) -> Object:
    template = copy.deepcopy(item["spec"]["template"])
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), HASH_LABEL: template_hash}
    selector = copy.deepcopy(item["spec"]["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: template_hash}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{objects.name(item)}-{template_hash}",
            "namespace": objects.namespace(item),
            "labels": dict(metadata["labels"]),
            "annotations": {REVISION: revision},
            "ownerReferences": [objects.owner_reference(item, "Deployment", "apps/v1")],
        },
        "spec": {"replicas": count, "selector": selector, "template": template},
    }


def _revise(key: str, item: Object, revision: str) -> Patch:
    return Patch(key, item, {"metadata": {"annotations": {REVISION: revision}}})


def _shrink_old(
    item: Object,
    old: Sequence[Object],
    current: Object | None,
    pods: Sequence[Object],
    least_available: int,
) -> list[Change]:
    """Old sets give way as far as the available pods allow; sets past the history limit go."""
    changes: list[Change] = []
    available = _ready([pod for one in old for pod in _owned(one, pods) if objects.pod_active(pod)])
    if current is not None:
        available += _ready([pod for pod in _owned(current, pods) if objects.pod_active(pod)])
    spare = available - least_available
    for one in sorted(old, key=objects.name):
        have = objects.replicas_of(one)
        if have == 0:
            continue
        ready = _ready([pod for pod in _owned(one, pods) if objects.pod_active(pod)])
        unready = have - ready
        gone = min(have, unready + max(0, min(spare, ready)))
        spare -= max(0, gone - unready)
        if gone:
            changes.append(Patch("apps/replicasets", one, {"spec": {"replicas": have - gone}}))
    keep = item["spec"].get("revisionHistoryLimit")
    keep = 10 if keep is None else int(keep)
    empty = [one for one in old if not objects.replicas_of(one) and not _owned(one, pods)]
    empty.sort(key=lambda one: int(objects.annotations(one).get(REVISION) or 0))
    changes += [Delete("apps/replicasets", one) for one in empty[: max(0, len(empty) - keep)]]
    return changes


def _deployment_status(
    item: Object,
    mine: Sequence[Object],
    current: Object | None,
    pods: Sequence[Object],
    wanted: int,
    unavailable: int,
) -> list[Change]:
    everyone = [pod for one in mine for pod in _owned(one, pods) if objects.pod_active(pod)]
    updated = [pod for pod in _owned(current, pods) if objects.pod_active(pod)] if current else []
    ready = _ready(everyone)
    enough = ready >= wanted - unavailable
    complete = len(updated) == wanted == len(everyone) and ready >= wanted
    set_name = objects.name(current) if current else objects.name(item)
    conditions = [
        _condition(
            item,
            "Available",
            enough,
            "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            f"Deployment {'has' if enough else 'does not have'} minimum availability.",
        ),
        _condition(
            item,
            "Progressing",
            True,
            "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            f'ReplicaSet "{set_name}" {"has successfully progressed" if complete else "is progressing"}.',
        ),
    ]
    status: Object = {
        "observedGeneration": item["metadata"].get("generation", 1),
        "replicas": len(everyone),
        "updatedReplicas": len(updated),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, wanted - ready),
        "conditions": conditions,
    }
    changes = _status("apps/deployments", item, status)
    revision = objects.annotations(current).get(REVISION) if current else None
    if revision and objects.annotations(item).get(REVISION) != revision:
        changes.append(_revise("apps/deployments", item, revision))
    return changes


def _condition(item: Object, kind: str, true: bool, reason: str, message: str) -> Object:
    status = "True" if true else "False"
    have = objects.condition(item, kind)
    if have and (have.get("status"), have.get("reason"), have.get("message")) == (status, reason, message):
        return have
    changed = have["lastTransitionTime"] if have and have.get("status") == status else objects.now_text()
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": objects.now_text(),
        "lastTransitionTime": changed,
    }


_DAEMON_TOLERATIONS: Final = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": effect}
    for key, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
]


def _tolerating(spec: Object) -> Object:
    return {**spec, "tolerations": [*(spec.get("tolerations") or []), *_DAEMON_TOLERATIONS]}


def _daemon_fits(pod_spec: Object, node: Object) -> bool:
    reason = refusal({"spec": pod_spec}, node)
    return reason is None or reason == "had untolerated taint {node.kubernetes.io/not-ready: }"


def daemon_set(item: Object, nodes: Sequence[Object], pods: Sequence[Object]) -> list[Change]:
    """Return the pods to make or remove for one DaemonSet (one on each node that takes it), and its status."""
    if objects.terminating(item):
        return []
    revision = objects.short_hash(objects.digest(item["spec"]["template"]), length=10)
    pod_spec = _tolerating(item["spec"]["template"]["spec"])
    mine = _owned(item, pods)
    wanted = [objects.name(node) for node in nodes if _daemon_fits(pod_spec, node)]
    changes: list[Change] = []
    held: dict[str, Object] = {}
    for pod in mine:
        where = pod["spec"].get("nodeName") or ""
        if objects.terminating(pod):
            held.setdefault(where, pod)
        elif where not in wanted or (where in held and not objects.terminating(held[where])):
            changes.append(Delete("pods", pod))
        else:
            held[where] = pod
    stale = [
        pod
        for pod in held.values()
        if objects.labels(pod).get("controller-revision-hash") != revision and objects.pod_active(pod)
    ]
    broken = len(wanted) - _ready([pod for pod in held.values() if objects.pod_active(pod)])
    on_delete = (item["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"
    if not on_delete:
        # one at a time, and those that do not work anyway
        unready = [pod for pod in stale if not objects.condition_true(pod, "Ready")]
        changes += [Delete("pods", pod) for pod in unready or (stale[:1] if broken == 0 else [])]
    for where in wanted:
        if where not in held:
            attempt = sum(1 for pod in mine if pod["spec"].get("nodeName") == where)
            name = f"{objects.name(item)}-{objects.short_hash(objects.uid(item), where, str(attempt), revision)}"
            pod = _pod(item, "DaemonSet", name, {"controller-revision-hash": revision})
            pod["spec"] = {**pod_spec, "nodeName": where}
            changes.append(Create("pods", pod))
    return changes + _daemon_status(item, wanted, held, mine, revision)


def _daemon_status(
    item: Object, wanted: Sequence[str], held: dict[str, Object], mine: Sequence[Object], revision: str
) -> list[Change]:
    running = [pod for where, pod in held.items() if where in wanted and objects.pod_active(pod)]
    ready = _ready(running)
    updated = [pod for pod in running if objects.labels(pod).get("controller-revision-hash") == revision]
    status = {
        "observedGeneration": item["metadata"].get("generation", 1),
        "desiredNumberScheduled": len(wanted),
        "currentNumberScheduled": len(running),
        "numberMisscheduled": sum(1 for pod in mine if pod["spec"].get("nodeName") not in wanted),
        "numberReady": ready,
        "numberAvailable": ready,
        "numberUnavailable": max(0, len(wanted) - ready),
        "updatedNumberScheduled": len(updated),
    }
    return _status("apps/daemonsets", item, status)


def stateful_set(item: Object, pods: Sequence[Object]) -> list[Change]:
    """Return the pods to make or remove for one StatefulSet, in order of their numbers, and its status."""
    if objects.terminating(item):
        return []
    wanted = objects.replicas_of(item)
    prefix = objects.name(item)
    have = {objects.name(pod): pod for pod in _owned(item, pods)}
    changes: list[Change] = []
    parallel = item["spec"].get("podManagementPolicy") == "Parallel"
    for ordinal in range(wanted):
        name = f"{prefix}-{ordinal}"
        existing = have.get(name)
        if existing is None:
            pod = _pod(item, "StatefulSet", name, {"statefulset.kubernetes.io/pod-name": name})
            pod["spec"] |= {"hostname": name, "subdomain": item["spec"].get("serviceName") or ""}
            changes.append(Create("pods", pod))
        if not parallel and (existing is None or not objects.condition_true(existing, "Ready")):
            break
    surplus = [name for name in have if int(name.rpartition("-")[2]) >= wanted]
    changes += [Delete("pods", have[name]) for name in surplus if not objects.terminating(have[name])]
    ready = _ready(list(have.values()))
    status = {
        "observedGeneration": item["metadata"].get("generation", 1),
        "replicas": len(have),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "currentReplicas": len(have),
        "updatedReplicas": len(have),
    }
    return changes + _status("apps/statefulsets", item, status)
