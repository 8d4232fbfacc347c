"""A node's VXLAN device does not know the tunnel end of another node."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Facts, Link, Neighbour
from model.words import Network

CODE = "cni.vtep_missing"
UNUSABLE = frozenset({"failed", "incomplete", "none", ""})


def find(case: Case) -> Iterator[Finding]:
    """Yield the missing neighbour or FDB entry: gateway → MAC → the peer's address, each step as the kernel takes it.

    A VXLAN device that does not learn and has no default destination drops what it has no entry for
    (drivers/net/vxlan, RFC 7348 section 4).
    """
    for node, _source, destination, _reply in case.flow.ways():
        facts = case.host(node)
        if destination.node == node or facts is None or facts.neighbours is None or facts.fdb is None:
            continue
        best = case.best_route(node, destination.address)
        link = case.link(node, best.device) if best is not None else None
        if best is None or link is None or link.vxlan is None:
            continue
        found = _step(case, node, destination, facts, link, best.gateway or destination.address)
        if found is not None:
            yield found


def _step(case: Case, node: str, destination: Place, facts: Facts, link: Link, gateway: str) -> Finding | None:
    peer = destination.node
    entry = next((n for n in facts.neighbours or () if n.device == link.name and n.address == gateway), None)
    if entry is None or not entry.mac or entry.state in UNUSABLE:
        state = f"is {entry.state or 'without a MAC'}" if entry is not None else "is not there"
        says = f"the neighbour entry for {gateway} on {link.name}, the tunnel end of {peer}, {state}"
        return _finding(
            case, node, peer, Object(kind="neighbour", node=node, name=f"{gateway} dev {link.name}"), says, link, None
        )
    known = [e for e in facts.fdb or () if e.device == link.name and e.mac == entry.mac and e.destination]
    if not known:
        says = f"{link.name} has no forwarding entry for {entry.mac}, the tunnel end of {peer}"
        return _finding(
            case, node, peer, Object(kind="fdb", node=node, name=f"{entry.mac} dev {link.name}"), says, link, entry
        )
    return None


def _finding(
    case: Case, node: str, peer: str, thing: Object, says: str, link: Link, entry: Neighbour | None
) -> Finding:
    remote = case.node_address(peer, 6 if link.vxlan is not None and link.vxlan.local6 and not link.vxlan.local else 4)
    if entry is not None:
        fix = f"bridge fdb append {entry.mac} dev {link.name} dst {remote}"
    else:
        mac = next((theirs.mac for theirs in _links(case, peer) if theirs.name == link.name), "<MAC>")
        fix = f"ip neigh replace {thing.name.split()[0]} lladdr {mac} dev {link.name} nud permanent"
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=thing,
        summary=f"{node} does not know the way through the tunnel to {peer}: {says}",
        evidence=(Evidence(fact=thing.kind, node=node, says=says),),
        fix=fix,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(pairs=((node, peer),), network=Network.POD, family=case.flow.family))


def _links(case: Case, node: str) -> tuple[Link, ...]:
    facts = case.host(node)
    return facts.links or () if facts is not None else ()


CAUSE = CauseType(
    code=CODE,
    title="A node's VXLAN device lacks the entry for another node",
    sign="pod network between two nodes; the host network between them is fine",
    evidence="route → gateway → neighbour entry → MAC → forwarding entry, at the step that is missing",
    find=find,
    concerns=lambda flow: flow.crosses and flow.network is Network.POD,
    needs=frozenset({"links", "routes", "neighbours", "fdb"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down"),
)
