"""An address range is used twice: by pods and by something else."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Prefix
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Facts, Route
from model.words import Network

CODE = "cni.cidr_overlap"
OF_PLUGINS = frozenset({12, 80})
"""Routing protocols whose more specific routes are the network plugin's own: bird (12) and Calico (80)."""


def find(case: Case) -> Iterator[Finding]:
    """Yield what claims addresses of the destination's pod CIDR: a Service, another node's podCIDR, a host's route."""
    yield from _by_service(case)
    yield from _between_nodes(case)
    for node, _source, destination, _reply in case.flow.ways():
        cidr = case.pod_cidr_of(destination.node, destination.address)
        if destination.node == node or not cidr or case.host(node) is None:
            continue
        rival = _rival(case, node, destination.address, cidr)
        if rival is not None:
            yield _by_route(case, node, destination.node, cidr, rival)


def _rival(case: Case, node: str, address: str, cidr: str) -> Route | None:
    """The route that wins for `address` although the plugin's own route to `cidr` stands beside it, less specific."""
    best = case.best_route(node, address)
    facts = case.host(node)
    if best is None or facts is None or best.type != "unicast" or best.protocol in OF_PLUGINS:
        return None
    own = [r for r in facts.routes or () if r.destination == cidr and r.table == 254]
    if (
        Prefix(best.destination).length > Prefix(cidr).length
        and own
        and all(best.device != r.device or best.gateway != r.gateway for r in own)
    ):
        return best
    return None


def _by_route(case: Case, node: str, peer: str, cidr: str, rival: Route) -> Finding:
    way = f"by {rival.gateway} dev {rival.device}" if rival.gateway else f"on {rival.device}"
    connected = [
        a
        for a in (case.host(node) or Facts()).addresses or ()
        if a.device == rival.device and a.address in Prefix(rival.destination)
    ]
    says = f"on {node} the route {rival.destination} {way} is more specific than {cidr}, the pods of {peer}"
    fix = (
        f"ip addr del {connected[0].address}/{connected[0].prefix_length} dev {rival.device}"
        if connected and not rival.gateway
        else f"ip route del {rival.destination} dev {rival.device}"
    )
    cause = Cause(
        code=CODE,
        confidence=0.96,
        object=Object(
            kind="cidr",
            node=node,
            name=f"{rival.destination} dev {rival.device}",
            text=f"{rival.destination} overlaps {cidr} (pods of {peer})",
        ),
        summary=f"{rival.destination} on {rival.device} of {node} takes the packets for {cidr}, the pods of {peer}",
        evidence=(Evidence(fact="route", node=node, says=says),),
        fix=f"{fix}   (or give {rival.device} addresses that no pod has)",
        suppresses=CAUSE.suppresses,
    )
    scope = Scope(pairs=((node, peer),), network=Network.POD, family=case.flow.family)
    return Finding(cause=cause, scope=scope)


def _by_service(case: Case) -> Iterator[Finding]:
    """A Service whose address is a pod's own: every node translates what is meant for the pod."""
    place = case.flow.destination
    service = case.cluster.services_by_address.get(place.address)
    if service is None or place.pod is None:
        return
    pod, name = f"{place.pod.namespace}/{place.pod.name}", f"{service.namespace}/{service.name}"
    says = f"{place.address} is an address of Service {name} and of pod {pod} on {place.node}"
    cause = Cause(
        code=CODE,
        confidence=0.96,
        object=Object(kind="cidr", node=place.node, name=f"{place.address}/{_bits(place.address)}", text=says),
        summary=f"{place.address}, the address of pod {pod}, is one of Service {name} too",
        evidence=(Evidence(fact="object", node=place.node, says=says),),
        fix="give Services a range in which no podCIDR lies (--service-cluster-ip-range), and make the Service anew",
        suppresses=CAUSE.suppresses,
    )
    yield Finding(cause=cause, scope=Scope(targets=(place.pod.uid,), network=Network.POD))


def _bits(address: str) -> int:
    return 128 if ":" in address else 32


def _between_nodes(case: Case) -> Iterator[Finding]:
    """Two nodes that were given one and the same part of the pods' addresses, or pods' addresses that are a node's."""
    for node in case.flow.nodes:
        for mine in case.cluster.nodes[node].pod_cidrs if node in case.cluster.nodes else ():
            for other in case.cluster.nodes.values():
                for theirs in other.pod_cidrs if other.name != node else ():
                    if _overlap(mine, theirs):
                        yield _by_objects(case, node, mine, f"{theirs}, the pods of {other.name}", other.name)
                for address in other.addresses:
                    if address in Prefix(mine):
                        yield _by_objects(case, node, mine, f"{address}, the address of {other.name}", other.name)


def _by_objects(case: Case, node: str, mine: str, theirs: str, other: str) -> Finding:
    says = f"Node {node} has podCIDR {mine}, which overlaps {theirs}"
    cause = Cause(
        code=CODE,
        confidence=0.95,
        object=Object(kind="cidr", node=node, name=mine, text=f"{mine} (pods of {node}) overlaps {theirs}"),
        summary=f"{mine}, the pods of {node}, overlaps {theirs}",
        evidence=(Evidence(fact="object", node=node, says=says),),
        fix=f"drain {node}, delete its Node object and let it register anew with a free podCIDR",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(nodes=(node, other), network=Network.POD, family=case.flow.family))


def _overlap(one: str, other: str) -> bool:
    a, b = Prefix(one).network, Prefix(other).network
    return a is not None and b is not None and a.version == b.version and a.overlaps(b)


CAUSE = CauseType(
    code=CODE,
    title="Two networks use the same addresses",
    sign="pod network from one node (or all) to some addresses only",
    evidence="the more specific route that wins over the one to the pods, or two Nodes with overlapping podCIDRs",
    find=find,
    concerns=lambda flow: flow.crosses and flow.network is Network.POD,
    needs=frozenset({"routes", "addresses"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down"),
)
