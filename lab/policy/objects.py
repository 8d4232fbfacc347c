"""Pods, namespaces and NetworkPolicies as enforcement sees them, read from API objects.

Pure. It shares nothing with the evaluator in `controller.policy`: the two are held against each other.
Source: networking.k8s.io/v1 in the Kubernetes API reference.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Literal

import msgspec

Object = Mapping[str, Any]
Labels = Mapping[str, str]
Direction = Literal["ingress", "egress"]
NAME_LABEL = "kubernetes.io/metadata.name"


class NamedPort(msgspec.Struct, frozen=True):
    """A container port that has a name. Protocol is lower case."""

    name: str
    protocol: str
    number: int


class Pod(msgspec.Struct, frozen=True):
    """A pod with addresses of its own; pods on the host network are nodes to NetworkPolicy."""

    namespace: str
    name: str
    node: str
    labels: Labels
    namespace_labels: Labels
    addresses: tuple[str, ...]
    ports: tuple[NamedPort, ...]
    service_account: str

    def address(self, family: int) -> str | None:
        """The pod's address of a family, None where it has none."""
        return next((text for text in self.addresses if ip_address(text).version == family), None)


class Requirement(msgspec.Struct, frozen=True):
    """One term of a label selector: In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...]

    def holds(self, labels: Labels) -> bool:
        """Whether labels fulfil it; NotIn holds also where the key is absent."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case _:
                return value is None


Selector = tuple[Requirement, ...]


class PodPeer(msgspec.Struct, frozen=True):
    """Peers by selectors; without namespaces, those of the policy's own namespace."""

    namespaces: Selector | None
    pods: Selector | None


class Block(msgspec.Struct, frozen=True):
    """Peers by address."""

    cidr: str
    excepted: tuple[str, ...]


class Port(msgspec.Struct, frozen=True):
    """A port of a rule: a number, a range, a name, or (first 0) every port of the protocol."""

    protocol: str
    first: int
    last: int
    name: str


class Rule(msgspec.Struct, frozen=True):
    """An ingress or egress rule; no peers: everybody, no ports: everything."""

    peers: tuple[PodPeer | Block, ...]
    ports: tuple[Port, ...]


class Policy(msgspec.Struct, frozen=True):
    """A NetworkPolicy; rules are None in a direction that it does not isolate."""

    namespace: str
    name: str
    pods: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None


def matches(selector: Selector, labels: Labels) -> bool:
    """Whether all terms hold; the empty selector selects everything."""
    return all(term.holds(labels) for term in selector)


def _read_selector(selector: Object) -> Selector:
    equal = [Requirement(key, "In", (value,)) for key, value in (selector.get("matchLabels") or {}).items()]
    terms = [
        Requirement(term["key"], term["operator"], tuple(term.get("values") or ()))
        for term in selector.get("matchExpressions") or ()
    ]
    return (*equal, *terms)


def _read_peer(peer: Object) -> PodPeer | Block:
    block = peer.get("ipBlock")
    if block is not None:
        return Block(block["cidr"], tuple(block.get("except") or ()))
    namespaces, pods = peer.get("namespaceSelector"), peer.get("podSelector")
    return PodPeer(
        namespaces=None if namespaces is None else _read_selector(namespaces),
        pods=None if pods is None else _read_selector(pods),
    )


def _read_port(port: Object) -> Port:
    protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
    if number is None:
        return Port(protocol, 0, 0, "")
    if isinstance(number, str):
        return Port(protocol, 0, 0, number)
    return Port(protocol, number, port.get("endPort") or number, "")


def _read_rules(rules: Iterable[Object] | None, peers: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            peers=tuple(_read_peer(peer) for peer in rule.get(peers) or ()),
            ports=tuple(_read_port(port) for port in rule.get("ports") or ()),
        )
        for rule in rules or ()
    )


def read_policy(item: Object) -> Policy:
    """Read a NetworkPolicy. Without policyTypes it isolates ingress, and egress where it has egress rules."""
    spec, metadata = item["spec"], item["metadata"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return Policy(
        namespace=metadata["namespace"],
        name=metadata["name"],
        pods=_read_selector(spec.get("podSelector") or {}),
        ingress=_read_rules(spec.get("ingress"), "from") if "Ingress" in types else None,
        egress=_read_rules(spec.get("egress"), "to") if "Egress" in types else None,
    )


def _read_pod(item: Object, namespace_labels: Labels) -> Pod | None:
    spec, status, metadata = item["spec"], item.get("status") or {}, item["metadata"]
    addresses = [entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")]
    addresses = addresses or ([status["podIP"]] if status.get("podIP") else [])
    ended = status.get("phase") in ("Succeeded", "Failed")
    if spec.get("hostNetwork") or ended or not addresses or not spec.get("nodeName"):
        return None
    ports = tuple(
        NamedPort(port["name"], port.get("protocol", "TCP").lower(), port["containerPort"])
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        for port in container.get("ports") or ()
        if port.get("name")
    )
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=spec["nodeName"],
        labels=metadata.get("labels") or {},
        namespace_labels=namespace_labels,
        addresses=tuple(str(ip_address(text)) for text in addresses),
        ports=ports,
        service_account=spec.get("serviceAccountName") or "default",
    )


def read_pods(pods: Iterable[Object], namespaces: Iterable[Object]) -> tuple[Pod, ...]:
    """Return all pods that policies can be about, by namespace and name."""
    labels = {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in namespaces}
    found = []
    for item in pods:
        namespace = item["metadata"]["namespace"]
        # Every Namespace carries its name as a label; so does one that is not known yet.
        pod = _read_pod(item, {NAME_LABEL: namespace, **labels.get(namespace, {})})
        if pod is not None:
            found.append(pod)
    return tuple(sorted(found, key=lambda pod: (pod.namespace, pod.name)))
