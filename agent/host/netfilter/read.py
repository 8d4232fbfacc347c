"""Reads all of netfilter in this namespace: iptables-legacy, iptables-nft, native nftables, ipsets. Changes nothing.

iptables-legacy-save is started only where /proc says that legacy tables exist, since it would load them otherwise.
iptables-nft's tables are read twice: as iptables-nft-save prints them, which has what nft cannot print (xt matches),
and as nft prints them, which has the handles, and the rules that somebody put into such a table by `nft`: these
iptables-nft-save prints without the parts that it does not know (`tcp dport { 81, 82 } drop` becomes `-p tcp -j DROP`).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.host.netfilter import ipset, nft, xtables
from agent.host.netfilter.rules import LEGACY, NFT_COMPAT, Chain, Rule, Ruleset, Table

DEADLINE_S: Final = 20.0
PROC_NET: Final = Path("/proc/thread-self/net")
# What iptables-nft (1.8) writes by itself without xt; anything else was put there by nft.
OWN_EXPRESSIONS: Final = {"match", "counter", "accept", "drop", "return", "jump", "goto", "limit", "log", "mangle"}
SET_MATCH: Final = "--match-set "


@dataclass(slots=True)
class Reading:
    """A rule set, and what of it could not be read: backend → why."""

    ruleset: Ruleset
    errors: dict[str, str] = field(default_factory=dict)


def read() -> Reading:
    """Everything, with the programs running beside one another."""
    commands: dict[str, list[str]] = {
        "nft": ["nft", "-j", "list", "ruleset"],
        "ip": ["iptables-nft-save", "-c"],
        "ip6": ["ip6tables-nft-save", "-c"],
        "ipset": ["ipset", "save"],
    }
    for family, names in (("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")):
        if _has_legacy(PROC_NET / names):
            commands[f"legacy {family}"] = [f"{'iptables' if family == 'ip' else 'ip6tables'}-legacy-save", "-c"]
    started = {name: _start(command) for name, command in commands.items()}
    printed: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    for name, process in started.items():
        output = _finish(commands[name][0], process)
        if isinstance(output, bytes):
            printed[name] = output
        else:
            errors[name] = output
    return assemble(printed, errors)


def assemble(printed: dict[str, bytes], errors: dict[str, str]) -> Reading:
    """The rule set from what the programs printed (keys as in `read`). Also for recorded output."""
    try:
        native = nft.tables(printed["nft"]) if "nft" in printed else []
    except ValueError as error:
        native, errors = [], {**errors, "nft": str(error)}
    found: list[Table] = []
    for family in ("ip", "ip6"):
        if f"legacy {family}" in printed:
            found += xtables.tables(printed[f"legacy {family}"].decode(errors="replace"), LEGACY, family)
        if family in printed:
            found += xtables.tables(printed[family].decode(errors="replace"), NFT_COMPAT, family)
    by_name = {(table.family, table.name): table for table in found if table.backend == NFT_COMPAT}
    for table in native:
        compat = by_name.get((table.family, table.name))
        if compat is None:
            found.append(table)
        else:
            _join(compat, table)
    sets = ipset.parse(printed.get("ipset", b"").decode(errors="replace"))
    ruleset = Ruleset(tuple(found), sets, programs())
    # Without the programs of a backend that has no rules nothing is missing.
    missing = {name: why for name, why in errors.items() if not _is_needless(name, errors, native, ruleset)}
    return Reading(ruleset, missing)


def _is_needless(name: str, errors: dict[str, str], native: list[Table], ruleset: Ruleset) -> bool:
    """Ipset is missed only where a rule asks for a set, iptables-nft's program where nft shows a table of its kind."""
    if name == "ipset":
        return not any(SET_MATCH in rule.text for rule in ruleset.rules())
    if name not in {"ip", "ip6"} or "nft" in errors:
        return False
    return not any(table.family == name and table.name in {*xtables.PRIORITIES, "nat"} for table in native)


def _join(compat: Table, native: Table) -> None:
    """Puts nft's knowledge into a table of iptables-nft: handles, true hooks, and rules that iptables cannot print."""
    compat.sets = native.sets
    for name, its in native.chains.items():
        chain = compat.chains.get(name)
        if chain is None:
            compat.chains[name] = its
        elif len(chain.sources) == len(its.sources):
            if its.hook:
                chain.priority = its.priority
            chain.sources = list(zip(chain.sources, its.sources, strict=True))
            chain.make = partial(_joined, chain.make, its)


def _joined(
    saved: Callable[[Chain, int, Any], Rule], listed: Chain, chain: Chain, position: int, sources: tuple[Any, Any]
) -> Rule:
    rule, other = saved(chain, position, sources[0]), listed.make(listed, position, sources[1])
    if _is_foreign(other.expressions or ()):
        return other
    return Rule(
        rule.backend, rule.family, rule.table, rule.chain, rule.position, rule.text,
        handle=other.handle, packets=rule.packets, bytes=rule.bytes,
    )  # fmt: skip


def _is_foreign(expressions: tuple[dict[str, Any], ...]) -> bool:
    """Whether nft wrote the rule. iptables gives every rule a counter, and no set, map, conntrack or fib expression."""
    kinds = {next(iter(expression)) for expression in expressions}
    if "xt" in kinds:
        return False
    if "counter" not in kinds or kinds - OWN_EXPRESSIONS:
        return True
    for expression in expressions:
        inner = expression.get("match")
        if inner is not None and (_mentions(inner["left"]) or _mentions(inner["right"])):
            return True
    return False


def _mentions(value: Any) -> bool:
    if isinstance(value, str):
        return value.startswith("@")
    return isinstance(value, dict) and any(key in {"set", "ct", "fib", "concat", "numgen", "map"} for key in value)


def programs() -> dict[tuple[str, int], str]:
    """Which program of this host speaks to which backend."""
    found = {}
    for family, plain in ((4, "iptables"), (6, "ip6tables")):
        path = shutil.which(plain)
        is_nft = path is None or "nft" in Path(path).resolve().name
        found[NFT_COMPAT, family] = plain if is_nft else f"{plain}-nft"
        found[LEGACY, family] = f"{plain}-legacy" if is_nft or shutil.which(f"{plain}-legacy") else plain
    return found


def listing(family: str, table: str) -> dict[int, str]:
    """The texts of a table's rules by handle; empty if nft does not answer."""
    output = _finish("nft", _start(["nft", "-a", "-s", "list", "table", family, table]))
    return nft.texts(output.decode(errors="replace")) if isinstance(output, bytes) else {}


def _has_legacy(names: Path) -> bool:
    try:
        return bool(names.read_text().strip())
    except OSError:
        return False


def _start(command: list[str]) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        return None


def _finish(name: str, process: subprocess.Popen[bytes] | None) -> bytes | str:
    """What the program printed, or why it did not."""
    if process is None:
        return f"{name}: command not found"
    try:
        output, said = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"{name}: no answer within {DEADLINE_S:.0f} s"
    if process.returncode != 0:
        words = said.decode(errors="replace").strip().splitlines()
        return f"{name}: {words[-1] if words else f'exit {process.returncode}'}"
    return output
