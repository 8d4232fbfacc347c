"""A Service whose selector matches no pod: it is wrong, or the workload behind it has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from controller.cluster.state import ClusterState, Pod, Service, Workload
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope, columns_of
from model.diagnosis import Cause, Evidence, Object

CODE = "service.no_endpoints"
MADE_S = 30.0
"""After a workload was written its pods may take so long to be made, where many are."""


def find(case: Case) -> Iterator[Finding]:
    """Yield the Service if it has a selector, no backend at all, and no pod that the selector matches."""
    service, cluster = case.flow.service, case.cluster
    if service is None or not service.selector or cluster.backends_of(service) or cluster.pods_of(service):
        return
    meant = [
        w
        for w in cluster.workloads.values()
        if w.namespace == service.namespace and _matches(service.selector, w.template_labels)
    ]
    wanting = [w for w in meant if w.replicas]
    if wanting:
        found = _pods_missing(service, wanting[0])
        passing = not wanting[0].failure and case.at - wanting[0].written_at < MADE_S
    else:
        found, passing = _finding(cluster, service, meant[0].name if meant else ""), bool(meant)
    # with its namespace goes the Service, too
    yield replace(found, intended=passing or cluster.ends_with_namespace(service))


def _pods_missing(service: Service, workload: Workload) -> Finding:
    """The selector is right, and the workload's pods are not made."""
    name, owner = f"{service.namespace}/{service.name}", f"{workload.kind} {workload.name}"
    why = f": {workload.failure}" if workload.failure else ""
    wants = f"{workload.replicas} pod{'s' if workload.replicas > 1 else ''}"
    describe = f"kubectl -n {service.namespace} describe {workload.kind.lower()} {workload.name}"
    evidence = (
        _no_address(name),
        Evidence(fact="workload", says=f"{owner} wants {wants} and has none{why}", value=str(workload.replicas)),
    )
    return _found(
        service,
        f"Service {name} has no endpoints: its {owner} wants {wants} and has none{why}",
        evidence,
        f"{describe}   (and the events of its ReplicaSet)",
    )


def _no_address(name: str) -> Evidence:
    return Evidence(fact="endpoints", says=f"no EndpointSlice of {name} has an address")


def _finding(cluster: ClusterState, service: Service, idle: str) -> Finding:
    name = f"{service.namespace}/{service.name}"
    selector = ",".join(f"{k}={v}" for k, v in sorted(service.selector.items()))
    evidence = [
        _no_address(name),
        Evidence(
            fact="selector",
            says=f"its selector {selector} matches no pod of namespace {service.namespace}",
            value=selector,
        ),
    ]
    summary = f"Service {name} has no endpoints: its selector {selector} matches no pod"
    fix = f"kubectl -n {service.namespace} edit service {service.name}   (spec.selector)"
    near = _nearest(cluster, service)
    if idle:
        summary = f"Service {name} has no endpoints: its workload {idle} is scaled to 0"
        fix = f"kubectl -n {service.namespace} scale deployment {idle} --replicas=1"
    elif near is not None:
        pod, differing = near
        said = ", ".join(f"{key} is {pod.labels.get(key, 'missing')}" for key in differing)
        wanted = ", ".join(f"{key}={service.selector[key]}" for key in differing)
        evidence.append(
            Evidence(
                fact="nearest_pod", says=f"the nearest pod is {pod.namespace}/{pod.name}: there {said}, wanted {wanted}"
            )
        )
        summary += f"; nearest is pod {pod.name}, whose {said} where {wanted} is wanted"
        values = ", ".join(f'"{key}": "{pod.labels[key]}"' for key in differing if key in pod.labels)
        if values:
            patch = f'{{"spec": {{"selector": {{{values}}}}}}}'
            fix = f"kubectl -n {service.namespace} patch service {service.name} -p '{patch}'"
    return _found(service, summary, tuple(evidence), fix)


def _found(service: Service, summary: str, evidence: tuple[Evidence, ...], fix: str) -> Finding:
    cause = Cause(
        code=CODE,
        confidence=0.99,
        object=Object(kind="Service", namespace=service.namespace, name=service.name),
        summary=summary,
        evidence=evidence,
        fix=fix,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(columns=columns_of(service)))


def _pods(cluster: ClusterState, service: Service) -> list[Pod]:
    return [
        p for p in cluster.pods.values() if p.namespace == service.namespace and p.phase not in {"Succeeded", "Failed"}
    ]


def _matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _nearest(cluster: ClusterState, service: Service) -> tuple[Pod, list[str]] | None:
    """The pod that differs in the fewest labels of the selector, if it shares a key or a word of its name at all."""

    def likeness(pod: Pod) -> tuple[int, int, int]:
        agree = sum(pod.labels.get(k) == v for k, v in service.selector.items())
        named = sum(
            service.name in (pod.labels.get(k) or "") or (pod.labels.get(k) or "\0") in service.name
            for k in service.selector
        )
        has = sum(k in pod.labels for k in service.selector)
        return (agree, named + int(pod.name.startswith(service.name)), has)

    best = max(_pods(cluster, service), key=likeness, default=None)
    if best is None or likeness(best)[:2] == (0, 0):
        return None
    return best, [k for k, v in sorted(service.selector.items()) if best.labels.get(k) != v]


CAUSE = CauseType(
    code=CODE,
    title="A Service's selector matches no pod",
    sign="one Service, refused from everywhere",
    evidence="empty EndpointSlices, the selector, and the pod that comes nearest to it",
    find=find,
    concerns=lambda flow: flow.service is not None,
    suppresses=("node.firewall_drop", "fabric.blocked"),
)
