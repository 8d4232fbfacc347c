"""The typed rule set: tables, chains and rules of iptables-legacy, iptables-nft and native nftables alike.

Values only. A chain's rules are made when somebody looks at it, and a rule keeps its source (save line or nft
expressions) to be parsed when somebody looks at that, since a walk meets a few hundred of 20,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

LEGACY: Final = "legacy"
NFT_COMPAT: Final = "nft_compat"
NATIVE: Final = "nft"
# Tables that a rule trace of ours makes for a moment (agent/host/ruletrace). They decide nothing.
TRACE_PREFIX: Final = "kubereach_trace_"

Expression = dict[str, Any]


class Rule(msgspec.Struct, frozen=True):
    """One rule. `text` is the save line's part after the chain's name; native rules have `expressions` instead.

    `family` is the table's, as nftables names it (ip, ip6, inet, bridge, netdev, arp).
    """

    backend: str
    family: str
    table: str
    chain: str
    position: int
    text: str = ""
    expressions: tuple[Expression, ...] | None = None
    handle: int = 0
    packets: int = 0
    bytes: int = 0
    comment: str = ""


@dataclass(slots=True)
class Chain:
    """A chain. `hook` is empty for a chain that is only jumped to; `kind` is filter, nat or route.

    `sources` are what its rules are made of; `make` makes rule number 1, 2, … of one.
    """

    backend: str
    family: str
    table: str
    name: str
    make: Callable[[Chain, int, Any], Rule]
    hook: str = ""
    priority: int = 0
    kind: str = "filter"
    policy: str = "accept"
    devices: tuple[str, ...] = ()
    packets: int = 0
    bytes: int = 0
    sources: list[Any] = field(default_factory=list)
    _rules: tuple[Rule, ...] | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Its rules, in order."""
        if self._rules is None:
            self._rules = tuple(self.make(self, at, source) for at, source in enumerate(self.sources, 1))
        return self._rules


@dataclass(slots=True)
class NamedSet:
    """A named set or map of nftables, as `nft -j` prints its elements."""

    name: str
    elements: list[Any]
    is_map: bool


@dataclass(slots=True)
class Table:
    """A table with its chains and, for native ones, sets and maps."""

    backend: str
    family: str
    name: str
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, NamedSet] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IpSet:
    """An ipset as `ipset save` prints it: type, creation options, elements with their options."""

    name: str
    kind: str
    family: int
    options: tuple[str, ...]
    elements: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All tables of one namespace. `programs` says which program speaks to which backend ("legacy", 4) → its name."""

    tables: tuple[Table, ...]
    ipsets: dict[str, IpSet]
    programs: dict[tuple[str, int], str] = field(default_factory=dict)

    def rules(self) -> list[Rule]:
        """Every rule of every table."""
        return [rule for table in self.tables for chain in table.chains.values() for rule in chain.rules]
