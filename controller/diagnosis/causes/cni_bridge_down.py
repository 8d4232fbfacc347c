"""The bridge that a node's pods are plugged into is down."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Link
from model.words import Network

CODE = "cni.bridge_down"


def find(case: Case) -> Iterator[Finding]:
    """Yield the bridge that holds the host's end of a pod's cable, at either end of the flow, if it is set down."""
    for place in (case.flow.source, case.flow.destination):
        cable, bridge = case.cable(place), case.plugged_into(place)
        if cable is not None and bridge is not None and not bridge.up:
            yield _finding(place, bridge, cable[1])


def _finding(place: Place, bridge: Link, port: Link) -> Finding:
    node = place.node
    cause = Cause(
        code=CODE,
        confidence=0.98,
        object=Object(kind="device", node=node, name=bridge.name),
        summary=f"{bridge.name}, the bridge of the pods of {node}, is down",
        evidence=(
            Evidence(fact="link", node=node, value="down", says=f"{bridge.name} of {node} is set down"),
            Evidence(fact="link", node=node, says=f"{port.name}, the cable of {_name(place)}, is plugged into it"),
        ),
        fix=f"ip link set {bridge.name} up",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(nodes=(node,), network=Network.POD))


def _name(place: Place) -> str:
    return place.pod.key if place.pod is not None else place.address


CAUSE = CauseType(
    code=CODE,
    title="A node's bridge is down",
    sign="all pods of one node, as source and as destination, also among themselves",
    evidence="the state of the bridge that the pod's cable is plugged into",
    find=find,
    concerns=lambda flow: flow.network is Network.POD,
    needs=frozenset({"links"}),
    pod_needs=frozenset({"links"}),
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
