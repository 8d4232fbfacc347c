"""A host does not forward packets, so its pods reach only their own node."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Flow, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.words import Network

CODE = "node.ip_forward_off"
EHOSTUNREACH = 113


def find(case: Case) -> Iterator[Finding]:
    """Yield the sysctl that stops forwarding on a node that has to forward packets of the flow.

    The kernel looks at the incoming device (IPv4, `IN_DEV_FORWARD` in net/ipv4/route.c) or at `all` (IPv6).
    """
    told: set[tuple[str, str]] = set()
    for node, source, destination, _reply in case.flow.ways():
        if _is_own(node, source) or _is_own(node, destination):
            continue
        answer = case.route_answer(node, source, destination)
        refused = answer is not None and answer.errno == EHOSTUNREACH
        incoming = answer.incoming if answer is not None else ""
        for key in _keys(case.flow.family, incoming):
            if case.sysctl(node, key) == "0" and (node, key) not in told and (refused or case.flow.family == 6):
                told.add((node, key))
                yield _finding(case.flow, node, key, source, destination, refused=refused)
                break


def _is_own(node: str, place: Place) -> bool:
    """Whether packets of this end are the host's own on `node`: sent or taken by it, not forwarded."""
    return place.node == node and place.pod is None


def _keys(family: int, incoming: str) -> tuple[str, ...]:
    if family == 6:
        return ("net.ipv6.conf.all.forwarding",)
    device = (f"net.ipv4.conf.{incoming}.forwarding",) if incoming else ()
    return ("net.ipv4.ip_forward", *device)


def _finding(flow: Flow, node: str, key: str, source: Place, destination: Place, *, refused: bool) -> Finding:
    evidence = [Evidence(fact="sysctl", node=node, value="0", says=f"{key} is 0 on {node}")]
    if refused:
        said = f"the kernel of {node} refuses to forward {source.address} → {destination.address}: EHOSTUNREACH"
        evidence.append(Evidence(fact="route_get", node=node, value="113", says=said))
    cause = Cause(
        code=CODE,
        confidence=0.99 if refused else 0.96,
        object=Object(kind="sysctl", node=node, name=key),
        summary=f"{node} does not forward IPv{flow.family} packets ({key} is 0), so its pods reach only their own node",
        evidence=tuple(evidence),
        fix=f"sysctl -w {key}=1",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(nodes=(node,), crossing=True, network=Network.POD, family=flow.family))


CAUSE = CauseType(
    code=CODE,
    title="A host does not forward packets",
    sign="pods of one node reach, and are reached by, only their own node; the host network is fine",
    evidence="the forwarding sysctl, and the kernel's own answer to a route query for a forwarded packet",
    find=find,
    concerns=lambda flow: flow.network is Network.POD,
    needs=frozenset({"sysctls"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down"),
)
