"""What policies say of a flow: the decision, and where it is a denial, by which policy. Pure."""

from __future__ import annotations

from controller.diagnosis.case import Case, Flow, Place
from controller.policy import (
    AddressRef,
    Decision,
    Denial,
    NodeRef,
    PeerRef,
    PodRef,
    PolicyModel,
    UnknownPeerError,
)
from model.words import Method


def peer_of(place: Place) -> PeerRef:
    """The end of a flow as the evaluator names it."""
    if place.pod is not None:
        return PodRef(place.pod.namespace, place.pod.name)
    if place.node:
        return NodeRef(place.node, (place.address,) if place.address else ())
    return AddressRef(place.address)


def decision_of(flow: Flow, policy: PolicyModel) -> Decision:
    """What policies say of a flow; open where the evaluator does not know an end of it."""
    try:
        ends = peer_of(flow.source), peer_of(flow.destination)
        return policy.decide(*ends, flow.protocol.upper(), flow.port, flow.family)
    except (UnknownPeerError, ValueError) as error:
        return Decision(allowed=None, missing=str(error))


def denials_of(case: Case) -> tuple[Denial, ...]:
    """The denials of a case's flow, egress first; empty where policies do not forbid it."""
    flow = case.flow
    if case.policy is None or not flow.destination.address:
        return ()
    try:
        ends = peer_of(flow.source), peer_of(flow.destination)
        return case.policy.denials(*ends, flow.protocol.upper(), flow.port, flow.family)
    except (UnknownPeerError, ValueError):
        return ()


def asks_dns(case: Case) -> bool:
    """Whether the flow is a question to the cluster's DNS."""
    flow, service = case.flow, case.cluster.dns_service()
    if flow.method is Method.DNS:
        return True
    return service is not None and flow.service is not None and flow.service.key == service.key
