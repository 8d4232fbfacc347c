"""Deployments and their kin → the pods that they would make, for manifests without a cluster. Pure.

Replicas of a workload are alike in everything policies see, except those of a StatefulSet, whose names are labels.
So a StatefulSet gives each of its pods and any other workload two at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controller.policy.objects import Owner, Pod
from controller.policy.parse import Field, name_of, named_ports, namespace_of, read_object

_MOST = 100
_ALIKE = 2


def expand_workload(raw: Mapping[str, Any]) -> tuple[Pod, ...]:
    """Give the pods of a Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, Job or CronJob.

    They are named NAME-0, NAME-1, … and have no address.

    Raises:
        ObjectError: the template is not one that Kubernetes would take.

    """
    field = read_object(raw)
    kind, name = field.value["kind"], name_of(field)
    template = WORKLOADS[kind](field.get("spec"))
    labels = dict(template.get("metadata").get("labels").labels())
    spec = template.get("spec")
    pods = []
    for at in range(_replicas(kind, field.get("spec"))):
        own = dict(labels)
        if kind == "StatefulSet":
            own |= {"statefulset.kubernetes.io/pod-name": f"{name}-{at}", "apps.kubernetes.io/pod-index": str(at)}
        if kind == "Job":
            own |= {"job-name": name, "batch.kubernetes.io/job-name": name}
        pods.append(
            Pod(
                namespace=namespace_of(field),
                name=f"{name}-{at}",
                labels=tuple(sorted(own.items())),
                named_ports=named_ports(spec),
                node=spec.get("nodeName").text(),
                host_network=spec.get("hostNetwork").value is True,
                owner=Owner(kind, name),
            )
        )
    return tuple(pods)


def _replicas(kind: str, spec: Field) -> int:
    """Give how many pods stand for the workload; one where it has none now, since its policy holds all the same."""
    if kind in {"DaemonSet", "Job", "CronJob"}:
        return 1
    replicas = spec.get("replicas")
    count = 1 if replicas.missing else replicas.number(0, 2**31 - 1)
    return max(1, min(count, _MOST if kind == "StatefulSet" else _ALIKE))


def _template(spec: Field) -> Field:
    template = spec.get("template")
    if template.missing:
        template.fail("is required")
    return template


def _cron_template(spec: Field) -> Field:
    return _template(spec.get("jobTemplate").get("spec"))


WORKLOADS: dict[str, Callable[[Field], Field]] = {
    "Deployment": _template,
    "ReplicaSet": _template,
    "ReplicationController": _template,
    "StatefulSet": _template,
    "DaemonSet": _template,
    "Job": _template,
    "CronJob": _cron_template,
}
