"""Which device and source stand for an address that shall be asked for on the wire, and the asking."""

from __future__ import annotations

from agent.host.context import Context
from agent.host.route_answers import answer
from model.facts import Resolution, RouteQuery


def read(context: Context) -> tuple[Resolution, ...]:
    """One resolution for each address of the order; those that are not on a link of this host are not asked."""
    from agent.wire.resolve import Asked, resolve  # noqa: PLC0415 - scapy, only where it is asked for

    macs = {link.name: link.mac for link in context.links}
    asked: list[Asked] = []
    refused: list[Resolution] = []
    for address in context.order.resolve_asked:
        way = answer(context.netlink, RouteQuery(destination=address), context.device_names)
        if way.errno or way.gateway or not macs.get(way.device):
            why = f"not on a link of this host (by {way.gateway})" if way.gateway else "not on a link of this host"
            refused.append(Resolution(address=address, error=why))
        else:
            asked.append(Asked(address, way.device, macs[way.device], way.source))
    return (*resolve(asked), *refused) if asked else tuple(refused)
