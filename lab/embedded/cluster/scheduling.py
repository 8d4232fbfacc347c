"""Which node a pod goes to, or why to none. Pure; words of the refusals as kube-scheduler's.

Spread: the node with the fewest pods of the same owner, then the fewest pods at all. No resources are counted: a lab's
pods are small processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.client import Object
from lab.embedded.cluster import objects

_UNSCHEDULABLE_TAINT: Object = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@dataclass(frozen=True, slots=True)
class Placement:
    """The answer: a node's name, or why there is none."""

    node: str | None
    message: str


def tolerates(tolerations: Sequence[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    """Return whether one of the tolerations matches the taint."""
    for toleration in tolerations:
        if toleration.get("effect") not in (None, "", taint.get("effect")):
            continue
        if toleration.get("operator") == "Exists":
            if not toleration.get("key") or toleration["key"] == taint.get("key"):
                return True
        elif (toleration.get("key"), toleration.get("value") or "") == (taint.get("key"), taint.get("value") or ""):
            return True
    return False


def refusal(pod: Object, node: Object) -> str | None:
    """Return why `pod` may not run on `node` in the scheduler's words, None where it may."""
    spec, node_spec = pod["spec"], node.get("spec") or {}
    tolerations = spec.get("tolerations") or []
    if node_spec.get("unschedulable") and not tolerates(tolerations, _UNSCHEDULABLE_TAINT):
        return "were unschedulable"
    for taint in node_spec.get("taints") or []:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not tolerates(tolerations, taint):
            value = f": {taint['value']}" if taint.get("value") else ": "
            return f"had untolerated taint {{{taint.get('key')}{value}}}"
    if not _affinity(spec, node):
        return "didn't match Pod's node affinity/selector"
    if not objects.condition_true(node, "Ready"):
        return "had untolerated taint {node.kubernetes.io/not-ready: }"
    return None


def _affinity(spec: Mapping[str, Any], node: Object) -> bool:
    have = objects.labels(node)
    if any(have.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not required:
        return True
    fields = {"metadata.name": objects.name(node)}
    return any(
        objects.matches({"matchExpressions": term.get("matchExpressions")}, have)
        and objects.matches({"matchExpressions": term.get("matchFields")}, fields)
        for term in required.get("nodeSelectorTerms") or []
    )


def place(pod: Object, nodes: Sequence[Object], pods: Sequence[Object]) -> Placement:
    """Choose a node for `pod`; `pods` are all pods there are, placed or not."""
    reasons: Counter[str] = Counter()
    fit = []
    for node in nodes:
        reason = refusal(pod, node)
        if reason is None:
            fit.append(objects.name(node))
        else:
            reasons[reason] += 1
    if not fit:
        parts = ", ".join(f"{count} node(s) {reason}" for reason, count in sorted(reasons.items()))
        return Placement(None, f"0/{len(nodes)} nodes are available: {parts or 'no nodes'}.")
    everything: Counter[str] = Counter()
    siblings: Counter[str] = Counter()
    owner = objects.owner_uid(pod)
    for other in pods:
        where = other["spec"].get("nodeName")
        if where and objects.pod_active(other):
            everything[where] += 1
            if owner and objects.owner_uid(other) == owner:
                siblings[where] += 1
    chosen = min(fit, key=lambda where: (siblings[where], everything[where], where))
    return Placement(chosen, f"Successfully assigned {objects.namespace(pod)}/{objects.name(pod)} to {chosen}")
