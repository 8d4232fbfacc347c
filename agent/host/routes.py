"""Routes of all tables of both families, whatever their type (RTM_GETROUTE)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from agent.host.netlink import RTM_GETROUTE, Attributes, Netlink, address, attributes, u32
from model.facts import Route

FIXED: Final = struct.Struct("=BBBBBBBBI")
_HOP: Final = struct.Struct("=HBBi")
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 7, 9, 15, 18
RTNH_F_ONLINK: Final = 4
RTM_F_CLONED: Final = 0x200
TYPES: Final = (
    "unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit",
    "throw", "nat",
)  # fmt: skip
SCOPES: Final = {0: "", 200: "site", 253: "link", 254: "host", 255: "nowhere"}


def read(netlink: Netlink, devices: Mapping[int, str]) -> tuple[Route, ...]:
    """Every route; one with several next hops gives an entry for each."""
    found: list[Route] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in netlink.dump(RTM_GETROUTE, FIXED.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            fixed = FIXED.unpack(message.fixed)
            if fixed[0] == family and not fixed[8] & RTM_F_CLONED:
                found.extend(parse(fixed, message.attributes, devices))
    return tuple(found)


def gateway(found: Attributes) -> str:
    """The next hop; RTA_VIA names one of the other family."""
    return address(found.get(RTA_GATEWAY)) or address(found.get(RTA_VIA, b"\0\0")[2:])


def prefix(fixed: tuple[int, ...], found: Attributes) -> str:
    """The destination as a CIDR."""
    nothing = "0.0.0.0" if fixed[0] == socket.AF_INET else "::"
    return f"{address(found.get(RTA_DST)) or nothing}/{fixed[1]}"


def parse(fixed: tuple[int, ...], found: Attributes, devices: Mapping[int, str]) -> Iterator[Route]:
    """The routes of one message."""
    for hop, index, flags in _hops(found, fixed[8]):
        yield Route(
            family=4 if fixed[0] == socket.AF_INET else 6,
            destination=prefix(fixed, found),
            type=TYPES[fixed[7]] if fixed[7] < len(TYPES) else str(fixed[7]),
            gateway=gateway(hop),
            device=devices.get(index, str(index)) if index else "",
            table=u32(found.get(RTA_TABLE), fixed[4]),
            protocol=fixed[5],
            metric=u32(found.get(RTA_PRIORITY)),
            source=address(found.get(RTA_PREFSRC)),
            onlink=bool(flags & RTNH_F_ONLINK),
            scope=SCOPES.get(fixed[6], str(fixed[6])),
        )


def _hops(found: Attributes, flags: int) -> Iterator[tuple[Attributes, int, int]]:
    several = found.get(RTA_MULTIPATH)
    if several is None:
        yield found, u32(found.get(RTA_OIF)), flags
        return
    offset = 0
    while offset + 8 <= len(several):
        length, hop_flags, _, index = _HOP.unpack_from(several, offset)
        if length < 8:
            return
        yield attributes(several[offset + 8 : offset + length]), index, hop_flags
        offset += (length + 3) & ~3
