"""Hypothesis strategies: small clusters with policies that often meet, as Kubernetes dictionaries."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.controller.policy.naive import Cluster

Raw = dict[str, Any]
SPACES = ("x", "y", "z")
PORTS = (80, 81, 82, 8080)
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
EXCEPTIONS = {"0.0.0.0/0": ["10.0.0.0/25", "203.0.113.9/32"], "10.0.0.0/24": ["10.0.0.2/32"], "::/0": ["fd00::2/127"]}
OUTSIDE = ("203.0.113.1", "203.0.113.9", "10.0.0.200", "2001:db8::1", "fd00::99")

labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["a", "b", "c"]), max_size=2)
protocols = st.sampled_from(["TCP", "UDP", "SCTP"])


def _expression(key: str, operator: str, values: list[str]) -> Raw:
    plain = {"key": key, "operator": operator}
    return {**plain, "values": values} if operator in {"In", "NotIn"} else plain


expressions = st.builds(
    _expression,
    st.sampled_from(["app", "tier", "kubernetes.io/metadata.name"]),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.lists(st.sampled_from(["a", "b", "x", "y"]), min_size=1, max_size=2),
)
selectors = st.one_of(
    st.just({}),
    st.builds(lambda found: {"matchLabels": found}, labels),
    st.builds(lambda found: {"matchExpressions": found}, st.lists(expressions, min_size=1, max_size=2)),
)


def _block(cidr: str, cut: bool) -> Raw:
    return {"cidr": cidr, **({"except": EXCEPTIONS[cidr]} if cut and cidr in EXCEPTIONS else {})}


peers = st.one_of(
    st.builds(lambda s: {"podSelector": s}, selectors),
    st.builds(lambda s: {"namespaceSelector": s}, selectors),
    st.builds(lambda s, n: {"podSelector": s, "namespaceSelector": n}, selectors, selectors),
    st.builds(lambda c, cut: {"ipBlock": _block(c, cut)}, st.sampled_from(CIDRS), st.booleans()),
)
numbers = st.builds(lambda p, q: {"protocol": p, "port": q}, protocols, st.sampled_from(PORTS))
ports = st.one_of(
    numbers,
    st.builds(lambda q: {"port": q}, st.sampled_from(PORTS)),
    st.builds(lambda p: {"protocol": p}, protocols),
    st.builds(lambda p, n: {"protocol": p, "port": n}, protocols, st.sampled_from(NAMES)),
    st.builds(lambda p: {"protocol": p, "port": 80, "endPort": 81}, protocols),
)


def _rule(side: str) -> st.SearchStrategy[Raw]:
    return st.fixed_dictionaries({}, optional={side: st.lists(peers, max_size=2), "ports": st.lists(ports, max_size=2)})


network_specs = st.fixed_dictionaries(
    {"podSelector": selectors},
    optional={
        "policyTypes": st.lists(st.sampled_from(["Ingress", "Egress"]), max_size=2, unique=True),
        "ingress": st.lists(_rule("from"), max_size=2),
        "egress": st.lists(_rule("to"), max_size=2),
    },
)
subjects = st.one_of(
    st.builds(lambda s: {"namespaces": s}, selectors),
    st.builds(lambda s, n: {"pods": {"podSelector": s, "namespaceSelector": n}}, selectors, selectors),
)
admin_ports = st.one_of(
    st.builds(lambda p, q: {"portNumber": {"protocol": p, "port": q}}, protocols, st.sampled_from(PORTS)),
    st.builds(lambda p: {"portRange": {"protocol": p, "start": 80, "end": 81}}, protocols),
    st.builds(lambda n: {"namedPort": n}, st.sampled_from(NAMES)),
)
cluster_ports = st.one_of(
    st.builds(lambda p, q: {p.lower(): {"destinationPort": {"number": q}}}, protocols, st.sampled_from(PORTS)),
    st.builds(lambda p: {p.lower(): {"destinationPort": {"range": {"start": 81, "end": 82}}}}, protocols),
    st.builds(lambda n: {"destinationNamedPort": n}, st.sampled_from(NAMES)),
)


def _admin_rules(side: str, actions: list[str], filters: str) -> st.SearchStrategy[list[Raw]]:
    found = subjects
    if side == "to":
        networks = st.builds(lambda c: {"networks": c}, st.lists(st.sampled_from(CIDRS), min_size=1, max_size=2))
        found = st.one_of(subjects, networks, st.builds(lambda s: {"nodes": s}, selectors))
    kind = admin_ports if filters == "ports" else cluster_ports
    rule = st.fixed_dictionaries(
        {"action": st.sampled_from(actions), side: st.lists(found, min_size=1, max_size=2)},
        optional={filters: st.lists(kind, min_size=1, max_size=2)},
    )
    return st.lists(rule, max_size=2)


def _admin(kind: str, actions: list[str], filters: str, **more: Any) -> st.SearchStrategy[Raw]:
    spec = st.fixed_dictionaries(
        {
            "subject": subjects,
            "ingress": _admin_rules("from", actions, filters),
            "egress": _admin_rules("to", actions, filters),
            **{name: st.just(value) for name, value in more.items()},
        }
    )
    return st.builds(lambda found: {"apiVersion": "policy.networking.k8s.io/v1", "kind": kind, "spec": found}, spec)


network_policies = st.builds(
    lambda namespace, spec: {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace},
        "spec": spec,
    },
    st.sampled_from(SPACES),
    network_specs,
)
policies = st.one_of(
    network_policies,
    network_policies,
    _admin("AdminNetworkPolicy", ["Allow", "Deny", "Pass"], "ports"),
    _admin("ClusterNetworkPolicy", ["Accept", "Deny", "Pass"], "protocols", tier="Admin"),
    _admin("ClusterNetworkPolicy", ["Accept", "Deny", "Pass"], "protocols", tier="Baseline"),
)


@st.composite
def container_ports(draw: st.DrawFn) -> list[Raw]:
    """Named ports: a name may stand for different ports and protocols in different pods."""
    found = draw(st.lists(st.tuples(st.sampled_from(NAMES), protocols, st.sampled_from(PORTS)), max_size=2))
    return [{"name": name, "protocol": protocol, "containerPort": port} for name, protocol, port in found]


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """A cluster of up to six pods and four policies; admin priorities are unique, so that nothing is left open."""
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": draw(labels)}}]
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{at}", "labels": draw(labels)}}
        for at in (1, 2)
    ]
    pods = []
    for at in range(draw(st.integers(2, 6))):
        host, node, dual = draw(st.integers(0, 5)) == 0, draw(st.sampled_from([1, 2])), draw(st.integers(0, 3))
        # Host-network pods share the addresses of their node.
        own = [f"192.168.0.{node}", f"fd00::f:{node}"] if host else [f"10.0.0.{at + 1}", f"fd00::{at + 1}"]
        chosen = {0: own, 1: own[1:]}.get(0 if host else dual, own[:1])
        pods.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"p{at}", "namespace": draw(st.sampled_from(SPACES)), "labels": draw(labels)},
                "spec": {
                    "containers": [{"name": "c", "ports": draw(container_ports())}],
                    "hostNetwork": host,
                    "nodeName": f"node-{node}",
                },
                "status": {"phase": "Running", "podIPs": [{"ip": address} for address in chosen]},
            }
        )
    found = draw(st.lists(policies, min_size=1, max_size=4))
    named = [_named(policy, at) for at, policy in enumerate(found)]
    return Cluster(spaces, pods, named, nodes, draw(st.booleans()))


def _named(policy: Raw, at: int) -> Raw:
    named = {**policy, "metadata": {**policy.get("metadata", {}), "name": f"policy-{at}"}}
    if policy["kind"] != "NetworkPolicy":
        named["spec"] = {**policy["spec"], "priority": at}
    return named
