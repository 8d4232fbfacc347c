"""Single laws of the expectation, those that truth tables and random clusters do not reach."""

from __future__ import annotations

from typing import Any

import pytest

from controller.policy import (
    AddressRef,
    NodeRef,
    ObjectError,
    PodRef,
    PolicyModel,
    Profile,
    RangeName,
    UnknownPeerError,
    parse_policy,
    relation,
)
from controller.policy.difference import difference
from tests.controller.policy.building import model_of

Raw = dict[str, Any]
ADMIN = "policy.networking.k8s.io/v1alpha1"


def pod(name: str, labels: dict[str, str] | None = None, *, ips: tuple[str, ...] = (), **spec: Any) -> Raw:
    """Write a Pod."""
    namespace, _, own = name.partition("/")
    ports = spec.pop("ports", [])
    phase = spec.pop("phase", "Running")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": own, "namespace": namespace, "labels": labels or {}},
        "spec": {"containers": [{"name": "c", "ports": ports}], **spec},
        "status": {"phase": phase, "podIPs": [{"ip": ip} for ip in ips]},
    }


def network_policy(name: str, **spec: Any) -> Raw:
    """Write a NetworkPolicy; without more it selects every pod of its namespace."""
    namespace, _, own = name.partition("/")
    metadata = {"name": own, "namespace": namespace}
    spec = {"podSelector": {}, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def admin(kind: str, name: str, **spec: Any) -> Raw:
    """Write an admin policy; without more its subject is every pod."""
    spec = {"subject": {"namespaces": {}}, **spec}
    return {"apiVersion": ADMIN, "kind": kind, "metadata": {"name": name}, "spec": spec}


DENY_INGRESS = network_policy("pay/deny", policyTypes=["Ingress"])
DENY_EGRESS = network_policy("shop/deny", policyTypes=["Egress"])
SHOP = pod("shop/frontend-0", {"app": "frontent"}, ips=("10.0.0.1", "fd00::1"), nodeName="node-a")
PAY = pod("pay/payments-0", {"app": "payments"}, ips=("10.0.0.2", "fd00::2"), nodeName="node-b")
FRONTEND, PAYMENTS = PodRef("shop", "frontend-0"), PodRef("pay", "payments-0")


def ask(model: PolicyModel, port: int = 8443, protocol: str = "TCP", **more: Any) -> Any:
    """Ask about the frontend reaching the payments."""
    return model.decide(FRONTEND, PAYMENTS, protocol, port, **more)


def test_a_denial_names_policy_rule_and_the_label_that_is_wrong() -> None:
    """The answer says what the nearest rule allows, and how this peer differs from it."""
    allow = network_policy(
        "pay/allow-shop",
        ingress=[
            {
                "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "frontend"}}}],
                "ports": [{"port": 8443}],
            }
        ],
    )
    got = ask(model_of([SHOP, PAY, allow]))
    assert got.allowed is False
    assert got.because == ("NetworkPolicy pay/allow-shop",)
    assert got.direction == "ingress"
    assert got.missing == "pay/allow-shop allows TCP 8443 from app=frontend; this pod is app=frontent"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"ports": [{"port": 443}]}, "pay/p allows TCP 443 from everybody; TCP 8443 is not among them"),
        (
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]},
            "pay/p allows all ports from every pod in namespaces team=a; its namespace shop is without label team",
        ),
        (
            {"from": [{"podSelector": {}}]},
            "pay/p allows all ports from every pod of namespace pay; this pod is in namespace shop, not in pay",
        ),
    ],
    ids=["port", "namespace-label", "namespace"],
)
def test_what_a_rule_lacks_is_put_in_words(rule: Raw, text: str) -> None:
    """Port, namespace label or namespace: the words name just what keeps the rule from matching."""
    assert ask(model_of([SHOP, PAY, network_policy("pay/p", ingress=[rule])])).missing == text


def test_denied_on_both_sides_names_both() -> None:
    """Both sides must allow; where neither does, both are to be mended and both are named."""
    got = ask(model_of([SHOP, PAY, DENY_INGRESS, DENY_EGRESS]))
    assert (got.allowed, got.direction) == (False, "both")
    assert got.because == ("NetworkPolicy shop/deny", "NetworkPolicy pay/deny")


@pytest.mark.parametrize(
    ("types", "spec", "ingress", "egress"),
    [
        (None, {}, False, True),
        (None, {"egress": []}, False, True),
        (None, {"egress": [{"ports": [{"port": 1}]}]}, False, False),
        (["Egress"], {"ingress": []}, True, False),
        (["Egress"], {"ingress": [], "egress": [{}]}, True, True),
    ],
    ids=["none", "empty-egress", "egress-rules", "egress-only", "egress-allow-all"],
)
def test_policy_types_have_the_defaults_of_the_api(types: Any, spec: Raw, ingress: bool, egress: bool) -> None:
    """Without policyTypes ingress is isolated, and egress only where there are egress rules."""
    policy = network_policy("pay/p", **spec, **({"policyTypes": types} if types else {}))
    model = model_of([SHOP, PAY, policy])
    assert model.decide(FRONTEND, PAYMENTS, "TCP", 80).allowed is ingress
    assert model.decide(PAYMENTS, FRONTEND, "TCP", 80).allowed is egress


def test_a_node_reaches_its_own_pods_and_no_others() -> None:
    """Traffic from the node that a pod runs on passes whatever policy says, also of host-network pods there."""
    agent = pod("kube-system/agent", ips=("192.168.0.2",), hostNetwork=True, nodeName="node-b")
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "status": {}}
    model = model_of([SHOP, PAY, agent, node, DENY_INGRESS])
    assert model.decide(NodeRef("node-b"), PAYMENTS, "TCP", 80).allowed is True
    assert model.decide(PodRef("kube-system", "agent"), PAYMENTS, "TCP", 80).allowed is True
    assert model.decide(AddressRef("192.168.0.2"), PAYMENTS, "TCP", 80).allowed is True
    assert model.decide(NodeRef("node-a"), PAYMENTS, "TCP", 80).allowed is False


def test_host_network_pods_are_their_node_unless_the_plugin_tells_them_apart() -> None:
    """The standard knows two kinds of plugin; the profile says which one this is."""
    host = pod("shop/frontend-0", {"app": "frontend"}, ips=("192.168.0.1",), hostNetwork=True, nodeName="node-a")
    by_label = network_policy("pay/p", ingress=[{"from": [{"namespaceSelector": {}}]}])
    by_block = network_policy("pay/q", ingress=[{"from": [{"ipBlock": {"cidr": "192.168.0.0/24"}}]}])
    assert ask(model_of([host, PAY, by_label])).allowed is False
    assert ask(model_of([host, PAY, by_label], profile=Profile(host_network_as_pods=True))).allowed is True
    assert ask(model_of([host, PAY, by_block])).allowed is True


def test_what_the_standard_leaves_open_is_unknown() -> None:
    """ICMP, a pod to itself, a Service's address and a pod that has ended have no verdict, and it is said why."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "payments", "namespace": "pay"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 443}]},
    }
    ended = pod("pay/job-0", ips=("10.0.0.2",), phase="Succeeded")
    model = model_of([SHOP, PAY, ended, service, DENY_INGRESS])
    answers = [
        ask(model, protocol="ICMP", port=0),
        model.decide(PAYMENTS, PAYMENTS, "TCP", 80),
        model.decide(FRONTEND, AddressRef("10.96.0.7"), "TCP", 443),
        model.decide(FRONTEND, PodRef("pay", "job-0"), "TCP", 443),
    ]
    assert [answer.allowed for answer in answers] == [None] * 4
    assert all(answer.missing for answer in answers)


@pytest.mark.parametrize(
    ("cidr", "allowed"), [("0.0.0.0/0", True), ("10.0.0.0/8", False), ("::/0", False)], ids=["all", "some", "all-ipv6"]
)
def test_a_pod_without_an_address_is_within_the_block_of_all_addresses_alone(cidr: str, allowed: bool) -> None:
    """Manifests know no addresses: a block of all holds whatever address comes, a smaller one is not taken to."""
    policy = network_policy("pay/p", ingress=[{"from": [{"ipBlock": {"cidr": cidr}}]}])
    model = model_of([pod("shop/frontend-0"), pod("pay/payments-0"), policy])
    assert ask(model).allowed is allowed


def test_where_no_policy_applies_nothing_is_open() -> None:
    """Pods that no policy selects take every protocol, and reach themselves."""
    model = model_of([SHOP, PAY])
    assert ask(model, protocol="ICMP", port=0).allowed is True
    assert model.decide(PAYMENTS, PAYMENTS, "TCP", 80).allowed is True


def test_egress_to_the_own_node_is_open_where_only_a_network_policy_denies_it() -> None:
    """The documents of NetworkPolicy contradict each other here, so there is no verdict."""
    agent = pod("kube-system/agent", ips=("192.168.0.1",), hostNetwork=True, nodeName="node-a")
    other = pod("kube-system/other", ips=("192.168.0.2",), hostNetwork=True, nodeName="node-b")
    model = model_of([SHOP, agent, other, DENY_EGRESS])
    assert model.decide(FRONTEND, PodRef("kube-system", "agent"), "TCP", 80).allowed is None
    assert model.decide(FRONTEND, PodRef("kube-system", "other"), "TCP", 80).allowed is False


def test_each_address_family_is_judged_by_its_own_blocks() -> None:
    """A block of one family says nothing of the other; without a family IPv4 is meant where both sides have it."""
    policy = network_policy("pay/p", ingress=[{"from": [{"ipBlock": {"cidr": "fd00::/64"}}]}])
    model = model_of([SHOP, PAY, policy])
    assert [ask(model, family=family).allowed for family in (None, 4, 6)] == [False, False, True]


def test_a_named_port_is_the_destinations_by_protocol() -> None:
    """The same name may stand for other ports in other pods, and for another protocol it stands for none."""
    web = {"name": "web", "containerPort": 8080}
    pods = [
        SHOP,
        pod("pay/a", ports=[web]),
        pod("pay/b", ports=[{"name": "web", "containerPort": 9090}]),
        pod("pay/c", ports=[{**web, "protocol": "UDP"}]),
    ]
    model = model_of([*pods, network_policy("shop/p", policyTypes=["Egress"], egress=[{"ports": [{"port": "web"}]}])])
    passing = {
        (name, protocol, port)
        for name in "abc"
        for protocol in ("TCP", "UDP")
        for port in (8080, 9090)
        if model.decide(FRONTEND, PodRef("pay", name), protocol, port).allowed
    }
    assert passing == {("a", "TCP", 8080), ("b", "TCP", 9090)}


EVERYBODY: list[Raw] = [{"namespaces": {}}]


@pytest.mark.parametrize(
    ("policies", "allowed"),
    [
        ([admin("AdminNetworkPolicy", "a", priority=1, ingress=[{"action": "Allow", "from": EVERYBODY}])], True),
        ([admin("AdminNetworkPolicy", "a", priority=1, ingress=[{"action": "Pass", "from": EVERYBODY}])], False),
        (
            [
                admin("AdminNetworkPolicy", "a", priority=2, ingress=[{"action": "Deny", "from": EVERYBODY}]),
                admin("AdminNetworkPolicy", "b", priority=1, ingress=[{"action": "Allow", "from": EVERYBODY}]),
            ],
            True,
        ),
        (
            [
                admin("AdminNetworkPolicy", "a", priority=1, ingress=[{"action": "Deny", "from": EVERYBODY}]),
                admin("AdminNetworkPolicy", "b", priority=1, ingress=[{"action": "Allow", "from": EVERYBODY}]),
            ],
            None,
        ),
        (
            [
                admin("AdminNetworkPolicy", "a", priority=1, ingress=[{"action": "Deny", "from": EVERYBODY}]),
                admin("AdminNetworkPolicy", "b", priority=1, ingress=[{"action": "Pass", "from": EVERYBODY}]),
            ],
            False,
        ),
        ([admin("BaselineAdminNetworkPolicy", "default", ingress=[{"action": "Allow", "from": EVERYBODY}])], False),
    ],
    ids=["admin-allows", "pass-goes-on", "priority", "equal-priority-differs", "equal-priority-same-end", "baseline"],
)
def test_tiers_and_priorities(policies: list[Raw], allowed: bool | None) -> None:
    """Admin before NetworkPolicy before baseline; lower numbers first; equal ones that differ leave it open."""
    got = ask(model_of([SHOP, PAY, DENY_INGRESS, *policies]))
    assert got.allowed is allowed
    assert bool(got.missing) is (allowed is not True)


def test_names_in_the_dns_leave_outside_addresses_open() -> None:
    """Whether an address belongs to a name is not known here; pods never do."""
    rules = [
        {"action": "Allow", "to": [{"domainNames": ["*.example.org"]}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
    ]
    model = model_of([SHOP, PAY, admin("AdminNetworkPolicy", "a", priority=1, egress=rules)])
    assert model.decide(FRONTEND, AddressRef("203.0.113.9"), "TCP", 443).allowed is None
    assert ask(model).allowed is False
    assert any(row.protocol == "TCP" for row in relation(model).unknown)


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ({"namespaces": {"namespaceSelector": {}}}, [False, False]),
        ({"namespaces": {"sameLabels": ["team"]}}, [False, True]),
        ({"namespaces": {"notSameLabels": ["team"]}}, [True, False]),
        (
            {"pods": {"namespaces": {"namespaceSelector": {}}, "podSelector": {"matchLabels": {"n": "1"}}}},
            [False, True],
        ),
    ],
    ids=["selector", "same-labels", "not-same-labels", "pods"],
)
def test_the_first_form_of_admin_policies_is_understood(peer: Raw, allowed: list[bool]) -> None:
    """AdminNetworkPolicy up to v0.1.1 wraps namespace selectors and can relate namespaces to the subject's."""
    spaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}
        for name, team in (("shop", "a"), ("pay", "a"), ("crm", "b"))
    ]
    rules = [{"action": "Deny", "from": [peer]}]
    policy = admin("AdminNetworkPolicy", "a", priority=1, ingress=rules)
    sources = [pod("shop/one", {"n": "1"}), pod("crm/two", {"n": "2"})]
    model = model_of([*spaces, *sources, PAY, policy])
    asked = (PodRef("shop", "one"), PodRef("crm", "two"))
    assert [model.decide(source, PAYMENTS, "TCP", 80).allowed for source in asked] == allowed


def test_nodes_are_selected_by_label_also_where_only_pods_name_them() -> None:
    """A node that no object describes has at least the labels that every kubelet sets."""
    rules = [{"action": "Deny", "to": [{"nodes": {"matchLabels": {"kubernetes.io/os": "linux"}}}]}]
    host = pod("kube-system/agent", ips=("192.168.0.2",), hostNetwork=True, nodeName="node-b")
    model = model_of([SHOP, PAY, host, admin("AdminNetworkPolicy", "a", priority=1, egress=rules)])
    assert model.decide(FRONTEND, PodRef("kube-system", "agent"), "TCP", 80).allowed is False
    assert ask(model).allowed is True


def test_unknown_peers_are_an_error() -> None:
    """A pod that the model does not know has no verdict to be guessed."""
    with pytest.raises(UnknownPeerError, match="pod pay/gone is not known"):
        model_of([SHOP]).decide(FRONTEND, PodRef("pay", "gone"), "TCP", 80)


def test_outside_ranges_are_cut_where_policies_tell_addresses_apart() -> None:
    """Neighbouring ranges that every policy treats alike are one range; exceptions are cut out."""
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    policy = network_policy("pay/p", ingress=[{"from": [{"ipBlock": block}]}])
    rows = relation(model_of([pod("pay/payments-0"), policy])).allowed
    spans = {(row.source.first, row.source.last) for row in rows if isinstance(row.source, RangeName)}
    assert spans == {("10.0.0.0", "10.0.255.255"), ("10.2.0.0", "10.255.255.255")}
    leaving = {(row.destination.first, row.destination.last) for row in rows if isinstance(row.destination, RangeName)}
    assert leaving == {
        ("0.0.0.0", "9.255.255.255"),
        ("10.0.0.0", "10.0.255.255"),
        ("10.1.0.0", "10.1.255.255"),
        ("10.2.0.0", "10.255.255.255"),
        ("11.0.0.0", "255.255.255.255"),
    }


def test_a_difference_lists_ports_and_addresses_that_change() -> None:
    """What both relations have is not in it, however differently their ranges are cut."""
    before = relation(model_of([SHOP, PAY]))
    block = {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 8443}]}
    after = relation(model_of([SHOP, PAY, network_policy("pay/p", ingress=[block])]))
    found = difference(before, after)
    assert found.opened == ()
    closed = {(getattr(row.source, "first", "pod"), row.protocol): row.ports for row in found.closed}
    assert closed["pod", "TCP"] == ((1, 8442), (8444, 65535))
    assert closed["0.0.0.0", "TCP"] == ((1, 65535),)
    assert closed["10.0.0.0", "TCP"] == ((1, 8442), (8444, 65535))
    assert difference(before, before) == difference(after, after)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.300/8"}}]}]}, r"ingress\[0\].from\[0\].ipBlock.cidr"),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}]}, "has no '/'"),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}, "must lie within"),
        ({"ingress": [{"from": [{}]}]}, "needs one of podSelector"),
        ({"ingress": [{"ports": [{"port": "a-name-that-is-too-long"}]}]}, "has 23 characters; at most 15"),
        ({"ingress": [{"ports": [{"port": 0}]}]}, "between 1 and 65535"),
        ({"ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}, "must not be less than port 90"),
        ({"ingress": [{"ports": [{"port": "web", "endPort": 80}]}]}, "where port is a name"),
        ({"ingress": [{"ports": [{"protocol": "ICMP"}]}]}, "unknown protocol 'ICMP'"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}, "unknown operator 'Is'"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "needs at least one value"),
        ({"podSelector": {"matchLabels": {"a": True}}}, "must be a string, not true or false"),
        ({"policyTypes": ["ingress"]}, "unknown policy type 'ingress'"),
        ({"ingress": {"from": []}}, "must be a list, not a mapping"),
    ],
    ids=str,
)
def test_broken_policies_name_the_field(change: Raw, field: str) -> None:
    """What the API server would refuse is refused, with object, field and reason in one line."""
    with pytest.raises(ObjectError, match=f"^NetworkPolicy pay/p: spec.*{field}") as caught:
        parse_policy(network_policy("pay/p", **change))
    assert "\n" not in str(caught.value)
