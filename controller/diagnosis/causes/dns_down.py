"""DNS servers of the cluster that do not answer: one of them, or all."""

from __future__ import annotations

from collections.abc import Iterator

from controller.cluster.state import Pod, Service
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.probes import ProbeResult
from model.words import MatrixKind, Method, Outcome

REPLICA = "dns.replica_down"
ALL = "dns.all_down"
SILENT = frozenset({Outcome.TIMEOUT, Outcome.REFUSED, Outcome.UNREACHABLE})
"""No DNS answer at all. A SERVFAIL is an answer: then the server is up, and something behind it is wrong."""


def find_replica(case: Case) -> Iterator[Finding]:
    """Yield each replica that does not answer even its own node's host, unless none does."""
    down = _down(case)
    if down and len(down) < len(case.replicas):
        for pod in down:
            yield _replica(case, pod, case.replicas[pod.uid], _unasked(case))


def find_all(case: Case) -> Iterator[Finding]:
    """Yield the DNS Service if there are no replicas, or if none of them answers its own node's host."""
    service = case.cluster.dns_service()
    if service is None:
        return
    pods = case.cluster.dns_pods()
    down = _down(case)
    measured = [uid for uid, result in case.replicas.items() if result.outcome is not Outcome.NOT_MEASURED]
    if not pods or (down and len(down) == len(measured) == len(pods)):
        yield _all(case, service, down)


def _down(case: Case) -> list[Pod]:
    """Replicas whose own node's host got no answer: neither policy nor any network between hosts can be to blame."""
    found = []
    for uid, result in case.replicas.items():
        pod = case.cluster.pods.get(uid)
        if pod is not None and result.attempts and all(a.outcome in SILENT for a in result.attempts):
            found.append(pod)
    return sorted(found, key=lambda p: (p.namespace, p.name))


def _unasked(case: Case) -> tuple[str, ...]:
    """Replicas of which nothing is known, as nobody could ask them."""
    pods = (case.cluster.pods.get(u) for u, r in case.replicas.items() if r.outcome is Outcome.NOT_MEASURED)
    return tuple(sorted(f"{pod.namespace}/{pod.name}" for pod in pods if pod is not None))


def _says(case: Case, pod: Pod, result: ProbeResult) -> tuple[Evidence, ...]:
    asked = Evidence(
        fact="dns_query",
        node=pod.node,
        says=f"asked from its own node {pod.node}, {pod.namespace}/{pod.name} gives no answer: {result.outcome}",
        value=str(result.outcome),
    )
    facts = case.facts.get((pod.node, pod.uid))
    if facts is None or facts.sockets is None:
        return (asked,)
    listens = any(s.port == case.flow.port and s.protocol == "udp" for s in facts.sockets)
    state = "has a socket on" if listens else "does not listen on"
    return (asked, Evidence(fact="sockets", node=pod.node, says=f"the pod {state} port {case.flow.port}/udp"))


def _replica(case: Case, pod: Pod, result: ProbeResult, unasked: tuple[str, ...]) -> Finding:
    name = f"{pod.namespace}/{pod.name}"
    ready = "is Ready all the same" if pod.ready else "is not Ready"
    evidence = (*_says(case, pod, result), Evidence(fact="pod", says=f"pod {name} {ready}"))
    cause = Cause(
        code=REPLICA,
        confidence=0.8 if unasked else 0.97,
        object=Object(kind="Pod", namespace=pod.namespace, name=pod.name, node=pod.node),
        summary=f"DNS replica {name} on {pod.node} does not answer" + ("" if unasked else "; the others do"),
        evidence=evidence,
        fix=f"kubectl -n {pod.namespace} logs {pod.name}; kubectl -n {pod.namespace} delete pod {pod.name}",
    )
    service = case.cluster.dns_service()
    targets = (pod.uid, *((service.uid,) if service is not None else ()))
    missing = tuple(f"whether {other} answers: its node could not be asked" for other in unasked)
    return Finding(cause=cause, scope=Scope(targets=targets), missing=missing)


def _all(case: Case, service: Service, down: list[Pod]) -> Finding:
    name = f"{service.namespace}/{service.name}"
    says = tuple(e for pod in down for e in _says(case, pod, case.replicas[pod.uid]))
    none = Evidence(fact="endpoints", says=f"no pod stands behind Service {name}")
    selector = ",".join(f"{k}={v}" for k, v in sorted(service.selector.items()))
    summary = (
        f"none of the {len(down)} DNS servers behind {name} answers"
        if down
        else f"there is no DNS server: Service {name} has no pod"
    )
    cause = Cause(
        code=ALL,
        confidence=0.98,
        object=Object(kind="Service", namespace=service.namespace, name=service.name),
        summary=summary,
        evidence=says or (none,),
        fix=f"kubectl -n {service.namespace} get pods -l {selector}   (then their logs)",
        suppresses=DNS_ALL_DOWN.suppresses,
    )
    return Finding(
        cause=cause,
        scope=Scope(kinds=(MatrixKind.DNS, MatrixKind.EGRESS, MatrixKind.SERVICE), targets=_targets(case, service)),
    )


def _targets(case: Case, service: Service) -> tuple[str, ...]:
    """What hangs on DNS: the Service, its pods, and egress targets, which are reached by name."""
    egress = {p.target_uid for p in case.paths.values() if p.kind is MatrixKind.EGRESS}
    replicas = {p.target_uid for p in case.paths.values() if p.kind is MatrixKind.DNS}
    return tuple(sorted({service.uid, *replicas, *egress}))


DNS_REPLICA_DOWN = CauseType(
    code=REPLICA,
    title="One DNS server does not answer",
    sign="the column of one replica, and a fraction of all names; the other replicas are fine",
    evidence="each replica asked directly, from its own node's host",
    find=find_replica,
    concerns=lambda flow: flow.method is Method.DNS,
)
DNS_ALL_DOWN = CauseType(
    code=ALL,
    title="No DNS server of the cluster answers",
    sign="all names from everywhere",
    evidence="each replica asked directly, from its own node's host",
    find=find_all,
    concerns=lambda flow: flow.method is Method.DNS,
    suppresses=(REPLICA, "fabric.blocked", "service.no_endpoints"),
)
