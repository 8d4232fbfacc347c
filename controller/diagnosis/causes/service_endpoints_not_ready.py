"""A Service has pods, and none of them is Ready."""

from __future__ import annotations

from collections.abc import Iterator

from controller.cluster.state import ClusterState, Pod, Service
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope, columns_of
from model.diagnosis import Cause, Evidence, Object

CODE = "service.endpoints_not_ready"
SETTLED_S = 10.0
"""Pods that have been unready for less are on their way up, or just being replaced; that is nobody's fault yet."""
STARTING = frozenset({"ContainerCreating", "PodInitializing"})
STARTING_S = 60.0
"""For so long the kubelet may be at it: it fetches images, mounts volumes, and waits for its turn."""


def find(case: Case) -> Iterator[Finding]:
    """Yield the Service if its selector matches pods and not one backend is ready; intended while they come or go."""
    service = case.flow.service
    if service is None or not service.selector or any(b.ready for b in case.cluster.backends_of(service)):
        return
    pods = case.cluster.pods_of(service)
    if not pods:
        return
    passing = case.cluster.ends_with_namespace(service) or all(_on_its_way(case, pod) for pod in pods)
    yield _finding(case, service, pods, intended=passing)


def _on_its_way(case: Case, pod: Pod) -> bool:
    """Whether it goes, has only just come or turned, or stood on a node that has left the cluster."""
    node = case.cluster.nodes.get(pod.node)
    if pod.deleting or (pod.node and (node is None or node.deleting)):
        return True
    age_s = case.at - pod.created_at
    if pod.waiting_reasons and STARTING.issuperset(pod.waiting_reasons):
        return age_s < STARTING_S
    turned = max((c.changed_at for c in pod.conditions if c.type == "Ready"), default=pod.created_at)
    return case.at - max(turned, pod.created_at, pod.started_at) < SETTLED_S


def _why(cluster: ClusterState, pod: Pod) -> str:
    """Why a pod is not Ready, from its node outwards in."""
    if pod.deleting:
        return "is being deleted"
    if not pod.node:
        said = next((c for c in pod.conditions if c.type == "PodScheduled" and c.status == "False"), None)
        return f"has no node: {said.message or said.reason}" if said else "has no node yet"
    node = cluster.nodes.get(pod.node)
    if node is None:
        return f"was on {pod.node}, which has left the cluster"
    if node.ready is not True and node.ready_reason:
        return f"is on {pod.node}, which is not Ready ({node.ready_reason})"
    if pod.waiting_reasons:
        return f"waits: {', '.join(pod.waiting_reasons)}"
    ready = next((c for c in pod.conditions if c.type == "Ready" and c.status != "True"), None)
    words = ": ".join(filter(None, (ready.reason, ready.message))) if ready is not None else ""
    if words:
        return f"is not Ready ({words})"
    if any(c.type == "ContainersReady" and c.status == "True" for c in pod.conditions):
        # What the node lifecycle controller writes; it gives no reason. The kubelet writes True again at its next sync.
        return f"is not Ready although its containers are, as after a time in which {pod.node} was not heard from"
    return "is not Ready"


def _finding(case: Case, service: Service, pods: tuple[Pod, ...], *, intended: bool) -> Finding:
    name = f"{service.namespace}/{service.name}"
    reasons = [(pod, _why(case.cluster, pod)) for pod in pods]
    first, why = reasons[0]
    summary = f"none of the {len(pods)} pods behind Service {name} is Ready: {first.name} {why}"
    if len(pods) == 1:
        summary = f"the only pod behind Service {name} is not Ready: {first.name} {why}"
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=Object(kind="Service", namespace=service.namespace, name=service.name),
        summary=summary,
        evidence=tuple(
            Evidence(fact="pod_condition", node=pod.node, says=f"pod {pod.namespace}/{pod.name} {says}")
            for pod, says in reasons[:8]
        ),
        fix=f"kubectl -n {service.namespace} describe pod {first.name}   (its events, its readiness probe, its node)",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(columns=columns_of(service)), intended=intended)


CAUSE = CauseType(
    code=CODE,
    title="A Service has pods, and none of them is Ready",
    sign="one Service, refused from everywhere",
    evidence="its EndpointSlices, and the conditions of the pods that its selector matches, and of their nodes",
    find=find,
    concerns=lambda flow: flow.service is not None,
    suppresses=("node.firewall_drop", "fabric.blocked"),
)
