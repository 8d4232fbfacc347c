"""Random small clusters as Kubernetes dictionaries, from a seed: few labels, ports and addresses, so that rules often
meet. Whatever may be left out or empty sometimes is. Pure.

Weighed by hand rather than left to a library's own strategies: of those, one in four hundred clusters told an evaluator
without `except` from a right one.
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.controller.policy.naive import Cluster

Raw = dict[str, Any]
SPACES = ("x", "y", "z")
PORTS = (80, 81, 82, 8080)
PROTOCOLS = ("TCP", "TCP", "UDP", "SCTP")
NAMES = ("web", "dns", "metrics")
CIDRS = (
    "10.0.0.0/24",
    "10.0.0.2/31",
    "10.0.0.7/29",
    "0.0.0.0/0",
    "192.168.0.0/24",
    "203.0.113.0/24",
    "fd00::/64",
    "::/0",
)
EXCEPTIONS = {
    "0.0.0.0/0": ["10.0.0.2/30", "203.0.113.9/32"],
    "10.0.0.0/24": ["10.0.0.2/32", "10.0.0.4/31"],
    "10.0.0.7/29": ["10.0.0.3/32"],
    "::/0": ["fd00::2/127"],
    "fd00::/64": ["fd00::3/128"],
}
OUTSIDE = ("203.0.113.1", "203.0.113.9", "10.0.0.200", "2001:db8::1", "fd00::99")
API = "policy.networking.k8s.io"


def labels(rng: Random) -> dict[str, str]:
    """Up to two labels of two keys."""
    return {key: rng.choice("ab") for key in ("app", "tier") if rng.random() < 0.6}


def _selector(rng: Random, keys: tuple[str, ...], values: str) -> Raw:
    kind = rng.randrange(5)
    if kind < 2:
        return {}
    if kind == 2:
        return {"matchLabels": {rng.choice(keys): rng.choice(values)}}
    expressions = []
    for _ in range(rng.choice((1, 1, 2))):
        operator = rng.choice(("In", "NotIn", "NotIn", "Exists", "DoesNotExist"))
        plain: Raw = {"key": rng.choice(keys), "operator": operator}
        if operator in {"In", "NotIn"}:
            plain["values"] = rng.sample(values, rng.randint(1, 2))
        expressions.append(plain)
    return {"matchExpressions": expressions}


def _pods(rng: Random) -> Raw:
    return _selector(rng, ("app", "tier"), "ab")


def _spaces(rng: Random) -> Raw:
    if rng.random() < 0.5:
        return _selector(rng, ("app", "tier"), "ab")
    return _selector(rng, ("kubernetes.io/metadata.name",), "xyz")


def _peer(rng: Random) -> Raw:
    kind = rng.randrange(5)
    if kind == 0:
        return {"podSelector": _pods(rng)}
    if kind == 1:
        return {"namespaceSelector": _spaces(rng)}
    if kind == 2:
        return {"podSelector": _pods(rng), "namespaceSelector": _spaces(rng)}
    cidr = rng.choice(CIDRS)
    cut = {"except": EXCEPTIONS[cidr]} if cidr in EXCEPTIONS and rng.random() < 0.6 else {}
    return {"ipBlock": {"cidr": cidr, **cut}}


def _port(rng: Random) -> Raw:
    kind, protocol = rng.randrange(6), rng.choice(PROTOCOLS)
    if kind == 0:
        return {"port": rng.choice(PORTS)}
    if kind == 1:
        return {"protocol": protocol, "port": rng.choice(PORTS)}
    if kind == 2:
        return {"protocol": protocol}
    if kind == 3:
        first = rng.choice(PORTS)
        return {"protocol": protocol, "port": first, "endPort": rng.choice([p for p in PORTS if p >= first])}
    return {"protocol": protocol, "port": rng.choice(NAMES)}


def _rule(rng: Random, side: str) -> Raw:
    rule: Raw = {}
    if rng.random() < 0.8:
        rule[side] = [_peer(rng) for _ in range(rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.6:
        rule["ports"] = [_port(rng) for _ in range(rng.choice((0, 1, 1, 2)))]
    return rule


def _network_policy(rng: Random, at: int) -> Raw:
    spec: Raw = {"podSelector": _pods(rng)}
    if rng.random() < 0.6:
        spec["policyTypes"] = rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"], []))
    for side, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.7:
            spec[side] = [_rule(rng, peers) for _ in range(rng.choice((0, 1, 1, 2)))]
    metadata = {"name": f"policy-{at}", "namespace": rng.choice(SPACES[:2])}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _subject(rng: Random) -> Raw:
    if rng.random() < 0.5:
        return {"namespaces": _spaces(rng)}
    return {"pods": {"podSelector": _pods(rng), "namespaceSelector": _spaces(rng)}}


def _admin_port(rng: Random) -> Raw:
    kind, protocol = rng.randrange(3), rng.choice(PROTOCOLS)
    if kind == 0:
        return {"portNumber": {"protocol": protocol, "port": rng.choice(PORTS)}}
    if kind == 1:
        return {"portRange": {"protocol": protocol, "start": 80, "end": 81}}
    return {"namedPort": rng.choice(NAMES)}


def _cluster_port(rng: Random) -> Raw:
    kind, protocol = rng.randrange(4), rng.choice(PROTOCOLS).lower()
    if kind == 0:
        return {protocol: {"destinationPort": {"number": rng.choice(PORTS)}}}
    if kind == 1:
        return {protocol: {"destinationPort": {"range": {"start": 81, "end": 82}}}}
    return {protocol: {}} if kind == 2 else {"destinationNamedPort": rng.choice(NAMES)}


def _admin_rule(rng: Random, side: str, *, cluster: bool) -> Raw:
    peers = [_subject(rng)]
    addresses = side == "to" and rng.random() < 0.5
    if addresses:
        networks = {"networks": rng.sample(CIDRS, rng.randint(1, 2))}
        peers = [rng.choice((networks, {"nodes": _pods(rng)})), *peers[: rng.randrange(2)]]
    rule: Raw = {"action": rng.choice(("Accept" if cluster else "Allow", "Deny", "Deny", "Pass")), side: peers}
    if rng.random() < 0.5:
        ports = [_cluster_port(rng) if cluster else _admin_port(rng) for _ in range(rng.randint(1, 2))]
        # Addresses and nodes have no named ports: the API refuses the two together.
        ports = [port for port in ports if not addresses or not {"namedPort", "destinationNamedPort"} & port.keys()]
        if ports:
            rule["protocols" if cluster else "ports"] = ports
    return rule


def _admin(rng: Random, at: int) -> Raw:
    cluster = rng.random() < 0.6
    spec: Raw = {"priority": 9 - at, "subject": _subject(rng)}
    if cluster:
        spec["tier"] = rng.choice(("Admin", "Baseline"))
    for side, peers in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.7:
            spec[side] = [_admin_rule(rng, peers, cluster=cluster) for _ in range(rng.choice((0, 1, 2, 2)))]
    kind, version = ("ClusterNetworkPolicy", "v1alpha2") if cluster else ("AdminNetworkPolicy", "v1alpha1")
    return {"apiVersion": f"{API}/{version}", "kind": kind, "metadata": {"name": f"policy-{at}"}, "spec": spec}


def _container_ports(rng: Random) -> list[Raw]:
    """Named ports: a name may stand for different ports and protocols in different pods."""
    return [
        {"name": name, "protocol": rng.choice(PROTOCOLS), "containerPort": rng.choice(PORTS)}
        for name in rng.sample(NAMES, rng.randrange(3))
    ]


def _pod(rng: Random, at: int) -> Raw:
    host, node, families = rng.random() < 0.2, rng.choice((1, 2)), rng.choice(("both", "both", "4", "6"))
    # Host-network pods share the addresses of their node.
    own = [f"192.168.0.{node}", f"fd00::f:{node}"] if host else [f"10.0.0.{at + 1}", f"fd00::{at + 1}"]
    chosen = own if host or families == "both" else {"4": own[:1], "6": own[1:]}[families]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p{at}", "namespace": rng.choice(SPACES), "labels": labels(rng)},
        "spec": {
            "containers": [{"name": "c", "ports": _container_ports(rng)}],
            "hostNetwork": host,
            "nodeName": f"node-{node}",
        },
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in chosen]},
    }


def cluster(rng: Random) -> Cluster:
    """A cluster of up to six pods and four policies; admin priorities are unique, so that nothing is left open."""
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": labels(rng)}}]
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{at}", "labels": labels(rng)}} for at in (1, 2)
    ]
    pods = [_pod(rng, at) for at in range(rng.randint(3, 6))]
    count = rng.randint(1, 4)
    policies = [_network_policy(rng, at) if rng.random() < 0.6 else _admin(rng, at) for at in range(count)]
    return Cluster(spaces, pods, policies, nodes, rng.random() < 0.8)
