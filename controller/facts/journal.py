"""What changed in the nodes' networks, and what of it stands just before a failure.

Agents tell changes as the kernel tells them (`agent.journal`); their clocks are mapped to the controller's. A change
before a failure is evidence beside a cause, never a cause: it says when, and whose tool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from model.clock import rfc3339
from model.diagnosis import Evidence
from model.journal import Change

KEPT: Final = 512
BEFORE_S: Final = 15.0
# How far the mapping of clocks, and the first probe that failed, may be off.
BEHIND_S: Final = 0.5
TOLD: Final = 3
FILTER: Final = "packet filter"
ALWAYS: Final = frozenset({"sysctl", "rule", FILTER})


@dataclass(frozen=True, slots=True)
class Noted:
    """A change at the controller's wall clock, in seconds."""

    at_s: float
    change: Change


class Journal:
    """The last changes of every node."""

    def __init__(self) -> None:
        self._nodes: dict[str, deque[Noted]] = {}

    def take(self, node: str, changes: Iterable[Change], offset_s: float) -> int:
        """Notes what an agent told; what it told before is not noted twice. Returns how many were new."""
        noted = self._nodes.setdefault(node, deque(maxlen=KEPT))
        known = {one.change for one in noted}
        fresh = [change for change in changes if change not in known]
        noted.extend(Noted(change.at_ms / 1000 + offset_s, change) for change in fresh)
        return len(fresh)

    def of(self, node: str) -> tuple[Noted, ...]:
        """All that is kept of a node, oldest first."""
        return tuple(self._nodes.get(node, ()))

    def between(self, node: str, first_s: float, last_s: float) -> tuple[Noted, ...]:
        """What changed on a node in this time."""
        return tuple(one for one in self._nodes.get(node, ()) if first_s <= one.at_s <= last_s)

    def forget(self, keep: Iterable[str]) -> None:
        """Drops nodes that are gone."""
        kept = set(keep)
        for node in [node for node in self._nodes if node not in kept]:
            del self._nodes[node]


def shortly_before(
    journal: Journal,
    nodes: Iterable[str],
    first_failure_s: float,
    addresses: Iterable[str],
    devices: Iterable[str],
    *,
    with_filter: bool = True,
) -> tuple[Evidence, ...]:
    """The changes that may have to do with a failure, latest first, at most three.

    Of routes, addresses, neighbours and forwarding entries those count that cover one of `addresses`; of devices those
    of `devices`; settings and policy rules always, the packet filter if `with_filter`.
    """
    wanted, named = tuple(addresses), frozenset(devices)
    found = [
        (noted, node)
        for node in dict.fromkeys(nodes)
        for noted in journal.between(node, first_failure_s - BEFORE_S, first_failure_s + BEHIND_S)
        if _concerns(noted.change, wanted, named) and (with_filter or noted.change.subject != FILTER)
    ]
    found.sort(key=lambda one: (one[0].change.subject == FILTER, -one[0].at_s))
    return tuple(_evidence(noted, node, first_failure_s) for noted, node in found[:TOLD])


def _concerns(change: Change, addresses: tuple[str, ...], devices: frozenset[str]) -> bool:
    if change.subject in ALWAYS:
        return True
    if change.subject == "link":
        return change.name in devices
    if change.subject == "fdb":
        return any(f" {address} " in f" {change.says} " for address in addresses)
    return any(_covers(change.name, address) for address in addresses)


def _covers(prefix: str, address: str) -> bool:
    network, one = ip_network(prefix, strict=False), ip_address(address)
    # A default route covers everything, and counts.
    return network.version == one.version and one in network


def _evidence(noted: Noted, node: str, first_failure_s: float) -> Evidence:
    before_s = first_failure_s - noted.at_s
    when = f"{before_s:.1f} s before" if before_s > 0.05 else "at"
    return Evidence(
        fact="change", node=node, says=f"{noted.change}, {when} the first failure", value=rfc3339(noted.at_s)
    )
