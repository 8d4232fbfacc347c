"""A node's bridge lacks the address that is its pods' gateway."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Place, Prefix
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Link
from model.words import Network

CODE = "cni.bridge_address_missing"


def find(case: Case) -> Iterator[Finding]:
    """Yield the bridge of a pod whose gateway, out of the node's own pod CIDR, is no address of the node."""
    for place in (case.flow.source, case.flow.destination):
        bridge, pod, host = case.plugged_into(place), case.facts.get(place.site), case.host(place.node)
        if bridge is None or pod is None or host is None or host.addresses is None:
            continue
        held = {address.address for address in host.addresses}
        gateways = [r.gateway for r in pod.routes or () if r.gateway and r.family == case.flow.family]
        lacking = next((g for g in gateways if g not in held and case.pod_cidr_of(place.node, g)), "")
        if lacking and not held.intersection(gateways):
            yield _finding(case, place, bridge, lacking)


def _finding(case: Case, place: Place, bridge: Link, gateway: str) -> Finding:
    node, pod = place.node, place.pod
    assert pod is not None
    cidr = case.pod_cidr_of(node, gateway)
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=Object(kind="device", node=node, name=bridge.name, text=f"{bridge.name} without {gateway}"),
        summary=f"{bridge.name} of {node} has lost {gateway}, the gateway of its pods",
        evidence=(
            Evidence(fact="route", node=node, says=f"pod {pod.key} sends by {gateway}"),
            Evidence(fact="address", node=node, says=f"no device of {node} has {gateway}"),
        ),
        fix=f"ip addr add {gateway}/{Prefix(cidr).length} dev {bridge.name}",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(nodes=(node,), network=Network.POD, family=case.flow.family))


CAUSE = CauseType(
    code=CODE,
    title="A node's bridge lacks its address",
    sign="all pods of one node beyond their own bridge, one family",
    evidence="the pod's routes held against the node's addresses",
    find=find,
    concerns=lambda flow: flow.network is Network.POD,
    needs=frozenset({"links", "addresses"}),
    pod_needs=frozenset({"links", "routes"}),
    suppresses=(
        "fabric.blocked",
        "dns.replica_down",
        "dns.all_down",
        "cni.remote_route_missing",
        "cni.cidr_overlap",
        "node.rp_filter",
        "node.firewall_drop",
    ),
)
