"""The kernel's own answer to "where would this packet go?" (RTM_GETROUTE): its errno is a finding, not a failure.

Asked twice: as the packet would be routed, and with RTM_F_FIB_MATCH for the route that answered.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from typing import Final

from agent.host.netlink import RTM_GETROUTE, Message, Netlink, NetlinkError, address, attribute, u32
from agent.host.routes import FIXED, RTA_DST, RTA_OIF, RTA_PREFSRC, RTA_TABLE, TYPES, gateway, prefix
from model.facts import RouteAnswer, RouteQuery

RTA_SRC, RTA_IIF, RTA_MARK = 2, 3, 16
RTM_F_LOOKUP_TABLE: Final = 0x1000
RTM_F_FIB_MATCH: Final = 0x2000
_U32: Final = struct.Struct("=I")


def read(netlink: Netlink, queries: tuple[RouteQuery, ...], devices: Mapping[int, str]) -> tuple[RouteAnswer, ...]:
    """One answer to each query, in order. A device or an address that does not exist is ENODEV or EINVAL."""
    return tuple(answer(netlink, query, devices) for query in queries)


def answer(netlink: Netlink, query: RouteQuery, devices: Mapping[int, str], *, with_match: bool = True) -> RouteAnswer:
    """The kernel's answer to one query; `with_match` asks for the matched prefix too."""
    incoming = incoming_device(netlink, query.incoming, devices)
    index = next((number for number, name in devices.items() if name == incoming), 0)
    if incoming and not index:
        return RouteAnswer(query=query, errno=errno.ENODEV)
    try:
        found = _ask(netlink, query, index, RTM_F_LOOKUP_TABLE)
    except ValueError:
        return RouteAnswer(query=query, errno=errno.EINVAL)
    except NetlinkError as error:
        return RouteAnswer(
            query=query,
            incoming=incoming,
            errno=error.errno or errno.EIO,
            matched=_matched(netlink, query, index)[0] if with_match else "",
        )
    fixed, attributes = FIXED.unpack(found.fixed), found.attributes
    matched, table = _matched(netlink, query, index) if with_match else ("", 0)
    return RouteAnswer(
        query=query,
        incoming=incoming,
        type=TYPES[fixed[7]] if fixed[7] < len(TYPES) else str(fixed[7]),
        device=devices.get(u32(attributes.get(RTA_OIF)), ""),
        gateway=gateway(attributes),
        source=address(attributes.get(RTA_PREFSRC)),
        table=table or u32(attributes.get(RTA_TABLE), fixed[4]),
        matched=matched,
    )


def incoming_device(netlink: Netlink, incoming: str, devices: Mapping[int, str]) -> str:
    """The device that "@ADDRESS" means: the one by which this host reaches that address; "" if none does."""
    if not incoming.startswith("@"):
        return incoming
    try:
        found = _ask(netlink, RouteQuery(destination=incoming[1:]), 0, 0)
    except (ValueError, NetlinkError):
        return ""
    return devices.get(u32(found.attributes.get(RTA_OIF)), "")


def _matched(netlink: Netlink, query: RouteQuery, index: int) -> tuple[str, int]:
    """The prefix of the route that answered, and its table; "" and 0 if the kernel tells none."""
    try:
        found = _ask(netlink, query, index, RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH)
    except (ValueError, NetlinkError):
        return "", 0
    fixed = FIXED.unpack(found.fixed)
    return prefix(fixed, found.attributes), u32(found.attributes.get(RTA_TABLE), fixed[4])


def _ask(netlink: Netlink, query: RouteQuery, index: int, flags: int) -> Message:
    destination, source = _packed(query.destination), _packed(query.source)
    if not destination or (source and len(source) != len(destination)):
        raise ValueError(query.destination)
    family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
    bits = len(destination) * 8
    asked = [attribute(RTA_DST, destination)]
    if source:
        asked.append(attribute(RTA_SRC, source))
    if index:
        asked.append(attribute(RTA_IIF, _U32.pack(index)))
    if query.mark:
        asked.append(attribute(RTA_MARK, _U32.pack(query.mark)))
    if family == socket.AF_INET6:
        # IPv6 tells the table unasked, and calls the flag invalid (inet6_rtm_valid_getroute_req).
        flags &= ~RTM_F_LOOKUP_TABLE
    fixed = FIXED.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, flags)
    return netlink.ask(RTM_GETROUTE, fixed, *asked)


def _packed(text: str) -> bytes:
    if not text:
        return b""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        raise ValueError(text) from None
