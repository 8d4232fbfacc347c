"""A node's rules do not translate one Service that has backends, while they translate others."""

from __future__ import annotations

from collections.abc import Iterator

from controller.cluster.state import Backend, Service, ServicePort
from controller.diagnosis.case import Case, reference_of
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope, columns_of
from model.diagnosis import Cause, Evidence, Object
from model.facts import Walk
from model.words import CellState

CODE = "service.not_synced"
PROXY = "kube-proxy"
SYNCED_S = 30.0
"""So long after a Service or its first backend came, its rules may still be on their way to a busy node."""


def find(case: Case) -> Iterator[Finding]:
    """Yield the Service where the source's host leaves its address untranslated, and does not so with another's.

    A host that translates none has no kube-proxy with rules (IPVS, eBPF), or none at all: that is not told here.
    """
    flow = case.flow
    service, port = flow.service, flow.service_port
    if service is None or port is None or not flow.virtual_address:
        return
    backends = [b for b in case.cluster.backends(service, port) if b.ready and b.family == flow.family]
    reference = reference_of(flow, case.cluster)
    walks = case.walks((flow.source.node, ""))
    mine = _walk_to(walks, flow.virtual_address, port.port)
    if not backends or reference is None or mine is None or not _is_left(mine):
        return
    other = _walk_to(walks, reference[1].destination, reference[1].destination_port)
    if other is not None and other.verdict == "accept" and _is_translated(other):
        yield _finding(case, service, port, backends, mine, reference[0])


def _walk_to(walks: tuple[Walk, ...], address: str, port: int) -> Walk | None:
    return next((w for w in walks if (w.asked.destination, w.asked.destination_port) == (address, port)), None)


def _is_left(walk: Walk) -> bool:
    """Whether the packet goes on as it came, or is refused in kube-proxy's own name, for want of a rule for it."""
    if walk.verdict == "accept":
        return _destinations(walk) == {walk.asked.destination}
    by = walk.decided_by
    return walk.verdict in {"reject", "drop"} and by is not None and by.owner == PROXY


def _is_translated(walk: Walk) -> bool:
    return walk.asked.destination not in _destinations(walk)


def _destinations(walk: Walk) -> set[str]:
    return {p.destination for p in walk.alternatives or (walk.packet,)}


def _finding(
    case: Case, service: Service, port: ServicePort, backends: list[Backend], walk: Walk, reference: Service
) -> Finding:
    node, name = case.flow.source.node, f"{service.namespace}/{service.name}"
    by = walk.decided_by
    left = "goes on untranslated" if by is None else f"is refused by {by.table} {by.chain}, rule {by.position}"
    evidence = [
        Evidence(
            fact="packet_walk",
            node=node,
            says=f"a packet to {case.flow.virtual_address}:{port.port} {left}; one to {reference.key} is translated",
        ),
        Evidence(fact="endpoints", says=f"its EndpointSlices have {len(backends)} ready, as {_text(backends[0])}"),
    ]
    peers = _peers(case, service, port)
    if peers:
        evidence.append(Evidence(fact="probe", says=f"it answers from {', '.join(peers[:4])}"))
    cause = Cause(
        code=CODE,
        confidence=0.96,
        object=Object(kind="Service", namespace=service.namespace, name=service.name, node=node),
        summary=f"{node} has no rules that lead Service {name} port {port.port} to its backends",
        evidence=tuple(evidence),
        fix=f"kubectl -n kube-system delete pod -l k8s-app=kube-proxy --field-selector spec.nodeName={node}"
        "   (which has it write all rules anew; look into its log first)",
        suppresses=CAUSE.suppresses,
    )
    scope = Scope(columns=columns_of(service, port), sources=(node,))
    return Finding(cause=cause, scope=scope, intended=_is_fresh(case, service, backends))


def _text(backend: Backend) -> str:
    address = f"[{backend.address}]" if backend.family == 6 else backend.address
    return f"{address}:{backend.port}"


def _is_fresh(case: Case, service: Service, backends: list[Backend]) -> bool:
    pods = [pod for b in backends if (pod := case.cluster.pod_of(b)) is not None]
    since = [c.changed_at for pod in pods for c in pod.conditions if c.type == "Ready"]
    return case.at - max(service.written_at, min(since, default=0.0)) < SYNCED_S


def _peers(case: Case, service: Service, port: ServicePort) -> list[str]:
    columns = columns_of(service, port)
    return sorted(
        {
            path.source_node
            for path, status in case.sampled()
            if path.destination in columns
            and status.state is CellState.OK
            and path.address == case.flow.virtual_address
            and path.source_node != case.flow.source.node
        }
    )


CAUSE = CauseType(
    code=CODE,
    title="A node lacks the rules of a Service",
    sign="one Service from one node; its backends can be reached from there",
    evidence="a packet to its address leaves the node's rules untranslated, and one to another Service does not",
    find=find,
    concerns=lambda flow: bool(flow.virtual_address),
    suppresses=("fabric.blocked", "cni.masquerade_missing"),
)
