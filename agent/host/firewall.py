"""Walks and droppers of an order: reads netfilter once, answers all questions over it.

Of 20,000 rules only the answers travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import msgspec

from agent.host import ipvs, route_answers, sysctls
from agent.host.context import Context
from agent.host.netfilter import read as reader
from agent.host.netfilter.droppers import droppers
from agent.host.netfilter.refs import Refs
from agent.host.netfilter.walk import Walker, conclude
from agent.host.netfilter.world import Host
from model.facts import Dropper, Packet, RouteAnswer, RouteQuery, Walk
from model.tables import IpvsService


@dataclass
class Firewall:
    """Netfilter of the context's namespace."""

    context: Context

    @cached_property
    def reading(self) -> reader.Reading:
        """The rule set, read once."""
        return reader.read()

    @cached_property
    def refs(self) -> Refs:
        """Names of its rules."""
        return Refs(self.reading.ruleset, reader.listing)

    @cached_property
    def host(self) -> Host:
        """The host's own side of the questions."""
        context = self.context
        return Host(
            routes=context.routes,
            addresses=context.addresses,
            links=context.links,
            sysctls=sysctls.read(()),
            ask=self._ask,
            ipvs=self._services,
        )

    @cached_property
    def _services(self) -> tuple[IpvsService, ...]:
        try:
            return ipvs.read()
        except OSError as error:
            self.reading.errors["ipvs"] = f"ipvs: {error.strerror or error}"
            return ()

    def walks(self) -> tuple[Walk, ...]:
        """The order's walks."""
        walker = Walker(self.host, self.reading.ruleset)
        # Sets concern only those walks that meet one; they are unsure by themselves.
        unread = tuple(why for backend, why in self.reading.errors.items() if backend != "ipset")
        return tuple(
            self._explained(conclude(packet, walker.walk(self._placed(packet)), self.refs, unread))
            for packet in self.context.order.walks_asked
        )

    def _explained(self, walk: Walk) -> Walk:
        """The walk with the reason why a match on a set could not be judged."""
        why = self.reading.errors.get("ipset")
        if why is None or not any(one.startswith("set") for one in walk.unsure):
            return walk
        return msgspec.structs.replace(walk, unsure=(*walk.unsure, why))

    def droppers(self) -> tuple[Dropper, ...]:
        """The order's droppers. Each names the packet as it was asked for."""
        found: list[Dropper] = []
        for packet in self.context.order.droppers_asked:
            placed = self._placed(packet)
            found += (
                msgspec.structs.replace(one, asked=packet)
                for one in droppers(placed, self.host, self.reading.ruleset, self.refs)
            )
        return tuple(found)

    def _ask(self, query: RouteQuery) -> RouteAnswer:
        return route_answers.answer(self.context.netlink, query, self.context.device_names, with_match=False)

    def _placed(self, packet: Packet) -> Packet:
        """The packet with its incoming device by name, where an address named it."""
        if not packet.incoming.startswith("@"):
            return packet
        device = route_answers.incoming_device(self.context.netlink, packet.incoming, self.context.device_names)
        return msgspec.structs.replace(packet, incoming=device)
