"""A node's VXLAN device sends what is for another node to a wrong address."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.words import Network

CODE = "cni.vtep_wrong"


def find(case: Case) -> Iterator[Finding]:
    """Yield the forwarding entry that leads to no address of the peer: route → gateway → MAC → tunnel end."""
    for node, _source, destination, _reply in case.flow.ways():
        facts, peer = case.host(node), case.cluster.nodes.get(destination.node)
        best = case.best_route(node, destination.address)
        link = case.link(node, best.device) if best is not None else None
        if destination.node == node or facts is None or peer is None or best is None or link is None:
            continue
        gateway = best.gateway or destination.address
        macs = {n.mac for n in facts.neighbours or () if n.device == link.name and n.address == gateway and n.mac}
        ends = [e for e in facts.fdb or () if e.device == link.name and e.mac in macs and e.destination]
        if link.vxlan is None or not ends or any(e.destination in peer.addresses for e in ends):
            continue
        entry = ends[0]
        right = case.node_address(peer.name, 6 if ":" in entry.destination else 4)
        name = f"{entry.mac} dev {link.name}"
        says = f"{link.name} of {node} sends what is for {peer.name} to {entry.destination}, and {peer.name} is {right}"
        cause = Cause(
            code=CODE,
            confidence=0.98,
            object=Object(kind="fdb", node=node, name=name, text=f"{name} dst {entry.destination}"),
            summary=f"the tunnel of {node} leads to a wrong place: {entry.destination} is no address of {peer.name}",
            evidence=(Evidence(fact="fdb", node=node, value=entry.destination, says=says),),
            fix=f"bridge fdb del {name} dst {entry.destination}; bridge fdb append {name} dst {right}",
            suppresses=CAUSE.suppresses,
        )
        scope = Scope(pairs=((node, peer.name),), network=Network.POD, family=case.flow.family)
        yield Finding(cause=cause, scope=scope)


CAUSE = CauseType(
    code=CODE,
    title="A node's VXLAN device sends packets for another node to a wrong address",
    sign="pod network between two nodes; the host network between them is fine",
    evidence="route → gateway → neighbour entry → MAC → forwarding entry, held against the peer's addresses",
    find=find,
    concerns=lambda flow: flow.crosses and flow.network is Network.POD,
    needs=frozenset({"links", "routes", "neighbours", "fdb"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down"),
)
