"""What judges of matches may ask beside the packet: addresses and routes of the host, sets, the packet as it began.

Pure but for `Host.ask`, which is the kernel's routing table (or, over recorded facts, one computed from them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.host.netfilter.packet import Seen, network, number, spell
from agent.host.netfilter.rules import Ruleset
from model.facts import Address, Link, Route, RouteAnswer, RouteQuery
from model.tables import IpvsService

LOCAL_TABLE = 255
GIVES_TYPE = {"local", "broadcast", "anycast", "multicast"}


@dataclass(frozen=True, slots=True)
class Host:
    """The host's own side: its addresses, devices and routes."""

    routes: tuple[Route, ...]
    addresses: tuple[Address, ...]
    links: tuple[Link, ...]
    sysctls: dict[str, str]
    ask: Callable[[RouteQuery], RouteAnswer]
    ipvs: tuple[IpvsService, ...] = ()
    _special: dict[int, list[tuple[int, int, int, str, str]]] = field(default_factory=dict)

    def address_type(self, family: int, address: int, device: str = "") -> str:
        """As inet_addr_type(): local, broadcast, multicast, anycast or unicast; of one device where that is given."""
        if family == 4 and 0xE0000000 <= address <= 0xEFFFFFFF:
            return "multicast"
        if family == 6 and address >> 120 == 0xFF:
            return "multicast"
        if family == 4 and address in {0, 0xFFFFFFFF}:
            return "broadcast"
        best, found = -1, "unicast"
        for first, last, length, kind, its_device in self._special_of(family):
            if first <= address <= last and length > best:
                best, found = length, kind if not device or its_device == device else "unicast"
        return found

    def _special_of(self, family: int) -> list[tuple[int, int, int, str, str]]:
        if family not in self._special:
            self._special[family] = [
                (*network(route.destination), route.type, route.device)
                for route in self.routes
                if route.family == family and route.table == LOCAL_TABLE and route.type in GIVES_TYPE
            ]
        return self._special[family]

    def reverse_path(self, packet: Seen, *, loose: bool, with_mark: bool) -> bool:
        """Whether a route to the packet's source leads through its incoming device (any device if `loose`)."""
        if packet.incoming == "lo":
            return True
        if self.address_type(packet.family, packet.source) == "local":
            return False
        if loose or not packet.incoming:
            query = RouteQuery(
                destination=spell(packet.family, packet.source), mark=(packet.mark or 0) if with_mark else 0
            )
            return self.ask(query).errno == 0
        return any(
            route.family == packet.family
            and route.device == packet.incoming
            and route.type == "unicast"
            and _covers(route.destination, packet.source)
            for route in self.routes
        )

    def own_address(self, family: int, device: str, route_source: str = "") -> int | None:
        """The address that MASQUERADE takes on a device: the route's, else the device's first of widest scope."""
        if route_source:
            return number(route_source)
        wanted = [one for one in self.addresses if one.device == device and one.family == family]
        wanted.sort(key=lambda one: one.scope not in {"global", "site"})
        return number(wanted[0].address) if wanted else None

    def is_bridge(self, device: str) -> bool:
        """Whether the device is a bridge."""
        return any(link.name == device and link.kind == "bridge" for link in self.links)


def _covers(prefix: str, address: int) -> bool:
    first, last, _ = network(prefix)
    return first <= address <= last


@dataclass(frozen=True, slots=True)
class World:
    """All that a walk may look at. `asked` is the packet before any translation."""

    host: Host
    ruleset: Ruleset
    asked: Seen
