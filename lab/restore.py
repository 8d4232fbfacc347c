"""Rule sets of iptables chains as data, and the iptables-restore text that brings a node to them.

For whoever owns whole chains in a node's tables (`lab.embedded.proxy`, `lab.policy`). Pure: it starts nothing;
`lab.ruler` reads and writes. Rules are written just as iptables-save prints them, without `-A CHAIN`, so that what
is wanted and what is there compare as text.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

ChainKey = tuple[str, str]
"""(table, chain)"""

TABLES = ("raw", "mangle", "filter", "nat")
_COUNTERS = re.compile(r"^\[\d+:\d+\] ")


class Jump(msgspec.Struct, frozen=True):
    """A rule in a chain that somebody else owns (INPUT, FORWARD, …) and that leads into ours."""

    table: str
    chain: str
    rule: str


class RuleSet(msgspec.Struct, frozen=True):
    """All chains of one owner on one node in one address family, and the jumps into them in their order."""

    chains: Mapping[ChainKey, tuple[str, ...]]
    jumps: tuple[Jump, ...] = ()


class Saved(msgspec.Struct, frozen=True):
    """What iptables-save printed: every chain with its rules, in order."""

    chains: Mapping[ChainKey, tuple[str, ...]]


def parse_saved(text: str) -> Saved:
    """Read the output of iptables-save or ip6tables-save, with or without counters."""
    chains: dict[ChainKey, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chains.setdefault((table, line[1:].split(" ", 1)[0]), [])
        elif "-A " in line:
            _, chain, rule = f"{_COUNTERS.sub('', line)} ".split(" ", 2)
            chains.setdefault((table, chain), []).append(rule.rstrip())
    return Saved({key: tuple(rules) for key, rules in chains.items()})


def full_restore(wanted: RuleSet, saved: Saved, owned: re.Pattern[str], behind: re.Pattern[str]) -> str:
    """Return the transaction that writes every chain anew and removes chains matching `owned` that are unwanted.

    Missing jumps go to the head of their chain, in order, behind leading rules in which `behind` is found; a jump
    that stands behind any other rule is moved there.
    """
    stale = {key for key in saved.chains if owned.fullmatch(key[1]) and key not in wanted.chains and key[0] in TABLES}
    commands = {table: _place_jumps(table, wanted.jumps, saved, behind) for table in TABLES}
    return _transaction(wanted.chains, stale, commands)


def changed_restore(wanted: RuleSet, applied: RuleSet) -> str:
    """Return the transaction from `applied` to `wanted`, which leaves unchanged chains and counters alone.

    The empty string means that there is nothing to do. The jumps are taken to be in place.
    """
    changed = {key: rules for key, rules in wanted.chains.items() if applied.chains.get(key) != rules}
    stale = {key for key in applied.chains if key not in wanted.chains}
    return _transaction(changed, stale, {}) if changed or stale else ""


def _place_jumps(table: str, jumps: Iterable[Jump], saved: Saved, behind: re.Pattern[str]) -> list[str]:
    by_chain: dict[str, list[str]] = {}
    for jump in jumps:
        if jump.table == table:
            by_chain.setdefault(jump.chain, []).append(jump.rule)
    commands: list[str] = []
    for chain, rules in by_chain.items():
        present = saved.chains.get((table, chain), ())
        foreign = [rule for rule in present if rule not in rules]
        head = 0
        while head < len(foreign) and behind.search(foreign[head]):
            head += 1
        if list(present[head : head + len(rules)]) == rules:
            continue
        commands += [f"-D {chain} {rule}" for rule in present if rule in rules]
        commands += [f"-I {chain} {head + place} {rule}" for place, rule in enumerate(rules, 1)]
    return commands


def _transaction(
    chains: Mapping[ChainKey, tuple[str, ...]], stale: set[ChainKey], commands: Mapping[str, list[str]]
) -> str:
    lines: list[str] = []
    for table in TABLES:
        mine = sorted(key for key in chains if key[0] == table)
        gone = sorted(key for key in stale if key[0] == table)
        if not (mine or gone or commands.get(table)):
            continue
        lines.append(f"*{table}")
        lines += [f":{chain} - [0:0]" for _, chain in (*mine, *gone)]
        lines += commands.get(table, [])
        lines += [f"-A {key[1]} {rule}" for key in mine for rule in chains[key]]
        lines += [f"-X {chain}" for _, chain in gone]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)
