"""Random pods and policies of a lab, from a seed: few labels and ports, so that rules often meet. Pure."""

from __future__ import annotations

from random import Random
from typing import Any

Raw = dict[str, Any]
SPACES = {"px": {"team": "x"}, "py": {"team": "y"}}
TCP, UDP = (80, 81, 8080), (81,)
NAMES = ("web", "dns", "metrics")
CIDRS = ("10.244.0.0/16", "10.244.0.0/22", "10.244.2.0/24", "10.244.2.9/23", "0.0.0.0/0", "203.0.113.0/24", "::/0")
CIDRS6 = ("fd44::/56", "fd44:0:0:2::/64", "2001:db8:f::/64")
EXCEPTIONS = {
    "10.244.0.0/16": ["10.244.1.0/24"],
    "10.244.0.0/22": ["10.244.2.0/24", "10.244.3.0/24"],
    "0.0.0.0/0": ["10.244.2.0/24"],
    "::/0": ["fd44:0:0:1::/64"],
    "fd44::/56": ["fd44:0:0:2::/64"],
}


def labels(rng: Random) -> dict[str, str]:
    """Up to two labels of two keys."""
    return {key: rng.choice("abc") for key in ("app", "tier") if rng.random() < 0.7}


def pod(rng: Random, at: int, nodes: list[str]) -> Raw:
    """A pod that listens on all ports; what it declares, and by which names, is chance."""
    listen = [word for port in TCP for word in ("--listen", f"TCP/{port}")]
    listen += [word for port in UDP for word in ("--listen", f"UDP/{port}")]
    ports, taken = [], set[str]()
    for name in rng.sample(NAMES, rng.randrange(3)):
        protocol, number = rng.choice([("TCP", port) for port in TCP] + [("UDP", port) for port in UDP])
        if f"{protocol}{number}" not in taken:
            taken.add(f"{protocol}{number}")
            ports.append({"name": name, "protocol": protocol, "containerPort": number})
    container = {"name": "c", "image": "kubereach-lab", "args": listen, "ports": ports}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p{at}", "namespace": rng.choice(list(SPACES)), "labels": labels(rng)},
        "spec": {"nodeName": nodes[at % len(nodes)], "containers": [container]},
    }


def selector(rng: Random) -> Raw:
    """Everything, labels, or expressions."""
    kind = rng.randrange(4)
    if kind == 0:
        return {}
    if kind < 3:
        return {"matchLabels": {rng.choice(["app", "tier"]): rng.choice("abc")}}
    operator = rng.choice(["In", "NotIn", "Exists", "DoesNotExist"])
    found: Raw = {"key": rng.choice(["app", "tier"]), "operator": operator}
    if operator in {"In", "NotIn"}:
        found["values"] = rng.sample("abc", rng.randint(1, 2))
    return {"matchExpressions": [found]}


def _space(rng: Random) -> Raw:
    operator = rng.choice(["In", "NotIn"])
    key = rng.choice(["team", "none"])
    return rng.choice(
        [
            {},
            {"matchLabels": {"team": rng.choice("xy")}},
            {"matchLabels": {"kubernetes.io/metadata.name": rng.choice(list(SPACES))}},
            {"matchExpressions": [{"key": key, "operator": operator, "values": [rng.choice("xy")]}]},
            {"matchExpressions": [{"key": key, "operator": rng.choice(["Exists", "DoesNotExist"])}]},
        ]
    )


def _peer(rng: Random) -> Raw:
    kind = rng.randrange(6)
    if kind == 0:
        return {"namespaceSelector": _space(rng)}
    if kind == 1:
        return {"namespaceSelector": _space(rng), "podSelector": selector(rng)}
    if kind < 4:
        cidr = rng.choice([*CIDRS, *CIDRS6, *EXCEPTIONS])
        cut = {"except": EXCEPTIONS[cidr]} if cidr in EXCEPTIONS and rng.random() < 0.8 else {}
        return {"ipBlock": {"cidr": cidr, **cut}}
    return {"podSelector": selector(rng)}


def _port(rng: Random) -> Raw:
    protocol = rng.choice(["TCP", "TCP", "UDP"])
    return rng.choice(
        [
            {"protocol": protocol, "port": rng.choice(TCP)},
            {"port": rng.choice(TCP)},
            {"protocol": protocol},
            {"protocol": protocol, "port": rng.choice(NAMES)},
            {"protocol": protocol, "port": 80, "endPort": 81},
        ]
    )


def _rule(rng: Random, side: str) -> Raw:
    rule: Raw = {}
    if rng.random() < 0.8:
        rule[side] = [_peer(rng) for _ in range(rng.randrange(3))]
    if rng.random() < 0.6:
        rule["ports"] = [_port(rng) for _ in range(rng.randrange(3))]
    return rule


def policy(rng: Random, at: int) -> Raw:
    """A NetworkPolicy; everything that may be left out sometimes is."""
    spec: Raw = {"podSelector": selector(rng)}
    if rng.random() < 0.7:
        spec["policyTypes"] = rng.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
    if rng.random() < 0.8:
        spec["ingress"] = [_rule(rng, "from") for _ in range(rng.randrange(3))]
    if rng.random() < 0.6:
        spec["egress"] = [_rule(rng, "to") for _ in range(rng.randrange(3))]
    metadata = {"name": f"random-{at}", "namespace": rng.choice(list(SPACES))}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
