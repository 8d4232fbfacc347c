"""Names rules as their own tools name them: position, text, owner, and the command that removes exactly this rule."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import msgspec

from agent.host.netfilter.owner import Owners
from agent.host.netfilter.rules import LEGACY, NATIVE, Chain, Rule, Ruleset
from model.netfilter import RuleRef

FAMILIES = {"ip": 4, "ip6": 6}
# Texts of native rules by handle: (family, table) → handle → text.
Texts = Callable[[str, str], dict[int, str]]


class Refs:
    """Makes `RuleRef`s over one rule set. `texts` is asked only for tables of which a rule is named."""

    def __init__(self, ruleset: Ruleset, texts: Texts) -> None:
        self._programs = ruleset.programs
        self._owners = Owners(ruleset.tables)
        self._texts = texts
        self._listed: dict[tuple[str, str], dict[int, str]] = {}
        self._made: dict[tuple[str, str, str, str, int], RuleRef] = {}

    def rule(self, rule: Rule, family: int) -> RuleRef:
        """The rule's name; `family` is the packet's, which an inet table has not."""
        key = (rule.backend, rule.family, rule.table, rule.chain, rule.position)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = RuleRef(
                backend=rule.backend,
                family=FAMILIES.get(rule.family, family),
                table=rule.table,
                chain=rule.chain,
                position=rule.position,
                text=self._text(rule),
                handle=rule.handle,
                packets=rule.packets,
                bytes=rule.bytes,
                owner=self._owners.owner(rule),
                target=self._owners.target(rule),
                delete_command=self._delete(rule),
            )
        return made

    def policy(self, chain: Chain, family: int) -> RuleRef:
        """A base chain's policy, at position 0; its command sets it to accept."""
        if chain.backend == NATIVE:
            command = (
                f"nft chain {chain.family} {shlex.quote(chain.table)} {shlex.quote(chain.name)} '{{ policy accept ; }}'"
            )
            text = f"policy {chain.policy}"
        else:
            command = f"{self._program(chain.backend, chain.family)} -t {chain.table} -P {chain.name} ACCEPT"
            text = f"-P {chain.name} {chain.policy.upper()}"
        return RuleRef(
            backend=chain.backend,
            family=FAMILIES.get(chain.family, family),
            table=chain.table,
            chain=chain.name,
            position=0,
            text=text,
            packets=chain.packets,
            bytes=chain.bytes,
            owner="administrator" if chain.backend != NATIVE else self._owners.owner(_anchor(chain)),
            delete_command=command,
        )

    def _text(self, rule: Rule) -> str:
        if rule.backend != NATIVE:
            return f"-A {rule.chain} {rule.text}"
        key = (rule.family, rule.table)
        if key not in self._listed:
            self._listed[key] = self._texts(*key)
        return self._listed[key].get(rule.handle) or msgspec.json.encode(rule.expressions).decode()

    def _delete(self, rule: Rule) -> str:
        chain = shlex.quote(rule.chain)
        if rule.backend == NATIVE:
            return f"nft delete rule {rule.family} {shlex.quote(rule.table)} {chain} handle {rule.handle}"
        return f"{self._program(rule.backend, rule.family)} -t {rule.table} -D {chain} {rule.position}"

    def _program(self, backend: str, family: str) -> str:
        plain = "iptables" if family == "ip" else "ip6tables"
        return self._programs.get((backend, FAMILIES[family]), f"{plain}-legacy" if backend == LEGACY else plain)


def _anchor(chain: Chain) -> Rule:
    return Rule(chain.backend, chain.family, chain.table, chain.name, 0, expressions=())
