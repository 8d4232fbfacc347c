"""Reads what `nft -j list ruleset` prints: tables, chains, rules, sets and maps; and the texts of `nft -a list`.

Expressions stay as nft prints them (libnftables-json(5)); `nft_rule` judges them when a packet meets them.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from agent.host.netfilter.rules import NATIVE, TRACE_PREFIX, Chain, NamedSet, Rule, Table

_HANDLE: Final = re.compile(r"^\s*(.*?) # handle (\d+)$")


def tables(dump: str | bytes) -> list[Table]:
    """All tables of the dump, those of iptables-nft among them, but none of a rule trace. Raises ValueError."""
    try:
        found = msgspec.json.decode(dump)["nftables"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ValueError(f"nft: unreadable dump: {error}") from None
    read: dict[tuple[str, str], Table] = {}
    for entry in found:
        for kind, value in entry.items():
            if kind == "table" and not value["name"].startswith(TRACE_PREFIX):
                read[value["family"], value["name"]] = Table(NATIVE, value["family"], value["name"])
            elif "table" in value and (value["family"], value["table"]) in read:
                _add(read[value["family"], value["table"]], kind, value)
    return list(read.values())


def texts(listing: str) -> dict[int, str]:
    """Each rule's text by its handle, from `nft -a list table`."""
    found = {}
    for line in listing.splitlines():
        named = _HANDLE.match(line)
        if named and not named[1].endswith("{"):
            found[int(named[2])] = named[1]
    return found


def _add(table: Table, kind: str, value: dict[str, Any]) -> None:
    if kind == "chain":
        devices = value.get("dev", ())
        table.chains[value["name"]] = Chain(
            NATIVE, table.family, table.name, value["name"], _rule,
            hook=value.get("hook", ""), priority=_priority(value.get("prio", 0)), kind=value.get("type", "filter"),
            policy=value.get("policy", "accept"), devices=(devices,) if isinstance(devices, str) else tuple(devices),
        )  # fmt: skip
    elif kind == "rule":
        chain = table.chains.get(value["chain"])
        if chain is None:
            chain = table.chains[value["chain"]] = Chain(NATIVE, table.family, table.name, value["chain"], _rule)
        chain.sources.append(value)
    elif kind in {"set", "map"}:
        table.sets[value["name"]] = NamedSet(value["name"], value.get("elem", []), kind == "map")


def _rule(chain: Chain, position: int, value: dict[str, Any]) -> Rule:
    expressions = tuple(value["expr"])
    counter: dict[str, int] = next((one["counter"] for one in expressions if isinstance(one.get("counter"), dict)), {})
    return Rule(
        NATIVE, chain.family, chain.table, chain.name, position, "", expressions,
        handle=value.get("handle", 0), packets=counter.get("packets", 0), bytes=counter.get("bytes", 0),
        comment=value.get("comment", ""),
    )  # fmt: skip


def _priority(value: Any) -> int:
    return value if isinstance(value, int) else 0
