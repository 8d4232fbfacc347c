"""Kubernetes dictionaries → policies of the four kinds, with the API's defaults filled in. No I/O.

Source of the rules: kubernetes/pkg/apis/networking (v1 defaults and validation), network-policy-api apis/v1alpha1
(both the shape up to v0.1.1 and the later one) and apis/v1alpha2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from controller.policy.objects import (
    PROTOCOLS,
    Action,
    BlockPeer,
    DomainsPeer,
    Network,
    NodesPeer,
    Peer,
    PodsPeer,
    Policy,
    PortRule,
    Rule,
    Tier,
)
from controller.policy.parse import Field, name_of, namespace_of, read_object

_RELATIVE = ("namespaceSelector", "sameLabels", "notSameLabels")
_ACTIONS = {"Allow": Action.ALLOW, "Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
_ACTIONS_OF = {
    "AdminNetworkPolicy": ("Allow", "Deny", "Pass"),
    "BaselineAdminNetworkPolicy": ("Allow", "Deny"),
    # Drafts of v1alpha2 said Allow.
    "ClusterNetworkPolicy": ("Accept", "Deny", "Pass", "Allow"),
}


def parse_policy(raw: Mapping[str, Any]) -> Policy:
    """Read a NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy or ClusterNetworkPolicy.

    Raises:
        ObjectError: the API server would refuse it, or its kind is none of the four.

    """
    field = read_object(raw)
    kind = field.value["kind"]
    if kind not in POLICY_KINDS:
        field.fail(f"kind {kind} is no policy")
    return POLICY_KINDS[kind](field)


def _network_policy(field: Field) -> Policy:
    namespace, spec = namespace_of(field), field.get("spec")
    if spec.missing:
        spec.fail("is required")
    types = spec.get("policyTypes")
    named = {item.text() for item in types.items()}
    for item in types.items():
        if item.text() not in {"Ingress", "Egress"}:
            item.fail(f"unknown policy type {item.text()!r}; Ingress or Egress")
    if not named:
        named = {"Ingress", "Egress"} if spec.get("egress").items() else {"Ingress"}
    ingress = tuple(_network_rule(item, "from", namespace) for item in spec.get("ingress").items())
    egress = tuple(_network_rule(item, "to", namespace) for item in spec.get("egress").items())
    return Policy(
        kind="NetworkPolicy",
        name=name_of(field),
        namespace=namespace,
        tier=Tier.NETWORK_POLICY,
        subject=PodsPeer(namespace=namespace, pods=spec.get("podSelector").selector()),
        ingress=ingress if "Ingress" in named else None,
        egress=egress if "Egress" in named else None,
    )


def _network_rule(item: Field, side: str, namespace: str) -> Rule:
    item.mapping()
    peers = tuple(_network_peer(peer, namespace) for peer in item.get(side).items())
    ports = tuple(_network_port(port) for port in item.get("ports").items())
    return Rule(peers=peers or None, ports=ports or None, action=Action.ALLOW, where=_where(item))


def _network_peer(item: Field, namespace: str) -> Peer:
    block, pods, namespaces = item.get("ipBlock"), item.get("podSelector"), item.get("namespaceSelector")
    if not block.missing:
        if not (pods.missing and namespaces.missing):
            item.fail("ipBlock may not stand beside podSelector or namespaceSelector")
        return _block(block)
    if pods.missing and namespaces.missing:
        item.fail("needs one of podSelector, namespaceSelector, ipBlock")
    if namespaces.missing:
        return PodsPeer(namespace=namespace, pods=pods.selector())
    return PodsPeer(namespaces=namespaces.selector(), pods=pods.selector())


def _block(block: Field) -> BlockPeer:
    cidr = _cidr(block.get("cidr"))
    exceptions = []
    for item in block.get("except").items():
        inner = _cidr(item)
        if inner.version != cidr.version or inner == cidr or not _inside(inner, cidr):
            item.fail(f"{item.value} must lie within {block.get('cidr').value} and be smaller")
        exceptions.append(inner)
    return BlockPeer(cidr, tuple(exceptions))


def _inside(inner: Network, outer: Network) -> bool:
    return inner.prefixlen > outer.prefixlen and inner.network_address in outer


def _cidr(field: Field) -> Network:
    text = field.text()
    if not text:
        field.fail("is required")
    address, slash, length = text.partition("/")
    if not slash:
        field.fail(f"{text!r} is no CIDR: it has no '/' and length")
    try:
        longest = ip_address(address).max_prefixlen
    except ValueError:
        field.fail(f"{text!r} is no CIDR: {address!r} is no IP address")
    if not (length.isascii() and length.isdecimal() and int(length) <= longest) or "%" in address:
        field.fail(f"{text!r} is no CIDR: its length must be a number from 0 to {longest}")
    # Host bits are not an error: the API keeps them and plugins mask them.
    return ip_network(text, strict=False)


def _network_port(item: Field) -> PortRule:
    item.mapping()
    protocol, port, end = item.get("protocol").protocol(), item.get("port"), item.get("endPort")
    if port.missing:
        if not end.missing:
            end.fail("may not be set where port is not")
        return PortRule(protocol)
    if isinstance(port.value, str):
        if not end.missing:
            end.fail("may not be set where port is a name")
        return PortRule(protocol, name=port.port_name())
    first = port.number(1, 65535)
    last = first if end.missing else end.number(1, 65535)
    if last < first:
        end.fail(f"must not be less than port {first}")
    return PortRule(protocol, first, last)


def _admin_network_policy(field: Field) -> Policy:
    return _admin(field, Tier.ADMIN, field.get("spec").get("priority").number(0, 1000))


def _baseline_admin_network_policy(field: Field) -> Policy:
    return _admin(field, Tier.BASELINE, 0)


def _cluster_network_policy(field: Field) -> Policy:
    tier = field.get("spec").get("tier")
    if tier.text() not in {"Admin", "Baseline"}:
        tier.fail(f"unknown tier {tier.text()!r}; Admin or Baseline")
    priority = field.get("spec").get("priority").number(0, 1000)
    return _admin(field, Tier.ADMIN if tier.text() == "Admin" else Tier.BASELINE, priority)


def _admin(field: Field, tier: Tier, priority: int) -> Policy:
    spec = field.get("spec")
    subject = spec.get("subject")
    namespaces, pods = subject.get("namespaces"), subject.get("pods")
    if namespaces.missing == pods.missing:
        subject.fail("needs exactly one of namespaces, pods")
    if pods.missing:
        chosen = PodsPeer(namespaces=namespaces.selector())
    else:
        chosen = PodsPeer(namespaces=pods.get("namespaceSelector").selector(), pods=pods.get("podSelector").selector())
    actions = _ACTIONS_OF[field.value["kind"]]
    return Policy(
        kind=field.value["kind"],
        name=name_of(field),
        tier=tier,
        subject=chosen,
        priority=priority,
        ingress=tuple(_admin_rule(item, "from", actions) for item in spec.get("ingress").items()),
        egress=tuple(_admin_rule(item, "to", actions) for item in spec.get("egress").items()),
    )


def _admin_rule(item: Field, side: str, actions: tuple[str, ...]) -> Rule:
    action = item.get("action")
    if action.text() not in actions:
        action.fail(f"unknown action {action.text()!r}; one of {', '.join(actions[:3])}")
    peers = item.get(side).items()
    if not peers:
        item.get(side).fail("needs at least one peer")
    found = tuple(peer for entry in peers for peer in _admin_peer(entry, side))
    ports: list[PortRule] = []
    for entry in item.get("protocols").items():
        ports.extend(_cluster_port(entry))
    ports.extend(_admin_port(entry) for entry in item.get("ports").items())
    filtered = bool(item.get("protocols").items() or item.get("ports").items())
    return Rule(
        peers=found,
        ports=tuple(ports) if filtered else None,
        action=_ACTIONS[action.text()],
        where=_where(item),
        name=item.get("name").text(),
    )


def _admin_peer(item: Field, side: str) -> tuple[Peer, ...]:
    kinds = ("namespaces", "pods") if side == "from" else _EGRESS_PEERS
    given = [kind for kind in kinds if not item.get(kind).missing]
    if len(given) != 1:
        item.fail(f"needs exactly one of {', '.join(kinds)}")
    entry = item.get(given[0])
    if given[0] == "namespaces":
        return (_admin_namespaces(entry),)
    if given[0] == "pods":
        return (_admin_pods(entry),)
    if given[0] == "nodes":
        return (NodesPeer(entry.selector()),)
    if given[0] == "networks":
        return tuple(BlockPeer(_cidr(network)) for network in entry.items())
    return (DomainsPeer(tuple(name.text() for name in entry.items())),)


_EGRESS_PEERS = ("namespaces", "pods", "nodes", "networks", "domainNames")


def _admin_namespaces(entry: Field) -> PodsPeer:
    """Read a selector of namespaces, or the wrapped form of v1alpha1 up to v0.1.1."""
    if not any(key in entry.mapping() for key in _RELATIVE):
        return PodsPeer(namespaces=entry.selector())
    same = tuple(item.text() for item in entry.get("sameLabels").items())
    not_same = tuple(item.text() for item in entry.get("notSameLabels").items())
    if entry.get("namespaceSelector").missing and not (same or not_same):
        entry.fail("needs exactly one of namespaceSelector, sameLabels, notSameLabels")
    return PodsPeer(namespaces=entry.get("namespaceSelector").selector(), same_labels=same, not_same_labels=not_same)


def _admin_pods(entry: Field) -> PodsPeer:
    pods = entry.get("podSelector").selector()
    if "namespaces" in entry.mapping():
        outer = _admin_namespaces(entry.get("namespaces"))
        return PodsPeer(outer.namespaces, pods, None, outer.same_labels, outer.not_same_labels)
    return PodsPeer(namespaces=entry.get("namespaceSelector").selector(), pods=pods)


def _admin_port(item: Field) -> PortRule:
    number, name, span = item.get("portNumber"), item.get("namedPort"), item.get("portRange")
    if sum(not part.missing for part in (number, name, span)) != 1:
        item.fail("needs exactly one of portNumber, namedPort, portRange")
    if not name.missing:
        return PortRule(None, name=name.port_name())
    if not number.missing:
        port = number.get("port").number(1, 65535)
        return PortRule(number.get("protocol").protocol(), port, port)
    return PortRule(span.get("protocol").protocol(), *_span(span))


def _cluster_port(item: Field) -> list[PortRule]:
    if not item.get("destinationNamedPort").missing:
        return [PortRule(None, name=item.get("destinationNamedPort").port_name())]
    found = []
    for protocol in PROTOCOLS:
        entry = item.get(protocol.lower())
        if entry.missing:
            continue
        port = entry.get("destinationPort")
        if port.missing:
            found.append(PortRule(protocol))
        elif not port.get("range").missing:
            found.append(PortRule(protocol, *_span(port.get("range"))))
        else:
            number = port.get("number").number(1, 65535)
            found.append(PortRule(protocol, number, number))
    if len(found) != 1:
        item.fail("needs exactly one of tcp, udp, sctp, destinationNamedPort")
    return found


def _span(field: Field) -> tuple[int, int]:
    first, last = field.get("start").number(1, 65535), field.get("end").number(1, 65535)
    if last < first:
        field.get("end").fail(f"must not be less than start {first}")
    return first, last


def _where(item: Field) -> str:
    return f"{item.path[-2]}[{item.path[-1]}]"


POLICY_KINDS: dict[str, Callable[[Field], Policy]] = {
    "NetworkPolicy": _network_policy,
    "AdminNetworkPolicy": _admin_network_policy,
    "BaselineAdminNetworkPolicy": _baseline_admin_network_policy,
    "ClusterNetworkPolicy": _cluster_network_policy,
}
