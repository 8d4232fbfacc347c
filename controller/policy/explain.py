"""Denials in words: which policy isolates, and which peer or port its rules lack. Pure.

Written for the person who has to mend the policy, so it names the rule that comes nearest and what keeps it from
matching: "pay/allow-shop allows TCP 8443 from app=frontend; this pod is app=frontent".
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from controller.policy.compiled import Hit
from controller.policy.objects import (
    NAME_LABEL,
    Action,
    BlockPeer,
    Direction,
    DomainsPeer,
    NodesPeer,
    Operator,
    Peer,
    PodsPeer,
    Policy,
    PortRule,
    Requirement,
    Rule,
    Selector,
)
from controller.policy.universe import Item, matches


def rule_text(hit: Hit) -> str:
    """Name a rule: "NetworkPolicy pay/allow-shop ingress[0]"; without a rule, the isolation."""
    if hit.rule is None:
        return f"{hit.policy.label} (isolates; no rule matches)"
    name = f' "{hit.rule.name}"' if hit.rule.name else ""
    return f"{hit.policy.label} {hit.rule.where}{name} ({hit.rule.action.value})"


class Question(Struct, frozen=True):
    """One direction of a connection: `subject` is the side that policies select there, `peer` the other."""

    direction: Direction
    subject: Item
    peer: Item
    peer_namespace: Mapping[str, str]
    protocol: str
    port: int

    @property
    def destination(self) -> Item:
        """The side whose named ports count."""
        return self.subject if self.direction is Direction.INGRESS else self.peer


class Denial(Struct, frozen=True):
    """One direction that is denied: the policy to mend, the rule that comes nearest, and what it lacks, in words.

    `rule` is None where the policy has none that could be mended. `peer_fits`, `port_fits`: which of the two the rule
    would let through. `denies`: the rule itself says no (admin policies). `unmet`: conditions on labels of the peer
    that it does not fulfil.
    """

    direction: Direction
    policy: Policy
    text: str
    rule: Rule | None = None
    peer_fits: bool = False
    port_fits: bool = False
    denies: bool = False
    unmet: tuple[Requirement, ...] = ()


def denial_of(question: Question, hits: tuple[Hit, ...]) -> Denial:
    """Say which policy denies the direction, by what decided it, and which of its rules comes nearest."""
    decided = next((hit for hit in hits if hit.rule is not None and hit.rule.action is Action.DENY), None)
    if decided is not None:
        text = f"{rule_text(decided)} denies it"
        return Denial(question.direction, decided.policy, text, decided.rule, denies=True)
    best: tuple[int, Denial] | None = None
    for hit in hits:
        for rule in _rules(hit.policy, question.direction) if hit.rule is None else ():
            found = _lack(hit.policy, rule, question)
            if best is None or found[0] < best[0]:
                best = found
    if best is not None:
        return best[1]
    names = ", ".join(dict.fromkeys(hit.policy.short for hit in hits))
    verb, has = ("isolate", "have") if "," in names else ("isolates", "has")
    side = "destination" if question.direction is Direction.INGRESS else "source"
    text = f"{names} {verb} the {side} for {question.direction.value} and {has} no rule that allows anything"
    return Denial(question.direction, hits[0].policy, text)


def _rules(policy: Policy, direction: Direction) -> tuple[Rule, ...]:
    return (policy.ingress if direction is Direction.INGRESS else policy.egress) or ()


def _lack(policy: Policy, rule: Rule, question: Question) -> tuple[int, Denial]:
    """Give how far a rule is from matching, and what it lacks."""
    asked = (question.protocol, question.port)
    distance, lack, unmet = _peer_lack(rule, question)
    good_port = rule.ports is None or any(_port_matches(entry, asked, question.destination) for entry in rule.ports)
    way = "from" if question.direction is Direction.INGRESS else "to"
    peers = " or ".join(peer_text(peer) for peer in rule.peers) if rule.peers else "everybody"
    allows = f"{policy.short} allows {ports_text(rule.ports)} {way} {peers}"
    wanted = f"{question.protocol} {question.port}"
    if distance == 0:
        rank, text = 1, f"{allows}; {wanted} is not among them"
    elif good_port:
        rank, text = 1 + distance, f"{allows}; {lack}"
    else:
        rank, text = 100 + distance, f"{allows}; {lack}, and {wanted} is not among them"
    return rank, Denial(question.direction, policy, text, rule, distance == 0, good_port, unmet=unmet)


def _port_matches(rule: PortRule, asked: tuple[str, int], named: Item) -> bool:
    if rule.protocol not in {None, asked[0]}:
        return False
    if rule.name is None:
        return rule.first <= asked[1] <= rule.last
    return any(entry.name == rule.name and (entry.protocol, entry.port) == asked for entry in named.named_ports)


def _peer_lack(rule: Rule, question: Question) -> tuple[int, str, tuple[Requirement, ...]]:
    if rule.peers is None:
        return 0, "", ()
    found = [_one_lack(peer, question) for peer in rule.peers]
    return min(found, key=lambda entry: entry[0]) if found else (50, "it names nobody", ())


def _one_lack(peer: Peer, question: Question) -> tuple[int, str, tuple[Requirement, ...]]:
    item, peer_namespace = question.peer, question.peer_namespace
    pod = "this pod" if question.direction is Direction.INGRESS else "that pod"
    who = {"pod": pod, "node": f"node {item.name}", "range": _range_text(item)}[item.kind]
    if isinstance(peer, PodsPeer):
        if item.kind != "pod":
            return 40, f"{who} is no pod that a selector matches", ()
        labels = dict(item.labels)
        unmet = [wanted for wanted in peer.pods.requirements if not matches(Selector((wanted,)), labels)]
        spaces = [wanted for wanted in peer.namespaces.requirements if not matches(Selector((wanted,)), peer_namespace)]
        strange = peer.namespace is not None and peer.namespace != item.namespace
        says = []
        if unmet:
            says.append(f"{who} is {_state(unmet, labels)}")
        if spaces:
            says.append(f"its namespace {item.namespace} is {_state(spaces, peer_namespace)}")
        if strange:
            says.append(f"{who} is in namespace {item.namespace}, not in {peer.namespace}")
        distance = len(unmet) + 2 * len(spaces) + 3 * strange
        return distance, ", ".join(says), tuple(unmet) if not spaces and not strange else ()
    if isinstance(peer, BlockPeer):
        where = (
            f"{who} is not within {peer_text(peer)}" if item.kind != "pod" else f"{who} is not matched by an ipBlock"
        )
        return 30, where, ()
    return 45, f"{who} is not among them", ()


def _range_text(item: Item) -> str:
    """Write a range of outside addresses that no block tells apart, which may be all that there are."""
    first, last = item.span
    whole = first in {"0.0.0.0", "::"} and last in {"255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
    return "an outside address" if whole else f"an outside address of {first} to {last}"


def _state(unmet: list[Requirement], labels: Mapping[str, str]) -> str:
    keys = dict.fromkeys(wanted.key for wanted in unmet)
    return ", ".join(f"{key}={labels[key]}" if key in labels else f"without label {key}" for key in keys)


def ports_text(ports: tuple[PortRule, ...] | None) -> str:
    """Write the ports of a rule: "TCP 8443, UDP dns", or "all ports"."""
    if ports is None:
        return "all ports"
    if not ports:
        return "no port"
    return ", ".join(_port_text(entry) for entry in ports)


def _port_text(entry: PortRule) -> str:
    protocol = f"{entry.protocol} " if entry.protocol else ""
    if entry.name is not None:
        return f"{protocol}{entry.name}"
    if (entry.first, entry.last) == (1, 65535):
        return f"{protocol}(all ports)"
    return f"{protocol}{entry.first}" if entry.first == entry.last else f"{protocol}{entry.first}-{entry.last}"


def peer_text(peer: Peer) -> str:
    """Write a peer: "app=frontend in namespaces team=shop", "10.0.0.0/8 except 10.1.0.0/16"."""
    if isinstance(peer, BlockPeer):
        inner = f" except {', '.join(str(block) for block in peer.exceptions)}" if peer.exceptions else ""
        return f"{peer.cidr}{inner}"
    if isinstance(peer, NodesPeer):
        return f"nodes {_selector_text(peer.selector)}" if peer.selector.requirements else "every node"
    if isinstance(peer, DomainsPeer):
        return ", ".join(peer.names)
    pods = _selector_text(peer.pods) if peer.pods.requirements else "every pod"
    if peer.namespace is not None:
        return pods if peer.pods.requirements else f"every pod of namespace {peer.namespace}"
    if peer.same_labels or peer.not_same_labels:
        kind = "the same" if peer.same_labels else "other"
        return f"{pods} in namespaces with {kind} {', '.join(peer.same_labels or peer.not_same_labels)}"
    if len(peer.namespaces.requirements) == 1 and peer.namespaces.requirements[0].key == NAME_LABEL:
        (wanted,) = peer.namespaces.requirements
        if wanted.operator is Operator.IN:
            return f"{pods} in namespace {' or '.join(wanted.values)}"
    return f"{pods} in namespaces {_selector_text(peer.namespaces)}" if peer.namespaces.requirements else pods


def _selector_text(selector: Selector) -> str:
    return ",".join(_requirement_text(wanted) for wanted in selector.requirements)


def _requirement_text(wanted: Requirement) -> str:
    if wanted.operator is Operator.EXISTS:
        return wanted.key
    if wanted.operator is Operator.DOES_NOT_EXIST:
        return f"!{wanted.key}"
    negated = wanted.operator is Operator.NOT_IN
    if len(wanted.values) == 1:
        return f"{wanted.key}{'!=' if negated else '='}{wanted.values[0]}"
    return f"{wanted.key} {'not in' if negated else 'in'} ({', '.join(wanted.values)})"
