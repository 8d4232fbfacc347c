"""One direction of one connection: what the policies of a view say about a peer and a port. Pure.

Source: kubernetes/api networking/v1 types, network-policy-api types. Where two admin policies of equal priority
match, an implementation may apply either; where their ends differ the answer is unknown, not a guess. The same holds
where the plugin may not implement admin policies at all, and it matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.policy.compiled import Applied, CompiledRule, Hit, View
from controller.policy.objects import Action, NamedPort
from controller.policy.ports import ALL


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdict of one direction; None is unknown. `hits`: what decided; a hit without a rule is isolation.

    `doubted`: unknown for no other reason than that the plugin may not implement the policies.
    """

    allowed: bool | None
    hits: tuple[Hit, ...]
    doubted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PortJudgement:
    """The same for every port at once: sets of ports that pass and that are unknown; the rest is denied."""

    allowed: int
    unknown: int
    hits: tuple[Hit, ...]


FREE = Judgement(allowed=True, hits=())
FREE_PORTS = PortJudgement(ALL, 0, ())


@dataclass(frozen=True, slots=True)
class _Question:
    item: int
    family: int
    code: int
    named: tuple[NamedPort, ...]

    def certain(self, rule: CompiledRule) -> bool:
        return bool((rule.peers[self.family] >> self.item) & 1) and rule.matches_port(self.code, self.named)

    def possible(self, rule: CompiledRule) -> bool:
        return bool((rule.perhaps >> self.item) & 1) and rule.matches_port(self.code, self.named)


def judge(view: View, item: int, family: int, code: int, named: tuple[NamedPort, ...]) -> Judgement:
    """Say whether the view lets a peer pass.

    `family` is the place in `Masks`, `code` the port as `ports` numbers it, `named` the destination's named ports.
    """
    question = _Question(item, family, code, named)
    implemented = _judge(view, question)
    if view.undoubted is None:
        return implemented
    ignored = _judge(view.undoubted, question)
    if implemented.allowed is ignored.allowed:
        return ignored  # Its reasons hold in either case.
    certain = implemented.allowed is not None and ignored.allowed is not None
    return Judgement(None, tuple(dict.fromkeys((*implemented.hits, *ignored.hits))), doubted=certain)


def _judge(view: View, question: _Question) -> Judgement:
    if not view.admin and not view.baseline:
        return _network(view.network, question)
    ends: dict[bool, list[Hit]] = {}
    for action, hit in _tier(view.admin, question):
        for allowed, hits in _after_admin(view, question, action):
            ends.setdefault(allowed, []).extend((*hit, *hits))
    verdict = None if len(ends) == 2 else next(iter(ends))
    return Judgement(verdict, tuple(dict.fromkeys(hit for hits in ends.values() for hit in hits)))


def _after_admin(view: View, question: _Question, action: Action | None) -> Iterable[tuple[bool, tuple[Hit, ...]]]:
    if action is Action.ALLOW or action is Action.DENY:
        return [(action is Action.ALLOW, ())]
    if view.network:
        end = _network(view.network, question)
        return [(end.allowed is True, end.hits)]
    return [(end is not Action.DENY, hits) for end, hits in _tier(view.baseline, question)]


def _tier(groups: tuple[tuple[Applied, ...], ...], question: _Question) -> list[tuple[Action | None, tuple[Hit, ...]]]:
    """Give every action that this tier may end in, each with the rule; None is "no rule matched"."""
    ends: list[tuple[Action | None, tuple[Hit, ...]]] = []
    for group in groups:
        settled = False
        for entry in group:
            for rule in entry.rules:
                if question.certain(rule):
                    ends.append((rule.action, (rule.hit,)))
                    settled = True
                    break
                if question.possible(rule):
                    ends.append((rule.action, (rule.hit,)))
        if settled:
            return ends
    ends.append((None, ()))
    return ends


def _network(entries: tuple[Applied, ...], question: _Question) -> Judgement:
    if not entries:
        return FREE
    hits: list[Hit] = []
    for entry in entries:
        for rule in entry.rules:
            if question.certain(rule):
                hits.append(rule.hit)
                break
    if hits:
        return Judgement(allowed=True, hits=tuple(hits))
    return Judgement(allowed=False, hits=tuple(entry.isolation for entry in entries))


def judge_ports(view: View, item: int, family: int, named: tuple[NamedPort, ...]) -> PortJudgement:
    """Say the same of every port of every protocol."""
    if view.empty:
        return FREE_PORTS
    if not view.admin and not view.baseline:
        return _network_ports(view, item, family, named)
    allowed = unknown = 0
    hits: dict[Hit, None] = {}
    for part in _port_parts(view.rules, item, family, named):
        end = judge(view, item, family, part.bit_length() - 1, named)
        if end.allowed is None:
            unknown |= part
        elif end.allowed:
            allowed |= part
        if end.allowed is not False:
            hits.update(dict.fromkeys(end.hits))
    return PortJudgement(allowed, unknown, tuple(hits))


def _network_ports(view: View, item: int, family: int, named: tuple[NamedPort, ...]) -> PortJudgement:
    allowed = 0
    hits: dict[Hit, None] = {}
    for entry in view.network:
        for rule in entry.rules:
            if (rule.peers[family] >> item) & 1:
                bits = rule.port_bits(named)
                if bits:
                    allowed |= bits
                    hits[rule.hit] = None
    return PortJudgement(allowed, 0, tuple(hits))


def _port_parts(rules: tuple[CompiledRule, ...], item: int, family: int, named: tuple[NamedPort, ...]) -> list[int]:
    """Cut all ports into sets within which every rule that may match this peer is constant."""
    parts = [ALL]
    for rule in rules:
        if ((rule.peers[family] | rule.perhaps) >> item) & 1 and rule.spans is not None:
            bits = rule.port_bits(named)
            parts = [piece for part in parts for piece in (part & bits, part & ~bits) if piece]
    return parts
