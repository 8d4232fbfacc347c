"""Makes the answer of what the kernel told: steps with their rules, how far the packets came, how they ended.

Pure, but for `Refs`, which may ask nft for the text of a rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from agent.host.netfilter import nft_rule, xt_rule
from agent.host.netfilter.refs import Refs, Texts
from agent.host.netfilter.rules import LEGACY, Chain, Rule, Ruleset
from agent.host.netfilter.xtables import PRIORITIES, parse
from agent.host.ruletrace.events import Logged, Told
from agent.host.ruletrace.passages import Passage
from agent.host.ruletrace.table import HOOKS
from model.netfilter import HookPassage, RuleRef, TraceEnd, TraceStep

NFT: Final = "nft-trace"
LOG: Final = "legacy-trace"
COUNTERS: Final = "counters"
# Targets that end nothing are told by nft as "continue" or "accept"; their own word says more.
_OWN_WORDS: Final = {"dnat", "snat", "masquerade", "redirect", "tproxy", "notrack", "reject"}


class Named(NamedTuple):
    """A step before it is counted: where in the hook it stands, and what it is."""

    hook: str
    priority: int
    rule: RuleRef
    verdict: str
    how: str


class Book:
    """Finds rules by what the kernel calls them: handle, or position in a legacy chain."""

    def __init__(self, ruleset: Ruleset, refs: Refs, texts: Texts) -> None:
        self._refs = refs
        self._texts = texts
        self._chains: dict[tuple[bool, str, str, str], Chain] = {}
        for table in ruleset.tables:
            for chain in table.chains.values():
                self._chains[table.backend == LEGACY, table.family, table.name, chain.name] = chain

    def priority(self, family: str, table: str, base: str) -> int:
        """An nft base chain's."""
        chain = self._chains.get((False, family, table, base))
        return chain.priority if chain else 0

    def told(self, event: Told, family: int) -> tuple[RuleRef, str]:
        """Rule and verdict of an event. One that cannot be found in the rule set has position 0."""
        chain = self._chains.get((False, event.family, event.table, event.chain))
        if event.kind == "policy" and chain is not None:
            return self._refs.policy(chain, family), event.verdict
        verdict = f"{event.verdict} {event.target}" if event.target else event.verdict
        rule = (
            next((one for one in chain.rules if one.handle == event.handle), None) if chain and event.handle else None
        )
        if rule is None:
            return self._unknown(event, family), verdict
        return self._refs.rule(rule, family), _verdict(rule, verdict)

    def _unknown(self, event: Told, family: int) -> RuleRef:
        """A rule that is gone since, or of which iptables-nft says nothing: by its handle, with nft's text if any."""
        text = self._texts(event.family, event.table).get(event.handle, "") if event.kind == "rule" else ""
        return RuleRef(
            backend="nft", family=family, table=event.table, chain=event.chain, position=0, text=text,
            handle=event.handle,
        )  # fmt: skip

    def logged(self, line: Logged) -> tuple[RuleRef, str] | None:
        """Rule and verdict of a TRACE line; None where a chain merely ended."""
        chain = self._chains.get((True, line.family, line.table, line.chain))
        if chain is None:
            return None
        family = 4 if line.family == "ip" else 6
        if line.position > len(chain.rules):
            return (self._refs.policy(chain, family), "drop") if chain.hook and chain.policy == "drop" else None
        rule = chain.rules[line.position - 1]
        parsed = parse(rule.text)
        if rule_jumps := xt_rule.jumps(rule):
            return self._refs.rule(rule, family), f"{'goto' if parsed.is_goto else 'jump'} {rule_jumps[0]}"
        return self._refs.rule(rule, family), parsed.target.lower() or "continue"

    def moved(self, before: Ruleset, hook: str, family: str, packets: int) -> list[tuple[RuleRef, str]]:
        """Legacy rules and policies that drop, and whose counters moved by exactly so many packets since `before`."""
        former = {
            (family, t.name, chain.name): chain for t in before.tables if t.backend == LEGACY and t.family == family
            for chain in t.chains.values()
        }  # fmt: skip
        number = 4 if family == "ip" else 6
        found: list[tuple[RuleRef, str]] = []
        for (is_legacy, its_family, table, name), chain in self._chains.items():
            then = former.get((its_family, table, name))
            if not is_legacy or its_family != family or then is None or (chain.hook and chain.hook != hook):
                continue
            if chain.hook and chain.policy == "drop" and chain.packets - then.packets == packets:
                found.append((self._refs.policy(chain, number), "drop"))
            if [rule.text for rule in chain.rules] != [rule.text for rule in then.rules]:
                continue
            for rule, old in zip(chain.rules, then.rules, strict=True):
                verdict = xt_rule.final_verdict(rule)
                if verdict and rule.packets - old.packets == packets:
                    found.append((self._refs.rule(rule, number), verdict))
        return found


def steps(passages: Sequence[Passage], lines: Sequence[Logged], book: Book, family: int) -> tuple[TraceStep, ...]:
    """Every rule that took packets, in the order in which they met them, each with how many."""
    counted: Counter[Named] = Counter()
    for passage in passages:
        for met in passage.met:
            rule, verdict = book.told(met.event, family)
            priority = book.priority(met.event.family, met.event.table, met.base)
            counted[Named(met.hook, priority, rule, verdict, NFT)] += 1
    names = {mark.ends for passage in passages for mark in passage.marks}
    for line in lines:
        known = book.logged(line) if line.ends in names else None
        if known is not None:
            counted[Named(line.hook, _legacy_priority(line), *known, LOG)] += 1
    order = {hook: at for at, hook in enumerate(dict.fromkeys(m.hook for p in passages for m in p.marks))}
    ordered = sorted(counted.items(), key=lambda item: (order.get(item[0].hook, len(HOOKS)), item[0].priority))
    return tuple(
        TraceStep(hook=one.hook, rule=one.rule, verdict=one.verdict, packets=packets, how=one.how)
        for one, packets in ordered
    )


def hooks(passages: Sequence[Passage]) -> tuple[HookPassage, ...]:
    """How far the packets came."""
    entered: Counter[str] = Counter()
    left: Counter[str] = Counter()
    names: dict[tuple[str, bool], str] = {}
    for passage in passages:
        for mark in passage.marks:
            (left if mark.is_last else entered)[mark.hook] += 1
            if mark.ends is not None:
                names.setdefault((mark.hook, mark.is_last), mark.ends.spelled())
    return tuple(
        HookPassage(
            hook=hook, entered=count, left=left[hook],
            entered_as=names.get((hook, False), ""), left_as=names.get((hook, True), ""),
        )
        for hook, count in entered.items()
    )  # fmt: skip


def ends(passages: Sequence[Passage], book: Book, found: Sequence[TraceStep], family: int) -> tuple[TraceEnd, ...]:
    """How the packets ended, losses first. What vanished inside a hook is laid to the legacy rules that said so."""
    counted: Counter[tuple[str, str, RuleRef | None, str]] = Counter()
    vanished: Counter[str] = Counter()
    for passage in passages:
        if passage.end is not None:
            rule, verdict = book.told(passage.end.event, family)
            counted[verdict, passage.end.hook, rule, NFT] += 1
        elif passage.arrived():
            counted["accept", passage.marks[-1].hook, None, NFT] += 1
        else:
            vanished[passage.place()] += 1
    for step in found:
        laid = min(step.packets, vanished[step.hook])
        if step.how != NFT and step.verdict in {"drop", "reject"} and laid:
            counted[step.verdict, step.hook, step.rule, step.how] += laid
            vanished[step.hook] -= laid
    for hook, packets in vanished.items():
        if packets:
            counted["lost", hook, None, NFT] += packets
    ordered = sorted(counted.items(), key=lambda item: (item[0][0] == "accept", -item[1]))
    return tuple(
        TraceEnd(verdict=verdict, hook=hook, packets=packets, rule=rule, how=how)
        for (verdict, hook, rule, how), packets in ordered
    )


def untraced(ruleset: Ruleset) -> tuple[str, ...]:
    """Tables with rules outside of the hooks that a trace marks packets for: at a device, and in bridges."""
    return tuple(
        f"{table.family} {table.name}"
        for table in ruleset.tables
        if any(
            chain.rules and chain.hook and (table.family == "bridge" or chain.hook in {"ingress", "egress"})
            for chain in table.chains.values()
        )
    )


def _verdict(rule: Rule, told: str) -> str:
    if rule.expressions is None:
        target = parse(rule.text).target.lower()
        return target if target in _OWN_WORDS or (told == "continue" and target) else told
    if told == "drop" and nft_rule.final_verdict(rule) == "reject":
        return "reject"
    kinds = {next(iter(expression)) for expression in rule.expressions} & _OWN_WORDS
    return next(iter(kinds)) if kinds and told != "drop" else told


def _legacy_priority(line: Logged) -> int:
    if line.table == "nat":
        return 100 if line.hook in {"postrouting", "input"} else -100
    return PRIORITIES.get(line.table, 0)
