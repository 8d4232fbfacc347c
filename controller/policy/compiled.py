"""Policies made ready for evaluation: each rule a set of items and a set of ports. Pure.

A *view* is what decides one direction for some pods: all policies that select them there, in order of evaluation.
Pods with the same policies share a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from controller.policy.objects import (
    Action,
    BlockPeer,
    Direction,
    DomainsPeer,
    NamedPort,
    NodesPeer,
    PodsPeer,
    Policy,
    PortRule,
    Rule,
    Tier,
)
from controller.policy.ports import ALL, OFFSETS, span_bits
from controller.policy.universe import Universe, bits_of

Masks = tuple[int, int, int]  # peers where the family is chosen by preference, is IPv4, is IPv6


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """What decided: a rule of a policy, or without a rule the isolation by that policy. Compared by identity."""

    policy: Policy
    rule: Rule | None


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """A rule over items. `perhaps`: items that it may or may not match (names in the DNS)."""

    peers: Masks
    perhaps: int
    spans: tuple[tuple[int, int], ...] | None
    names: tuple[tuple[str | None, str], ...]
    action: Action
    hit: Hit

    def matches_port(self, code: int, named: tuple[NamedPort, ...]) -> bool:
        """Whether the rule takes this port of a destination with these named ports."""
        if self.spans is None:
            return True
        for first, last in self.spans:
            if first <= code <= last:
                return True
        return any(code == OFFSETS[port.protocol] + port.port for port in self._named(named))

    def port_bits(self, named: tuple[NamedPort, ...]) -> int:
        """Give the set of ports that the rule takes at such a destination."""
        if self.spans is None:
            return ALL
        bits = 0
        for first, last in self.spans:
            bits |= span_bits(first, last)
        for port in self._named(named):
            bits |= 1 << (OFFSETS[port.protocol] + port.port)
        return bits

    def _named(self, named: tuple[NamedPort, ...]) -> Iterator[NamedPort]:
        for protocol, name in self.names:
            for port in named:
                if port.name == name and protocol in {None, port.protocol}:
                    yield port


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """A policy in one direction, with the pods that it selects there."""

    policy: Policy
    subjects: int
    rules: tuple[CompiledRule, ...]
    isolation: Hit


@dataclass(slots=True, eq=False)
class View:
    """The policies that decide one direction for some items, tier by tier; admin tiers grouped by priority.

    `undoubted` is the same without the kinds that the plugin may not implement; None where there are none.
    """

    admin: tuple[tuple[Applied, ...], ...] = ()
    network: tuple[Applied, ...] = ()
    baseline: tuple[tuple[Applied, ...], ...] = ()
    members: int = 0
    rules: tuple[CompiledRule, ...] = ()
    names: frozenset[str] = field(default_factory=frozenset)
    undoubted: View | None = None

    @property
    def empty(self) -> bool:
        """Whether no policy concerns these items."""
        return not (self.admin or self.network or self.baseline)

    def without_network(self) -> View:
        """What would be left if every NetworkPolicy let the traffic pass: those come before the baseline."""
        undoubted = self.undoubted.without_network() if self.undoubted is not None else None
        return View(admin=self.admin, rules=self.rules, names=self.names, undoubted=undoubted)

    def applied(self) -> Iterator[Applied]:
        """Give every policy of the view in order of evaluation."""
        for group in self.admin:
            yield from group
        yield from self.network
        for group in self.baseline:
            yield from group


def compile_policy(policy: Policy, universe: Universe) -> dict[Direction, tuple[Applied, ...]]:
    """Resolve a policy's selectors to items."""
    sides = {Direction.INGRESS: policy.ingress, Direction.EGRESS: policy.egress}
    subject = _select(policy.subject, universe, "")
    found: dict[Direction, tuple[Applied, ...]] = {}
    for direction, rules in sides.items():
        if rules is None or not subject or (not rules and policy.tier is not Tier.NETWORK_POLICY):
            found[direction] = ()
        elif any(_relative(peer) for rule in rules for peer in rule.peers or ()):
            found[direction] = tuple(_per_namespace(policy, subject, rules, universe))
        else:
            found[direction] = (_applied(policy, subject, rules, universe, ""),)
    return found


def _per_namespace(policy: Policy, subject: int, rules: Sequence[Rule], universe: Universe) -> Iterator[Applied]:
    for name, inside in universe.in_namespace.items():
        if subject & inside:
            yield _applied(policy, subject & inside, rules, universe, name)


def _applied(policy: Policy, subjects: int, rules: Sequence[Rule], universe: Universe, home: str) -> Applied:
    compiled = tuple(_compile_rule(policy, rule, universe, home) for rule in rules)
    return Applied(policy, subjects, compiled, Hit(policy, None))


def _compile_rule(policy: Policy, rule: Rule, universe: Universe, home: str) -> CompiledRule:
    masks, perhaps = _peers(rule, universe, home)
    ports = rule.ports
    return CompiledRule(
        peers=masks,
        perhaps=perhaps,
        spans=None if ports is None else tuple(_span(port) for port in ports if port.name is None),
        names=tuple((port.protocol, port.name) for port in ports or () if port.name is not None),
        action=rule.action,
        hit=Hit(policy, rule),
    )


def _span(port: PortRule) -> tuple[int, int]:
    offset = OFFSETS[port.protocol or "TCP"]
    return offset + port.first, offset + port.last


def _peers(rule: Rule, universe: Universe, home: str) -> tuple[Masks, int]:
    if rule.peers is None:
        return (universe.everybody, universe.everybody, universe.everybody), 0
    chosen = first = second = perhaps = 0
    for peer in rule.peers:
        if isinstance(peer, PodsPeer):
            chosen |= _select(peer, universe, home)
        elif isinstance(peer, BlockPeer):
            inside = universe.select_block(peer)
            first, second = first | inside[0], second | inside[1]
        elif isinstance(peer, NodesPeer):
            chosen |= universe.select_nodes(peer.selector)
        elif isinstance(peer, DomainsPeer):
            perhaps |= universe.everybody & ~universe.all_pods
    preferred = chosen | first | (second & ~universe.has_first_family)
    return (preferred, chosen | first, chosen | second), perhaps


def _select(peer: PodsPeer, universe: Universe, home: str) -> int:
    pods = universe.select_pods(peer.pods)
    if peer.namespace is not None:
        return pods & universe.in_namespace.get(peer.namespace, 0)
    if _relative(peer):
        return pods & _related(peer, universe, home)
    return pods & universe.select_namespaces(peer.namespaces)


def _relative(peer: object) -> bool:
    return isinstance(peer, PodsPeer) and bool(peer.same_labels or peer.not_same_labels)


def _related(peer: PodsPeer, universe: Universe, home: str) -> int:
    """Give the pods of namespaces related to `home`.

    Same: all labels present in both and equal. Not same: all present in both, and one at least differs.
    """
    mask = 0
    keys = peer.same_labels or peer.not_same_labels
    own = dict(universe.namespaces[home].labels)
    for name, inside in universe.in_namespace.items():
        labels = dict(universe.namespaces[name].labels)
        if all(key in own and key in labels for key in keys):
            equal = all(own[key] == labels[key] for key in keys)
            if equal is bool(peer.same_labels):
                mask |= inside
    return mask


def build_views(applied: Iterable[Applied], universe: Universe) -> tuple[list[View], list[int]]:
    """Give the views of one direction, and the number of each item's view. View 0 has no policy."""
    ordered = sorted(applied, key=lambda entry: (entry.policy.priority, entry.policy.short))
    chosen: list[list[int]] = [[] for _ in universe.items]
    for at, entry in enumerate(ordered):
        for item in bits_of(entry.subjects):
            chosen[item].append(at)
    known: dict[tuple[int, ...], int] = {(): 0}
    views = [View()]
    numbers = []
    for places in chosen:
        key = tuple(places)
        if key not in known:
            known[key] = len(views)
            views.append(_view([ordered[at] for at in key], universe.profile.doubted))
        numbers.append(known[key])
    members: list[int] = [0] * len(views)
    for item, number in enumerate(numbers):
        members[number] |= 1 << item
    for number, view in enumerate(views):
        view.members = members[number]
    return views, numbers


def _view(entries: list[Applied], doubted: frozenset[str]) -> View:
    certain = [entry for entry in entries if entry.policy.kind not in doubted]
    rules = tuple(rule for entry in entries for rule in entry.rules)
    return View(
        admin=_grouped(entries, Tier.ADMIN),
        network=tuple(entry for entry in entries if entry.policy.tier is Tier.NETWORK_POLICY),
        baseline=_grouped(entries, Tier.BASELINE),
        rules=rules,
        names=frozenset(name for rule in rules for _, name in rule.names),
        undoubted=None if len(certain) == len(entries) else _view(certain, frozenset()),
    )


def _grouped(entries: list[Applied], tier: Tier) -> tuple[tuple[Applied, ...], ...]:
    groups: dict[int, list[Applied]] = {}
    for entry in entries:
        if entry.policy.tier is tier:
            groups.setdefault(entry.policy.priority, []).append(entry)
    return tuple(tuple(groups[priority]) for priority in sorted(groups))
