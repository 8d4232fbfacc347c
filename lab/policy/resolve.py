"""From policies and pods to addresses: what each rule means in one address family.

Pure. Named ports are resolved at each destination pod by itself. Address blocks stay blocks: a pod whose address lies
in one is matched by its source or destination address like anybody else.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network

import msgspec

from lab.policy.objects import Block, Pod, PodPeer, Policy, Port, Rule, matches

Network = IPv4Network | IPv6Network


class PodSet(msgspec.Struct, frozen=True):
    """A peer by selectors, with the addresses that it means now."""

    peer: PodPeer
    addresses: frozenset[str]


class Target(msgspec.Struct, frozen=True):
    """A named port at those pods that call this number by that name."""

    protocol: str
    name: str
    number: int
    addresses: frozenset[str]


class ResolvedRule(msgspec.Struct, frozen=True):
    """A rule; `everybody` and `everything` stand for absent peers and ports."""

    index: int
    everybody: bool
    pods: tuple[PodSet, ...]
    blocks: tuple[Block, ...]
    everything: bool
    ports: tuple[Port, ...]
    targets: tuple[Target, ...]


class ResolvedPolicy(msgspec.Struct, frozen=True):
    """A policy with the addresses of the pods that it selects; rules are None where it does not isolate."""

    policy: Policy
    selected: frozenset[str]
    ingress: tuple[ResolvedRule, ...] | None
    egress: tuple[ResolvedRule, ...] | None

    @property
    def label(self) -> str:
        """Its namespace/name, as comments hold it."""
        return f"{self.policy.namespace}/{self.policy.name}"

    def selects(self, pod: Pod) -> bool:
        """Whether the policy is about this pod."""
        return self.policy.namespace == pod.namespace and matches(self.policy.pods, pod.labels)


def _addresses(pods: Iterable[Pod], family: int) -> frozenset[str]:
    return frozenset(text for pod in pods if (text := pod.address(family)) is not None)


def _peer_pods(peer: PodPeer, namespace: str, pods: Iterable[Pod]) -> list[Pod]:
    return [
        pod
        for pod in pods
        if (pod.namespace == namespace if peer.namespaces is None else matches(peer.namespaces, pod.namespace_labels))
        and matches(peer.pods or (), pod.labels)
    ]


def in_block(address: str, block: Block) -> bool:
    """Whether an address lies in a block and in none of its exceptions."""
    value = ip_address(address)
    return value in ip_network(block.cidr, strict=False) and not any(
        value in ip_network(text, strict=False) for text in block.excepted
    )


def block_networks(block: Block) -> list[Network]:
    """Return a block without its exceptions, as disjoint networks."""
    left: list[Network] = [ip_network(block.cidr, strict=False)]
    for text in block.excepted:
        hole = ip_network(text, strict=False)
        kept: list[Network] = []
        for network in left:
            if not network.overlaps(hole):
                kept.append(network)
            elif hole.prefixlen > network.prefixlen:
                kept += network.address_exclude(hole)  # type: ignore[arg-type]
        left = kept
    return sorted(collapse_addresses(left))  # type: ignore[type-var]


def _named(port: Port, destinations: Iterable[Pod], family: int) -> list[Target]:
    by_number: dict[int, set[str]] = {}
    for pod in destinations:
        address = pod.address(family)
        for entry in pod.ports:
            if address is not None and entry.name == port.name and entry.protocol == port.protocol:
                by_number.setdefault(entry.number, set()).add(address)
    return [Target(port.protocol, port.name, number, frozenset(found)) for number, found in sorted(by_number.items())]


def _destinations(
    rule: Rule, chosen: Iterable[list[Pod]], blocks: tuple[Block, ...], pods: tuple[Pod, ...], family: int
) -> list[Pod]:
    """Pods that an egress rule leads to, at which its named ports are resolved."""
    if not rule.peers:
        return list(pods)
    by_block = [
        pod
        for pod in pods
        if (text := pod.address(family)) is not None and any(in_block(text, block) for block in blocks)
    ]
    return [*(pod for group in chosen for pod in group), *by_block]


def _resolve_rule(
    index: int, rule: Rule, policy: Policy, pods: tuple[Pod, ...], selected: list[Pod] | None, *, family: int
) -> ResolvedRule:
    """`selected` are the destinations of an ingress rule, None for an egress rule."""
    peers = [peer for peer in rule.peers if isinstance(peer, PodPeer)]
    blocks = tuple(
        peer for peer in rule.peers if isinstance(peer, Block) and ip_network(peer.cidr, strict=False).version == family
    )
    chosen = [_peer_pods(peer, policy.namespace, pods) for peer in peers]
    destinations = _destinations(rule, chosen, blocks, pods, family) if selected is None else selected
    return ResolvedRule(
        index=index,
        everybody=not rule.peers,
        pods=tuple(PodSet(peer, _addresses(group, family)) for peer, group in zip(peers, chosen, strict=True)),
        blocks=blocks,
        everything=not rule.ports,
        ports=tuple(port for port in rule.ports if not port.name),
        targets=tuple(target for port in rule.ports if port.name for target in _named(port, destinations, family)),
    )


def resolve(policies: Iterable[Policy], pods: tuple[Pod, ...], family: int) -> tuple[ResolvedPolicy, ...]:
    """Return all policies with addresses of one family, by namespace and name."""
    resolved = []
    for policy in sorted(policies, key=lambda item: (item.namespace, item.name)):
        selected = [pod for pod in pods if pod.namespace == policy.namespace and matches(policy.pods, pod.labels)]
        resolved.append(
            ResolvedPolicy(
                policy,
                _addresses(selected, family),
                _resolve_rules(policy.ingress, policy, pods, selected, family),
                _resolve_rules(policy.egress, policy, pods, None, family),
            )
        )
    return tuple(resolved)


def _resolve_rules(
    rules: tuple[Rule, ...] | None,
    policy: Policy,
    pods: tuple[Pod, ...],
    selected: list[Pod] | None,
    family: int,
) -> tuple[ResolvedRule, ...] | None:
    if rules is None:
        return None
    return tuple(_resolve_rule(index, rule, policy, pods, selected, family=family) for index, rule in enumerate(rules))
