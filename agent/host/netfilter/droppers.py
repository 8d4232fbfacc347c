"""Every rule on a packet's way that drops or rejects, and may match it by its own matches alone, with its counters.

Asked before and after a burst, the counters that moved tell which rule took the packets, without touching anything.
Marks are what earlier rules made of them, so a match on a mark is never certain here.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.host.netfilter import nft_rule, xt_rule
from agent.host.netfilter.packet import Seen, start
from agent.host.netfilter.refs import Refs
from agent.host.netfilter.rules import Chain, Rule, Ruleset, Table
from agent.host.netfilter.walk import Walker
from agent.host.netfilter.world import Host, World
from model.facts import Dropper, Packet


def droppers(asked: Packet, host: Host, ruleset: Ruleset, refs: Refs) -> tuple[Dropper, ...]:
    """All droppers for one packet, in the order of the hooks. Raises ValueError for a malformed address."""
    walker = Walker(host, ruleset, through=True)
    walker.walk(asked)
    world = World(host, ruleset, start(asked, incoming=asked.incoming))
    found: dict[tuple[str, str, str, str, int], Dropper] = {}
    for chain, table, _, packets in walker.entered.values():
        variants = {packet._replace(mark=None, ct_mark=None) for packet in packets}
        for rule, verdict, is_sure in _search(chain, table, variants, world):
            key = (rule.backend, rule.family, rule.table, rule.chain, rule.position)
            if key not in found:
                found[key] = Dropper(
                    rule=refs.rule(rule, asked.family),
                    verdict=verdict,
                    matches="yes" if is_sure else "unsure",
                    asked=asked,
                )
        if chain.policy == "drop":
            policy = refs.policy(chain, asked.family)
            key = (chain.backend, chain.family, chain.table, chain.name, 0)
            found[key] = Dropper(rule=policy, verdict="drop", matches="unsure", asked=asked)
    return tuple(found.values())


def _search(base: Chain, table: Table, variants: set[Seen], world: World) -> Iterator[tuple[Rule, str, bool]]:
    seen = {base.name}
    waiting = [base]
    while waiting:
        chain = waiting.pop(0)
        for rule in chain.rules:
            native = rule.expressions is not None
            targets = _native(rule, table, variants, world) if native else _xt(rule, variants, world)
            for verdict, to, is_sure in targets:
                if verdict in {"drop", "reject"}:
                    yield rule, verdict, is_sure
                elif to in table.chains and to not in seen:
                    seen.add(to)
                    waiting.append(table.chains[to])


def _xt(rule: Rule, variants: set[Seen], world: World) -> Iterator[tuple[str, str, bool]]:
    verdict = xt_rule.final_verdict(rule)
    targets = xt_rule.jumps(rule) if not verdict else ()
    if not verdict and not targets:
        return
    answers = {xt_rule.matches(rule, packet, world) for packet in variants}
    if answers - {False}:
        if verdict:
            yield verdict, "", True in answers
        for to in targets:
            yield "jump", to, True in answers


def _native(rule: Rule, table: Table, variants: set[Seen], world: World) -> Iterator[tuple[str, str, bool]]:
    for packet in variants:
        holds = nft_rule.matches(rule, packet, world, table.sets)
        if holds is False:
            continue
        verdict = nft_rule.final_verdict(rule)
        if verdict:
            yield verdict, "", holds is True
        for kind, to, is_sure in nft_rule.mapped_verdicts(rule, packet, world, table.sets):
            yield kind, to, is_sure and holds is True
