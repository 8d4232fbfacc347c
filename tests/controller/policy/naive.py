"""A second evaluator, written from the text of the specification as literally as possible, pair by pair and port by
port over the plain Kubernetes dictionaries. Slow on purpose; shares no code with `controller.policy`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

Raw = dict[str, Any]
PROTOCOLS = ("TCP", "UDP", "SCTP")
MATCH, NO_MATCH = True, False


@dataclass
class Cluster:
    """Plain objects; `blocks_select_pods` says what the plugin does with addresses of pods."""

    namespaces: list[Raw]
    pods: list[Raw]
    policies: list[Raw]
    nodes: list[Raw]
    blocks_select_pods: bool = True

    def namespace_labels(self, name: str) -> dict[str, str]:
        """Give the labels of a namespace with the one that the API server adds."""
        for namespace in self.namespaces:
            if namespace["metadata"]["name"] == name:
                return {**namespace["metadata"].get("labels", {}), "kubernetes.io/metadata.name": name}
        return {"kubernetes.io/metadata.name": name}


def selector_matches(selector: Raw, labels: dict[str, str]) -> bool:
    """All of matchLabels and all of matchExpressions; an empty selector selects everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        key, operator, values = expression["key"], expression["operator"], expression.get("values", [])
        if operator == "In" and not (key in labels and labels[key] in values):
            return False
        if operator == "NotIn" and key in labels and labels[key] in values:
            return False
        if operator == "Exists" and key not in labels:
            return False
        if operator == "DoesNotExist" and key in labels:
            return False
    return True


def is_host(peer: Any) -> bool:
    """Whether the peer is a pod on its node's network."""
    return isinstance(peer, dict) and bool(peer["spec"].get("hostNetwork"))


def is_pod(peer: Any) -> bool:
    """Whether selectors can see the peer: a pod that is not on its node's network."""
    return isinstance(peer, dict) and not is_host(peer)


def addresses(peer: Any) -> list[str]:
    """Give every address of a peer."""
    if isinstance(peer, str):
        return [peer]
    return [entry["ip"] for entry in peer.get("status", {}).get("podIPs", [])]


def used_addresses(source: Any, destination: Any) -> tuple[str | None, str | None]:
    """The addresses of the connection: IPv4 where both have it, otherwise IPv6."""
    for version in (4, 6):
        found = [
            next((text for text in addresses(peer) if ipaddress.ip_address(text).version == version), None)
            for peer in (source, destination)
        ]
        if None not in found:
            return found[0], found[1]
    return None, None


def in_block(block: Raw, address: str | None) -> bool:
    """Whether an address is in the block and in none of its exceptions."""
    if address is None:
        return False
    value = ipaddress.ip_address(address)
    if value not in ipaddress.ip_network(block["cidr"], strict=False):
        return False
    return all(value not in ipaddress.ip_network(inner, strict=False) for inner in block.get("except", []))


class Question:
    """One connection: the destination's port, and the address each side uses."""

    def __init__(self, cluster: Cluster, source: Any, destination: Any, protocol: str, port: int) -> None:
        self.cluster, self.source, self.destination = cluster, source, destination
        self.protocol, self.port = protocol, port
        first, second = used_addresses(source, destination)
        self.address = {id(source): first, id(destination): second}

    def destination_has_name(self, name: str, protocol: str | None) -> bool:
        """Whether the destination pod calls this very port by that name."""
        if not is_pod(self.destination):
            return False
        for container in self.destination["spec"]["containers"]:
            for entry in container.get("ports", []):
                same = entry.get("name") == name and entry.get("containerPort") == self.port
                if same and entry.get("protocol", "TCP") == self.protocol and protocol in (None, self.protocol):
                    return True
        return False

    def allowed(self) -> bool:
        """Both sides must allow; a node always reaches its own pods."""
        node = self.source["spec"].get("nodeName") if is_host(self.source) else None
        if node and is_pod(self.destination) and self.destination["spec"].get("nodeName") == node:
            return True
        return self.direction("egress", self.source, self.destination) and self.direction(
            "ingress", self.destination, self.source
        )

    def direction(self, direction: str, subject: Any, peer: Any) -> bool:
        """Go through the tiers for the side that policies select."""
        if not is_pod(subject):
            return True
        action = self.admin("Admin", direction, subject, peer)
        if action in {"Allow", "Deny"}:
            return action == "Allow"
        isolated = False
        for policy in self.cluster.policies:
            if policy["kind"] == "NetworkPolicy" and self.isolates(policy, direction, subject):
                isolated = True
                for rule in policy["spec"].get(direction) or []:
                    if self.rule_matches(policy, rule, direction, peer):
                        return True
        if isolated:
            return False
        return self.admin("Baseline", direction, subject, peer) != "Deny"

    @staticmethod
    def isolates(policy: Raw, direction: str, subject: Raw) -> bool:
        """Whether a NetworkPolicy selects the pod in this direction."""
        spec = policy["spec"]
        types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
        return (
            direction.capitalize() in types
            and policy["metadata"]["namespace"] == subject["metadata"]["namespace"]
            and selector_matches(spec["podSelector"], subject["metadata"].get("labels", {}))
        )

    def rule_matches(self, policy: Raw, rule: Raw, direction: str, peer: Any) -> bool:
        """Missing or empty peers are everybody, missing or empty ports every port."""
        peers = rule.get("from" if direction == "ingress" else "to") or []
        if peers and not any(self.peer_matches(policy, entry, peer) for entry in peers):
            return False
        ports = rule.get("ports") or []
        return not ports or any(self.port_matches(entry) for entry in ports)

    def peer_matches(self, policy: Raw, entry: Raw, peer: Any) -> bool:
        """Whether one entry of from or to means the peer."""
        if "ipBlock" in entry:
            if is_pod(peer) and not self.cluster.blocks_select_pods:
                return False
            return in_block(entry["ipBlock"], self.address[id(peer)])
        if not is_pod(peer):
            return False
        namespace = peer["metadata"]["namespace"]
        if "namespaceSelector" in entry:
            if not selector_matches(entry["namespaceSelector"], self.cluster.namespace_labels(namespace)):
                return False
        elif namespace != policy["metadata"]["namespace"]:
            return False
        return selector_matches(entry.get("podSelector", {}), peer["metadata"].get("labels", {}))

    def port_matches(self, entry: Raw) -> bool:
        """Whether one entry of ports means the port."""
        port: Any = entry.get("port")
        protocol = entry.get("protocol", "TCP")
        if isinstance(port, str):
            return self.destination_has_name(port, protocol)
        if protocol != self.protocol:
            return False
        return port is None or int(port) <= self.port <= int(entry.get("endPort", port))

    def admin(self, tier: str, direction: str, subject: Raw, peer: Any) -> str | None:
        """The action of the first rule that matches, policies by rising priority."""
        policies = [policy for policy in self.cluster.policies if tier_of(policy) == tier]
        for policy in sorted(policies, key=lambda policy: policy["spec"].get("priority", 0)):
            if not self.namespaced(policy["spec"]["subject"], subject):
                continue
            for rule in policy["spec"].get(direction, []):
                peers = rule["from" if direction == "ingress" else "to"]
                entries = [*rule.get("ports", []), *rule.get("protocols", [])]
                if any(self.admin_peer(entry, peer) for entry in peers) and (
                    not entries or any(self.admin_port(entry) for entry in entries)
                ):
                    return "Allow" if rule["action"] == "Accept" else str(rule["action"])
        return None

    def namespaced(self, entry: Raw, pod: Raw) -> bool:
        """Whether a subject or peer of an admin policy means the pod."""
        labels = self.cluster.namespace_labels(pod["metadata"]["namespace"])
        if "namespaces" in entry:
            return selector_matches(entry["namespaces"], labels)
        return selector_matches(entry["pods"].get("namespaceSelector", {}), labels) and selector_matches(
            entry["pods"]["podSelector"], pod["metadata"].get("labels", {})
        )

    def admin_peer(self, entry: Raw, peer: Any) -> bool:
        """Whether one peer of an admin rule means the peer."""
        if "networks" in entry:
            if is_pod(peer) and not self.cluster.blocks_select_pods:
                return False
            return any(in_block({"cidr": cidr}, self.address[id(peer)]) for cidr in entry["networks"])
        if "nodes" in entry:
            if not is_host(peer):
                return False
            name = peer["spec"].get("nodeName")
            return any(
                node["metadata"]["name"] == name and selector_matches(entry["nodes"], node["metadata"]["labels"])
                for node in self.cluster.nodes
            )
        return is_pod(peer) and self.namespaced(entry, peer)

    def admin_port(self, entry: Raw) -> bool:
        """Whether one entry of ports or protocols means the port."""
        name = entry.get("namedPort") or entry.get("destinationNamedPort")
        if name is not None:
            return self.destination_has_name(name, None)
        if "portNumber" in entry:
            inner = entry["portNumber"]
            return (inner.get("protocol", "TCP"), inner["port"]) == (self.protocol, self.port)
        if "portRange" in entry:
            inner = entry["portRange"]
            return bool(inner.get("protocol", "TCP") == self.protocol) and inner["start"] <= self.port <= inner["end"]
        if self.protocol.lower() not in entry:
            return False
        port = entry[self.protocol.lower()].get("destinationPort")
        if port is None:
            return True
        if "range" in port:
            return int(port["range"]["start"]) <= self.port <= int(port["range"]["end"])
        return bool(port["number"] == self.port)


def tier_of(policy: Raw) -> str:
    """Give the tier of a policy."""
    fixed = {"AdminNetworkPolicy": "Admin", "BaselineAdminNetworkPolicy": "Baseline", "NetworkPolicy": "NetworkPolicy"}
    return fixed.get(policy["kind"]) or str(policy["spec"]["tier"])
