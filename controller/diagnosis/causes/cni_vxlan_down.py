"""A node's VXLAN device is down or gone."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Link
from model.words import Network

CODE = "cni.vxlan_down"


def find(case: Case) -> Iterator[Finding]:
    """Yield the node whose end of the tunnel is set down or is not there, while the other end sends by its own.

    A device that goes down takes its routes with it (fib_disable_ip in net/ipv4/fib_frontend.c), so that the node alone
    would seem to lack just those.
    """
    for node, _source, destination, _reply in case.flow.ways():
        peer, facts = destination.node, case.host(node)
        if peer == node or not peer or facts is None or facts.links is None:
            continue
        tunnel = _tunnel_to(case, peer, node)
        own = case.link(node, tunnel.name) if tunnel is not None else None
        if tunnel is not None and (own is None or not own.up):
            yield _finding(node, peer, tunnel, own)


def _tunnel_to(case: Case, peer: str, node: str) -> Link | None:
    """The VXLAN device by which the other end sends to the pods of this node."""
    ends = (case.flow.source, case.flow.destination)
    address = next((place.address for place in ends if place.node == node and place.pod is not None), "")
    best = case.best_route(peer, address) if address else None
    link = case.link(peer, best.device) if best is not None else None
    return link if link is not None and link.vxlan is not None and link.up else None


def _finding(node: str, peer: str, tunnel: Link, own: Link | None) -> Finding:
    state, value = ("is down", "down") if own is not None else ("is not there", "none")
    renew = f"restart the network plugin's pod on {node}: it puts the routes back"
    cause = Cause(
        code=CODE,
        confidence=0.98,
        object=Object(kind="device", node=node, name=tunnel.name),
        summary=f"{tunnel.name} on {node}, its end of the pods' tunnel, {state}",
        evidence=(
            Evidence(fact="link", node=node, value=value, says=f"{tunnel.name} {state}"),
            Evidence(fact="link", node=peer, says=f"{peer} sends to the pods of {node} by a {tunnel.name} that is up"),
        ),
        fix=f"ip link set {tunnel.name} up; then {renew}" if own is not None else renew,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(nodes=(node,), crossing=True, network=Network.POD))


CAUSE = CauseType(
    code=CODE,
    title="A node's VXLAN device is down or gone",
    sign="pod network between one node and all others; the host network is fine",
    evidence="the device of the same name by which the other end sends, and this node's own",
    find=find,
    concerns=lambda flow: flow.crosses and flow.network is Network.POD,
    needs=frozenset({"links", "routes"}),
    suppresses=(
        "cni.remote_route_missing",
        "cni.vtep_missing",
        "cni.vtep_wrong",
        "fabric.blocked",
        "dns.replica_down",
        "dns.all_down",
        "node.rp_filter",
        "node.ip_forward_off",
    ),
)
