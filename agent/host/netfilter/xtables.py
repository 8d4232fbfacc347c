"""Reads what `iptables-save -c` and `ip6tables-save -c` print: tables, chains, and rules taken apart on demand.

An option or module that is not known is kept with its values: nothing is refused, and no table is given up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from agent.host.netfilter.rules import Chain, Rule, Table

_RULE: Final = re.compile(r"(?:\[(\d+):(\d+)\] )?-A (\S+) ?(.*)")
_CHAIN: Final = re.compile(r":(\S+) (\S+)(?: \[(\d+):(\d+)\])?")
_TOKEN: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPED: Final = re.compile(r"\\(.)")
HOOKS: Final = {
    "PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}  # fmt: skip
PRIORITIES: Final = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
GENERAL: Final = {
    "-s": "source", "-d": "destination", "-p": "protocol", "-i": "in", "-o": "out", "-f": "fragment",
    "--source": "source", "--destination": "destination", "--protocol": "protocol", "--in-interface": "in",
    "--out-interface": "out", "--fragment": "fragment", "-4": "ipv4", "-6": "ipv6",
}  # fmt: skip
# These take their next word whatever it looks like: a comment may begin with a dash.
WORDS: Final = {"--comment", "--log-prefix", "--nflog-prefix", "--string", "--ulog-prefix"}


class Option(NamedTuple):
    """An option with its values; `name` without dashes."""

    name: str
    values: tuple[str, ...]
    inverted: bool

    @property
    def value(self) -> str:
        """Its first value, "" if it has none."""
        return self.values[0] if self.values else ""


class Match(NamedTuple):
    """A match module and its options; module "" holds the general ones (-s, -d, -p, -i, -o, -f)."""

    module: str
    options: tuple[Option, ...]


class Parsed(NamedTuple):
    """A rule taken apart. `target` "" is a rule that only counts."""

    matches: tuple[Match, ...]
    target: str
    is_goto: bool
    options: tuple[Option, ...]
    comments: tuple[str, ...]


def tables(save: str, backend: str, family: str) -> list[Table]:
    """The tables in the output of one save program; `family` is ip or ip6."""
    found: list[Table] = []
    for line in save.splitlines():
        start = line[:1]
        if start == "*":
            found.append(Table(backend, family, line[1:].strip()))
        elif start == ":" and found:
            _add_chain(found[-1], line)
        elif start in {"[", "-"} and found:
            _add_rule(found[-1], line)
    return found


def _add_chain(table: Table, line: str) -> None:
    named = _CHAIN.match(line)
    if named is None:
        return
    name, policy, packets, count = named.groups()
    hook = HOOKS.get(name, "") if policy != "-" else ""
    is_nat = table.name == "nat"
    priority = (100 if hook in {"input", "postrouting"} else -100) if is_nat else PRIORITIES.get(table.name, 0)
    table.chains[name] = Chain(
        table.backend, table.family, table.name, name, _rule,
        hook=hook, priority=priority, kind="nat" if is_nat else "filter",
        policy=policy.lower() if hook else "accept", packets=int(packets or 0), bytes=int(count or 0),
    )  # fmt: skip


def _add_rule(table: Table, line: str) -> None:
    found = _RULE.match(line)
    if found is None:
        return
    name = found[3]
    chain = table.chains.get(name)
    if chain is None:
        chain = table.chains[name] = Chain(table.backend, table.family, table.name, name, _rule)
    chain.sources.append(found)


def _rule(chain: Chain, position: int, found: re.Match[str]) -> Rule:
    packets, count, _, text = found.groups()
    return Rule(
        chain.backend, chain.family, chain.table, chain.name, position, text,
        packets=int(packets or 0), bytes=int(count or 0),
    )  # fmt: skip


@lru_cache(maxsize=65536)
def parse(text: str) -> Parsed:
    """A rule's text taken apart."""
    general: list[Option] = []
    matches: list[tuple[str, list[Option]]] = []
    target, is_goto, into = "", False, general
    target_options: list[Option] = []
    comments: list[str] = []
    for name, values, inverted in _options(text):
        if name == "-m":
            into = []
            matches.append((values[0] if values else "", into))
        elif name in {"-j", "-g"}:
            target, is_goto, into = values[0] if values else "", name == "-g", target_options
        elif name in GENERAL and into is not target_options:
            general.append(Option(GENERAL[name], values, inverted))
        else:
            if name == "--comment" and values:
                comments.append(values[0])
            into.append(Option(name.lstrip("-"), values, inverted))
    whole = tuple(Match(module, tuple(options)) for module, options in matches)
    if general:
        whole = (Match("", tuple(general)), *whole)
    return Parsed(whole, target, is_goto, tuple(target_options), tuple(comments))


def _options(text: str) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Option, its values, whether an exclamation mark stood before it."""
    name, values, inverted, next_inverted, is_word_due = "", [], False, False, False  # type: str, list[str], bool, bool, bool
    for quoted, plain in _TOKEN.findall(text):
        if is_word_due:
            values.append(_ESCAPED.sub(r"\1", quoted) if quoted or not plain else plain)
            is_word_due = False
        elif plain == "!":
            next_inverted = True
        elif plain[:1] == "-" and len(plain) > 1 and not plain[1:2].isdigit():
            if name:
                yield name, tuple(values), inverted
            name, values, inverted, next_inverted = plain, [], next_inverted, False
            is_word_due = plain in WORDS or plain in {"-j", "-g", "-m"}
        else:
            values.append(_ESCAPED.sub(r"\1", quoted) if quoted or not plain else plain)
    if name:
        yield name, tuple(values), inverted
