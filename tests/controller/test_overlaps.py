"""Overlaps of address ranges across the cluster: what does harm is told with both claims, what is by design is not."""

from __future__ import annotations

from typing import Any

import pytest

from controller.cluster.state import ClusterState, Gives, Pool, Service
from controller.facts.overlaps import Overlap, overlaps
from tests.controller.clusters import node, pod

UPLINK = {"device": "eth0", "address": "10.77.1.11", "prefix_length": 24, "family": 4}
BRIDGE = {"device": "cni0", "address": "10.244.1.1", "prefix_length": 24, "family": 4}


def cluster(
    *services: Service, second: str = "10.244.2.0/24", pod_address: str = "10.244.2.5", pools: tuple[Pool, ...] = ()
) -> ClusterState:
    """Two nodes, node-a and node-b, with a pod each."""
    nodes = (
        node(0, addresses=("10.77.1.11",), pod_cidrs=("10.244.1.0/24", "fd44:0:0:1::/64")),
        node(1, addresses=("10.77.1.12",), pod_cidrs=(second, "fd44:0:0:2::/64")),
    )
    pods = (pod("shop", "cart", "node-a", "10.244.1.5"), pod("shop", "db", "node-b", pod_address))
    return ClusterState(
        nodes={one.name: one for one in nodes},
        pods={one.uid: one for one in pods},
        services={f"{one.namespace}/{one.name}": one for one in services},
        pools={f"{one.kind}/{one.name}": one for one in pools},
    )


def service(*addresses: str, **more: Any) -> Service:
    """A Service with these ClusterIPs."""
    return Service(namespace="shop", name="cart", uid="s", cluster_ips=addresses, **more)


def pool(gives: Gives, *cidrs: str, name: str = "default") -> Pool:
    """A pool of these ranges."""
    return Pool(kind="IPPool", name=name, gives=gives, cidrs=cidrs)


PODS = pool(Gives.PODS, "10.244.0.0/16", name="pods")
SERVICES = pool(Gives.SERVICES, "10.96.0.0/16", name="services")


def route(destination: str, **more: Any) -> dict[str, Any]:
    """A static route."""
    return {"family": 4, "destination": destination, "protocol": 3, "device": "eth0", **more}


def address(device: str, text: str, length: int) -> dict[str, Any]:
    """An address on a device."""
    return {"device": device, "address": text, "prefix_length": length, "family": 6 if ":" in text else 4}


def on_a(*addresses: dict[str, Any], routes: tuple[dict[str, Any], ...] = (), links: Any = ()) -> dict[str, Any]:
    """Facts of node-a, beside what every node has."""
    return {"node-a": {"addresses": [UPLINK, BRIDGE, *addresses], "routes": list(routes), "links": list(links)}}


HARMFUL: dict[str, tuple[ClusterState, dict[str, Any], str, str]] = {
    "two nodes' pods": (cluster(second="10.244.0.0/22"), {}, "10.244.1.0/24", "give pods the same addresses"),
    "a node in pods": (
        cluster(second="10.77.1.8/30", pod_address="10.77.1.9"), {}, "10.77.1.11/32", "cannot be told apart"
    ),
    "a Service in pods": (cluster(service("10.244.2.9")), {}, "10.244.2.9/32", "go to Service shop/cart"),
    "a load balancer in pods": (
        cluster(service(load_balancer_addresses=("10.244.2.9",))), {}, "10.244.2.9/32", "from outside"
    ),
    "a Service that is a node": (cluster(service("10.77.1.12")), {}, "10.77.1.12/32", "have one address"),
    "a bridge on another's pods": (
        cluster(), on_a(address("docker0", "10.244.2.1", 26)), "10.244.2.0/26", "leave by docker0 of node-a"
    ),
    "just the same range": (
        cluster(), on_a(address("eth1", "10.244.2.1", 24)), "10.244.2.0/24", "leave by eth1 of node-a"
    ),
    "a route into another's pods": (
        cluster(), on_a(routes=(route("10.244.2.128/25", gateway="10.77.1.254"),)), "10.244.2.128/25",
        "take the route of node-a by 10.77.1.254 dev eth0",
    ),
    "a VPN by wireguard": (
        cluster(), on_a(routes=(route("10.244.2.0/25", device="wg0"),), links=({"index": 9, "name": "wg0",
        "kind": "wireguard"},)), "10.244.2.0/25", "dev wg0",
    ),
    "Services behind a link": (
        cluster(service("10.96.0.9"), ), on_a(address("eth1", "10.96.0.1", 16)), "10.96.0.9/32", "behind eth1 of node-a"
    ),
    "two pools of pods": (
        cluster(pools=(PODS, pool(Gives.PODS, "10.244.128.0/17"))), {}, "10.244.128.0/17", "to two pods"
    ),
    "pods' pool and Services'": (
        cluster(pools=(PODS, pool(Gives.SERVICES, "10.244.0.0/20"))), {}, "10.244.0.0/20", "to a Service and to a pod"
    ),
    "Services' pool on pods": (
        cluster(pools=(pool(Gives.SERVICES, "10.244.2.0/24"),)), {}, "10.244.2.0/24", "be given a pod's address"
    ),
    "a load balancer's pool on pods'": (
        cluster(pools=(PODS, pool(Gives.BALANCERS, "10.244.2.0/28"))), {}, "10.244.2.0/28", "a load balancer and to a"
    ),
    "a node in a load balancer's pool": (
        cluster(pools=(pool(Gives.BALANCERS, "10.77.1.12/31"),)), {}, "10.77.1.12/32", "be given the address of node-b"
    ),
    "two pools of load balancers": (
        cluster(pools=(pool(Gives.BALANCERS, "10.77.1.64/26"), pool(Gives.BALANCERS, "10.77.1.96/28", name="b"))), {},
        "10.77.1.96/28", "to two Services",
    ),
    "a node in pods' pool": (
        cluster(pools=(pool(Gives.PODS, "10.77.1.8/30"),)), {}, "10.77.1.11/32",
        "be given the address of node-a",
    ),
    "a bridge in pods' pool": (
        cluster(pools=(PODS,)), on_a(address("docker0", "10.244.200.1", 24)), "10.244.200.0/24", "leave by docker0"
    ),
    "a bridge on another's pods, and in the pool": (
        cluster(pools=(PODS,)), on_a(address("docker0", "10.244.2.1", 26)), "10.244.2.0/26", "pods of node-b leave by"
    ),
    "a route into pods' pool": (
        cluster(pools=(PODS,)), on_a(routes=(route("10.244.64.0/20", gateway="10.77.1.254"),)), "10.244.64.0/20",
        "take the route of node-a",
    ),
    "a link on Services' pool": (
        cluster(pools=(SERVICES,)), on_a(address("eth1", "10.96.3.1", 24)), "10.96.3.0/24", "that a Service gets"
    ),
    "a link on a Service and its pool": (
        cluster(service("10.96.3.9"), pools=(SERVICES,)), on_a(address("eth1", "10.96.3.1", 24)), "10.96.3.9/32",
        "it is Service shop/cart's",
    ),
    "ipv6": (cluster(), on_a(address("eth1", "fd44:0:0:2::1", 80)), "fd44:0:0:2::/80", "leave by eth1 of node-a"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_an_overlap_names_both_claims(name: str) -> None:
    """Which addresses, who claims them, and what comes of it; once."""
    state, facts, cidr, effect = HARMFUL[name]
    (found,) = overlaps(state, facts)
    assert isinstance(found, Overlap)
    assert found.cidr == cidr and effect in found.effect
    assert all(claim.who for claim in found.claims)


VETH = {"index": 7, "name": "cali1", "kind": "veth"}
VXLAN = {"index": 8, "name": "flannel.1", "kind": "vxlan"}
BY_DESIGN: dict[str, tuple[ClusterState, dict[str, Any]]] = {
    "a healthy cluster": (cluster(service("10.96.0.9")), on_a()),
    "the plugin's route by the node": (cluster(), on_a(routes=(route("10.244.2.0/24", gateway="10.77.1.12"),))),
    "the plugin's route by a tunnel": (
        cluster(), on_a(address("flannel.1", "10.244.1.0", 32), links=(VXLAN,),
        routes=(route("10.244.2.0/24", gateway="10.244.2.0", device="flannel.1"),)),
    ),
    "calico's blackhole under its block": (
        cluster(), on_a(routes=(route("10.244.2.64/26", type="blackhole", protocol=80, device=""),))
    ),
    "calico's borrowed address": (
        cluster(), on_a(routes=(route("10.244.2.9/32", device="cali1"),), links=(VETH,))
    ),
    "bird's route": (cluster(), on_a(routes=(route("10.244.2.64/26", gateway="10.77.1.77", protocol=12),))),
    "services on kube-ipvs0": (cluster(service("10.96.0.9")), on_a(address("kube-ipvs0", "10.96.0.9", 32))),
    "docker0 on every node": (
        cluster(), {n: {"addresses": [address("docker0", "172.17.0.1", 16)]} for n in ("node-a", "node-b")}
    ),
    "a wide corporate network": (cluster(), on_a(address("eth1", "10.1.2.3", 8))),
    "a wide route": (cluster(), on_a(routes=(route("10.0.0.0/8", gateway="10.77.1.254"),))),
    "a default route": (cluster(), on_a(routes=(route("0.0.0.0/0", gateway="10.77.1.254"),))),
    "a load balancer on the nodes' network": (cluster(service(load_balancer_addresses=("10.77.1.200",))), on_a()),
    "another table": (cluster(), on_a(routes=(route("10.244.2.128/25", gateway="10.77.1.254", table=100),))),
    "pods and Services within their pools": (cluster(service("10.96.0.9"), pools=(PODS, SERVICES)), on_a()),
    "a pool on the nodes' network": (
        cluster(
            service(load_balancer_addresses=("10.77.1.200",)), pools=(pool(Gives.BALANCERS, "10.77.1.192/26"),)
        ),
        on_a(),
    ),
    "a pool that gives nothing": (cluster(pools=(PODS, pool(Gives.NOBODY, "10.77.0.0/16"))), on_a()),
    "a wide network around pools": (cluster(pools=(PODS,)), on_a(address("eth1", "10.200.2.3", 8))),
    "podCIDRs that the plugin does not use": (cluster(second="10.244.1.0/24", pod_address="10.9.0.5"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_DESIGN)
def test_what_is_so_by_design_is_no_overlap(name: str) -> None:
    """No false alarm."""
    assert overlaps(*BY_DESIGN[name]) == ()


def test_a_link_with_many_services_is_told_once() -> None:
    """One sentence for one mistake."""
    many = [
        Service(namespace="shop", name=f"s{at}", uid=str(at), cluster_ips=(f"10.96.0.{at}",)) for at in range(1, 50)
    ]
    assert len(overlaps(cluster(*many), on_a(address("eth1", "10.96.0.1", 16)))) == 1
