"""A node has no route to the pods of another node."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Prefix
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Facts, Route
from model.words import Network

CODE = "cni.remote_route_missing"


def find(case: Case) -> Iterator[Finding]:
    """Yield each node of the flow whose table leads packets for the other's pods nowhere but to the default route."""
    for node, _source, destination, _reply in case.flow.ways():
        facts = case.host(node)
        cidr = case.pod_cidr_of(destination.node, destination.address)
        if destination.node == node or not cidr or facts is None or facts.routes is None:
            continue
        best = case.best_route(node, destination.address)
        if best is None or Prefix(best.destination).length == 0:
            yield _finding(case, node, destination.node, cidr, facts, best)


def _finding(case: Case, node: str, peer: str, cidr: str, facts: Facts, best: Route | None) -> Finding:
    has = "no route at all" if best is None else f"only the default route by {best.gateway or best.device}"
    evidence = [Evidence(fact="route", node=node, says=f"{node} has {has} for {cidr}, the pods of {peer}")]
    like = _like(case, node, peer, facts)
    if like is not None:
        evidence.append(
            Evidence(
                fact="route",
                node=node,
                says=f"for comparison: {like.destination} by {like.gateway} dev {like.device} is there",
            )
        )
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=Object(kind="route", node=node, name=cidr, text=f"{cidr} (pods of {peer})"),
        summary=f"{node} has no route to {cidr}, the pods of {peer}",
        evidence=tuple(evidence),
        fix=_fix(case, peer, cidr, like),
        suppresses=CAUSE.suppresses,
    )
    scope = Scope(pairs=((node, peer),), network=Network.POD, family=case.flow.family)
    return Finding(cause=cause, scope=scope)


def _like(case: Case, node: str, peer: str, facts: Facts) -> Route | None:
    """The route of this node to the pods of some third node, which shows what the missing one should look like."""
    others = {c for n in case.cluster.nodes.values() if n.name not in {node, peer} for c in n.pod_cidrs}
    return next((r for r in facts.routes or () if r.destination in others and r.family == case.flow.family), None)


def _fix(case: Case, peer: str, cidr: str, like: Route | None) -> str:
    if like is None:
        return f"restart the network plugin's pod on the node; the route to {cidr} is its to keep"
    if like.onlink:
        network = Prefix(cidr).network
        gateway = str(network.network_address) if network is not None else ""
        return f"ip route add {cidr} via {gateway} dev {like.device} onlink"
    return f"ip route add {cidr} via {case.node_address(peer, case.flow.family)} dev {like.device}"


CAUSE = CauseType(
    code=CODE,
    title="A node has no route to another node's pods",
    sign="pod network between one node and one or more others; the host network is fine",
    evidence="the routing table held against Node.spec.podCIDRs",
    find=find,
    concerns=lambda flow: flow.crosses and flow.network is Network.POD,
    needs=frozenset({"routes"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down"),
)
