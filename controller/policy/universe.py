"""Everybody that a policy can mean, sorted into classes that no policy tells apart.

An *item* is a class of pods (same namespace, labels, named ports and place among the address blocks), a node, or a
range of outside addresses. Sets of items are integers, one bit an item, so that a selector over 10,000 pods is a few
operations on integers. Pure; built once for many policies, and again where pods or the cuts between addresses change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise
from typing import NamedTuple

from msgspec import Struct

from controller.policy.objects import (
    BlockPeer,
    Labels,
    NamedPort,
    Namespace,
    Network,
    Node,
    Operator,
    Pod,
    Policy,
    Profile,
    Requirement,
    Selector,
)
from controller.policy.parse import make_namespace

Cuts = tuple[tuple[int, ...], tuple[int, ...]]
PodKey = tuple[str, str]
_SIZES = (1 << 32, 1 << 128)
_IMPLIED_OS = ("kubernetes.io/os", "linux")


class Item(Struct, frozen=True):
    """One class. `kind` is pod, node or range; `ranges` holds first and last address of a range."""

    kind: str
    namespace: str = ""
    labels: Labels = ()
    named_ports: tuple[NamedPort, ...] = ()
    name: str = ""
    span: tuple[str, str] = ("", "")


class _Key(NamedTuple):
    namespace: str
    labels: Labels
    named_ports: tuple[NamedPort, ...]
    segments: tuple[int, int]


def family_index(address: IPv4Address | IPv6Address | Network) -> int:
    """Give 0 for IPv4 and 1 for IPv6."""
    return 0 if address.version == 4 else 1


def cuts_of(policies: Iterable[Policy]) -> Cuts:
    """Give the first addresses of the ranges that blocks of these policies tell apart, 0 among them, per family."""
    found: tuple[set[int], set[int]] = ({0}, {0})
    for policy in policies:
        for rule in (*(policy.ingress or ()), *(policy.egress or ())):
            for peer in rule.peers or ():
                if isinstance(peer, BlockPeer):
                    for block in (peer.cidr, *peer.exceptions):
                        family = family_index(block)
                        found[family].add(int(block.network_address))
                        found[family].add(int(block.broadcast_address) + 1)
    return (
        tuple(sorted(cut for cut in found[0] if cut < _SIZES[0])),
        tuple(sorted(cut for cut in found[1] if cut < _SIZES[1])),
    )


def mask_of(indices: Iterable[int], size: int) -> int:
    """Give the set of these items."""
    octets = bytearray(size // 8 + 1)
    for index in indices:
        octets[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(octets, "little")


def bits_of(mask: int) -> list[int]:
    """Give the items of a set, rising."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


class Universe:
    """Items, where each pod, node and address is among them, and the sets that selectors are made of."""

    def __init__(
        self,
        pods: Sequence[Pod],
        namespaces: Iterable[Namespace],
        nodes: Iterable[Node],
        profile: Profile,
        cuts: Cuts,
    ) -> None:
        """Sort pods, nodes and addresses into items."""
        self.profile = profile
        self.cuts = cuts
        self.items: list[Item] = []
        self.pods: dict[PodKey, Pod] = {(pod.namespace, pod.name): pod for pod in pods}
        self.namespaces = {namespace.name: namespace for namespace in namespaces}
        for pod in pods:
            if pod.namespace not in self.namespaces:
                self.namespaces[pod.namespace] = make_namespace(pod.namespace)
        self.pod_item: dict[PodKey, int] = {}
        self.node_item: dict[str, int] = {}
        self.pod_by_address: dict[str, PodKey] = {}
        self.node_by_address: dict[str, str] = {}
        self._segments: list[tuple[int, int]] = []
        self._segment_cache: dict[str, tuple[int, int]] = {}
        self._selected: dict[tuple[Selector, bool], int] = {}
        self._add_pods()
        self._add_nodes({node.name: node for node in nodes})
        self._add_ranges()
        self._index()

    def counts_as_node(self, pod: Pod) -> bool:
        """Whether the plugin sees the pod's traffic as its node's."""
        return pod.host_network and not self.profile.host_network_as_pods

    def segment(self, address: str) -> tuple[int, int]:
        """Give family (0 or 1) and number of the range that holds the address."""
        found = self._segment_cache.get(address)
        if found is None:
            value = ip_address(address)
            family = family_index(value)
            found = (family, bisect_right(self.cuts[family], int(value)) - 1)
            if len(self._segment_cache) < 65536:
                self._segment_cache[address] = found
        return found

    def range_item(self, address: str) -> int:
        """Give the item of an outside address."""
        family, segment = self.segment(address)
        return self.first_range[family] + segment

    def _segments_of(self, addresses: tuple[str, ...]) -> tuple[int, int]:
        found = [-1, -1]
        for address in addresses:
            family, segment = self.segment(address)
            if found[family] < 0:
                found[family] = segment
        return found[0], found[1]

    def _add_pods(self) -> None:
        known: dict[_Key, int] = {}
        selecting = self.profile.ip_blocks_select_pods
        for place, pod in self.pods.items():
            if pod.terminated or self.counts_as_node(pod):
                continue
            segments = self._segments_of(pod.addresses)
            if not selecting:
                segments = (min(segments[0], 0), min(segments[1], 0))
            key = _Key(pod.namespace, pod.labels, pod.named_ports, segments)
            index = known.get(key)
            if index is None:
                index = known[key] = len(self.items)
                self.items.append(Item("pod", pod.namespace, pod.labels, pod.named_ports))
                self._segments.append(segments)
            self.pod_item[place] = index
            for address in pod.addresses:
                self.pod_by_address[address] = place
        self.pod_count = len(self.items)

    def _add_nodes(self, nodes: dict[str, Node]) -> None:
        addresses: dict[str, dict[str, None]] = {name: dict.fromkeys(node.addresses) for name, node in nodes.items()}
        for (namespace, name), pod in self.pods.items():
            anonymous = f"(node of {namespace}/{name})" if self.counts_as_node(pod) else ""
            node = pod.node or anonymous
            if node and (node not in nodes or not nodes[node].addresses):
                known = addresses.setdefault(node, {})
                known.update(dict.fromkeys(pod.node_addresses))
                if self.counts_as_node(pod):
                    known.update(dict.fromkeys(pod.addresses))
        for name, found in addresses.items():
            # A node that is only named by its pods has at least what every kubelet sets.
            implied = tuple(sorted((("kubernetes.io/hostname", name), _IMPLIED_OS)))
            self.node_item[name] = len(self.items)
            self.items.append(Item("node", labels=nodes[name].labels if name in nodes else implied, name=name))
            self._segments.append(self._segments_of(tuple(found)))
            for address in found:
                self.node_by_address[address] = name
        for place, pod in self.pods.items():
            if self.counts_as_node(pod) and not pod.terminated:
                self.pod_item[place] = self.node_item[pod.node or f"(node of {place[0]}/{place[1]})"]

    def _add_ranges(self) -> None:
        first = []
        for family, kind in enumerate((IPv4Address, IPv6Address)):
            first.append(len(self.items))
            for at, (start, end) in enumerate(pairwise((*self.cuts[family], _SIZES[family]))):
                self.items.append(Item("range", span=(str(kind(start)), str(kind(end - 1)))))
                self._segments.append((at, -1) if family == 0 else (-1, at))
        self.first_range = (first[0], first[1])

    def _index(self) -> None:
        size = len(self.items)
        self.everybody = (1 << size) - 1
        self.all_pods = (1 << self.pod_count) - 1
        pairs: dict[tuple[str, str], list[int]] = {}
        keys: dict[str, list[int]] = {}
        spaces: dict[str, list[int]] = {}
        places: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
        first: list[int] = []
        second_only: list[int] = []
        for index, (item, segments) in enumerate(zip(self.items, self._segments, strict=True)):
            if item.kind == "pod":
                spaces.setdefault(item.namespace, []).append(index)
                for pair in item.labels:
                    pairs.setdefault(pair, []).append(index)
                    keys.setdefault(pair[0], []).append(index)
            if item.kind != "pod" or self.profile.ip_blocks_select_pods:
                for family, segment in enumerate(segments):
                    if segment >= 0:
                        places[family].setdefault(segment, []).append(index)
            if segments[0] >= 0 or segments[1] < 0:
                first.append(index)
            else:
                second_only.append(index)
        self._pairs = {pair: mask_of(found, size) for pair, found in pairs.items()}
        self._keys = {key: mask_of(found, size) for key, found in keys.items()}
        self.in_namespace = {name: mask_of(found, size) for name, found in spaces.items()}
        self._places = tuple({at: mask_of(found, size) for at, found in place.items()} for place in places)
        self.has_first_family = mask_of(first, size)
        self.second_family_only = frozenset(second_only)
        without = (at for at, segments in enumerate(self._segments[: self.pod_count]) if segments == (-1, -1))
        self._without_address = mask_of(without, size) if self.profile.ip_blocks_select_pods else 0

    def select_pods(self, selector: Selector) -> int:
        """Give the pods that a selector matches, in any namespace."""
        key = (selector, True)
        if key not in self._selected:
            mask = self.all_pods
            for requirement in selector.requirements:
                mask &= self._matching(requirement)
            self._selected[key] = mask
        return self._selected[key]

    def _matching(self, wanted: Requirement) -> int:
        if wanted.operator is Operator.EXISTS:
            return self._keys.get(wanted.key, 0)
        if wanted.operator is Operator.DOES_NOT_EXIST:
            return self.all_pods & ~self._keys.get(wanted.key, 0)
        mask = 0
        for value in wanted.values:
            mask |= self._pairs.get((wanted.key, value), 0)
        return mask if wanted.operator is Operator.IN else self.all_pods & ~mask

    def select_namespaces(self, selector: Selector) -> int:
        """Give the pods of the namespaces that a selector matches."""
        if not selector.requirements:
            return self.all_pods
        key = (selector, False)
        if key not in self._selected:
            mask = 0
            for name, inside in self.in_namespace.items():
                if matches(selector, dict(self.namespaces[name].labels)):
                    mask |= inside
            self._selected[key] = mask
        return self._selected[key]

    def select_nodes(self, selector: Selector) -> int:
        """Give the nodes that a selector matches."""
        chosen = (at for at in self.node_item.values() if matches(selector, dict(self.items[at].labels)))
        return mask_of(chosen, len(self.items))

    def select_block(self, block: BlockPeer) -> tuple[int, int]:
        """Give the items within a block of addresses, per family."""
        family = family_index(block.cidr)
        wanted = self._within(block.cidr)
        for inner in block.exceptions:
            wanted -= self._within(inner)
        mask = 0
        for segment in wanted:
            mask |= self._places[family].get(segment, 0)
        if family == 0 and block.cidr.prefixlen == 0 and not block.exceptions:
            mask |= self._without_address
        return (mask, 0) if family == 0 else (0, mask)

    def _within(self, network: Network) -> set[int]:
        cuts = self.cuts[family_index(network)]
        first = bisect_right(cuts, int(network.network_address)) - 1
        last = bisect_right(cuts, int(network.broadcast_address)) - 1
        return set(range(first, last + 1))


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether labels fulfil every condition of a selector."""
    return all(_holds(wanted, labels) for wanted in selector.requirements)


def _holds(wanted: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(wanted.key)
    if wanted.operator is Operator.EXISTS:
        return value is not None
    if wanted.operator is Operator.DOES_NOT_EXIST:
        return value is None
    return (value in wanted.values) is (wanted.operator is Operator.IN)
