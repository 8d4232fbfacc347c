"""The devices and routes of the pod network: each break is named on its very object, and look-alikes are let alone."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from controller.diagnosis import explain
from controller.diagnosis.case import Case, Flow, Site
from controller.diagnosis.scope import Scope
from model.facts import Address, Facts, Link, Route
from model.words import Network
from tests.controller.diagnosis import world

PORT = 20
FLOW = world.pod_flow()
SUBNET = Route(family=4, destination=world.pod_cidr("node-b"), device="eth0", scope="link")
OUT = Route(family=4, destination="0.0.0.0/0", gateway="10.244.2.1", device="eth0")
POD = Facts(
    links=(
        Link(index=1, name="lo", up=True),
        Link(index=2, name="eth0", kind="veth", up=True, carrier=True, peer_index=PORT),
    ),
    routes=(SUBNET, OUT),
)
CABLE = Link(index=PORT, name="veth7", kind="veth", up=True, carrier=True, master="cni0", peer_index=2)


def host(*, without: str = "", **changed: object) -> Facts:
    """node-b with the pod's cable in its bridge; a device `without`, or with fields of the bridge or cable changed."""
    facts = world.healthy_facts("node-b")
    links = [k for k in (*(facts.links or ()), CABLE) if k.name != without]
    return msgspec.structs.replace(
        facts,
        links=tuple(msgspec.structs.replace(k, **changed.get(k.name.replace(".", "_"), {})) for k in links),  # type: ignore[call-overload]
    )


def case(node: Facts, pod: Facts = POD, flow: Flow = FLOW) -> Case:
    """The flow to the pod of node-b, with what its node and its own namespace say."""
    known = world.case(flow, {"node-b": node})
    facts: dict[Site, Facts] = {**known.facts, flow.destination.site: pod}
    return replace(known, facts=facts)


def named(known: Case) -> list[tuple[str, str, str]]:
    """Code, kind and name of what is found early, best first."""
    found = explain.ordered(explain.early(known))
    return [(f.cause.code, f.cause.object.kind, f.cause.object.name) for f in found]


def test_a_healthy_pod_network_has_none() -> None:
    """Bridge, cable, tunnel and routes as they should be."""
    assert named(case(host())) == []


@pytest.mark.parametrize(
    ("node", "pod", "expected"),
    [
        (host(cni0={"up": False}), POD, ("cni.bridge_down", "device", "cni0")),
        (host(veth7={"master": ""}), POD, ("cni.veth_detached", "device", "veth7")),
        (host(veth7={"up": False, "master": ""}), POD, ("cni.veth_down", "device", "veth7")),
        (
            msgspec.structs.replace(
                host(), addresses=(Address(device="eth0", address="10.77.1.12", prefix_length=24, family=4),)
            ),
            POD,
            ("cni.bridge_address_missing", "device", "cni0"),
        ),
        (
            host(),
            msgspec.structs.replace(POD, routes=(SUBNET,)),
            ("cni.pod_route_missing", "route", "web-node-b/default"),
        ),
        (host(flannel_1={"up": False}), POD, ("cni.vxlan_down", "device", "flannel.1")),
        (host(without="flannel.1"), POD, ("cni.vxlan_down", "device", "flannel.1")),
    ],
    ids=["bridge down", "detached", "down and detached", "bridge without address", "pod route", "tunnel down", "gone"],
)
def test_each_is_named_alone(node: Facts, pod: Facts, expected: tuple[str, str, str]) -> None:
    """One finding, on the object that was broken."""
    assert named(case(node, pod)) == [expected]


def test_a_tunnel_that_took_its_routes_with_it_is_named_and_not_they() -> None:
    """The kernel deletes the routes of a device that goes down: to add them again would not help."""
    down = host(flannel_1={"up": False})
    bare = msgspec.structs.replace(down, routes=tuple(r for r in down.routes or () if r.device != "flannel.1"))
    assert named(case(bare)) == [("cni.vxlan_down", "device", "flannel.1")]


def test_a_tunnel_that_nobody_sends_by_is_let_alone() -> None:
    """A device left over from another plugin may be down for ever."""
    old = Link(
        index=9, name="vxlan.calico", kind="vxlan", up=False, vxlan=(world.healthy_facts("node-b").links or ())[2].vxlan
    )
    left_over = msgspec.structs.replace(host(), links=(*(host().links or ()), old))
    assert named(case(left_over)) == []


def test_a_cable_without_bridge_is_calicos_way() -> None:
    """Where no bridge has the pod's gateway, a cable has no master."""
    routed = msgspec.structs.replace(
        POD, routes=(Route(family=4, destination="0.0.0.0/0", gateway="169.254.1.1", device="eth0"),)
    )
    assert named(case(host(veth7={"master": ""}), routed)) == []


def test_a_gateway_of_somebody_else_is_let_alone() -> None:
    """A pod in a bridge whose gateway is a router outside of the node's own range."""
    foreign = msgspec.structs.replace(
        POD, routes=(Route(family=4, destination="0.0.0.0/0", gateway="192.0.2.1", device="eth0"),)
    )
    assert named(case(host(), foreign)) == []


def test_a_route_of_another_table_or_a_narrow_one_is_a_route() -> None:
    """Policy routing inside a pod; a route to the pods' range alone."""
    for route in (
        Route(family=4, destination="0.0.0.0/0", gateway="10.244.2.1", device="eth0", table=100),
        Route(family=4, destination="10.244.0.0/16", gateway="10.244.2.1", device="eth0"),
    ):
        assert named(case(host(), msgspec.structs.replace(POD, routes=(SUBNET, route)))) == []


def test_the_other_family_is_no_way() -> None:
    """An IPv6 default route carries no IPv4."""
    other = Route(family=6, destination="::/0", gateway="fd00::1", device="eth0")
    found = named(case(host(), msgspec.structs.replace(POD, routes=(SUBNET, other))))
    assert found == [("cni.pod_route_missing", "route", "web-node-b/default")]


def test_how_far_each_reaches() -> None:
    """All pods of the node, all that leaves it, or the pod alone."""
    pod = FLOW.destination.pod
    assert pod is not None

    def scope(known: Case) -> Scope:
        return explain.ordered(explain.early(known))[0].scope

    assert scope(case(host(cni0={"up": False}))) == Scope(nodes=("node-b",), network=Network.POD)
    assert scope(case(host(veth7={"master": ""}))) == Scope(targets=(pod.uid,))
    assert scope(case(host(without="flannel.1"))) == Scope(nodes=("node-b",), crossing=True, network=Network.POD)
