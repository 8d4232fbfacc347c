"""What pods send to the outside leaves the node with the pod's own address, which nobody outside can answer."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope, columns_of
from model.diagnosis import Cause, Evidence, Object
from model.trace import Seen
from model.words import CellState, MatrixKind, Network

CODE = "cni.masquerade_missing"


def find(case: Case) -> Iterator[Finding]:
    """Yield the node by whose uplink the burst left with a pod's private address, and to which no answer came."""
    flow, trace = case.flow, case.trace
    node, pod = flow.source.node, flow.source.pod
    if pod is None or flow.destination.node or trace is None or node not in trace.told:
        return
    uplink = case.uplinks.get(node, "")
    left = [s for s in trace.told[node].seen if (s.device, s.direction, s.way) == (uplink, "out", "request")]
    answered = any(s.way != "request" for s in trace.told[node].seen)
    if left and not answered and all(s.source in pod.addresses and ip_address(s.source).is_private for s in left):
        yield _finding(case, node, uplink, left)


def _finding(case: Case, node: str, uplink: str, left: list[Seen]) -> Finding:
    count, source, target = sum(s.packets for s in left), left[0].source, case.flow.destination.address
    others = sorted(_reached_from(case) - {node})
    says = f"{count} packets left {uplink} of {node} with the pod's own address {source}, and none came back"
    evidence = [Evidence(fact="trace", node=node, value=source, says=says)]
    if others:
        evidence.append(Evidence(fact="matrix", says=f"pods of {', '.join(others[:4])} reach {target} meanwhile"))
    cause = Cause(
        code=CODE,
        confidence=0.95 if others else 0.85,
        object=Object(kind="Node", name=node),
        summary=f"{node} does not translate what its pods send to the outside: no answer can find the way back",
        evidence=tuple(evidence),
        fix=f"restore the network plugin's MASQUERADE rule in nat POSTROUTING of {node} (restart its pod there)",
        suppresses=CAUSE.suppresses,
    )
    flow = case.flow
    scope = Scope(sources=(node,), kinds=(MatrixKind.EGRESS,), network=Network.POD, family=flow.family)
    if flow.service is not None:
        columns = columns_of(flow.service, flow.service_port)
        scope = Scope(sources=(node,), columns=columns, network=Network.POD, family=flow.family)
    return Finding(cause=cause, scope=scope)


def _reached_from(case: Case) -> set[str]:
    """Nodes whose pods reach the same target now."""
    return {
        path.source_node
        for path, status in case.sampled()
        if path.kind is MatrixKind.EGRESS
        and path.network is Network.POD
        and status.state is CellState.OK
        and path.address == case.flow.destination.address
    }


CAUSE = CauseType(
    code=CODE,
    title="Pods' packets leave a node untranslated",
    sign="egress from the pods of one node; its host, and pods of others, are fine",
    evidence="a traced burst leaves the uplink with the pod's own address, and no answer comes",
    find=find,
    concerns=lambda flow: flow.source.pod is not None and not flow.destination.node,
    late=True,
)
