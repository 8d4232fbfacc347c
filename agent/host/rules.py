"""Policy routing rules, as `ip rule` lists them (RTM_GETRULE)."""

from __future__ import annotations

import socket
import struct
from typing import Final

from agent.host.netlink import RTM_GETRULE, Attributes, Netlink, address, text, u32
from model.facts import PolicyRule

_FIXED: Final = struct.Struct("=BBBBBBBBI")
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_OIFNAME = 1, 2, 3, 6, 10, 15, 16, 17
FRA_SUPPRESS_PREFIXLEN = 14
# goto, flow, tun_id, suppress_ifgroup, l3mdev, uid_range, ip_proto, ranges of ports, dscp, flow label: a rule
# has these attributes only where they count (and beside some of them their masks).
_UNREAD: Final = frozenset((4, 11, 12, 13, 19, 20, 22, 23, 24, 25, 26))
# The type of service stands in the fixed part, so that it has no number of its own.
_TOS: Final = 0
_INVERT: Final = 2
_NOTHING: Final = 0xFFFFFFFF
ACTIONS: Final = {1: "to_table", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}


def read(netlink: Netlink) -> tuple[PolicyRule, ...]:
    """All rules of both families, by priority within the family."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in netlink.dump(RTM_GETRULE, _FIXED.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            fixed = _FIXED.unpack(message.fixed)
            if fixed[0] == family:
                found.append(_rule(fixed, message.attributes))
    return tuple(sorted(found, key=lambda rule: (rule.family, rule.priority)))


def _rule(fixed: tuple[int, ...], found: Attributes) -> PolicyRule:
    source, destination = address(found.get(FRA_SRC)), address(found.get(FRA_DST))
    suppressed = u32(found.get(FRA_SUPPRESS_PREFIXLEN), _NOTHING)
    return PolicyRule(
        family=4 if fixed[0] == socket.AF_INET else 6,
        priority=u32(found.get(FRA_PRIORITY)),
        source=f"{source}/{fixed[2]}" if source else "",
        destination=f"{destination}/{fixed[1]}" if destination else "",
        incoming=text(found.get(FRA_IIFNAME)),
        outgoing=text(found.get(FRA_OIFNAME)),
        mark=u32(found.get(FRA_FWMARK)),
        mask=u32(found.get(FRA_FWMASK)) if FRA_FWMARK in found else 0,
        table=u32(found.get(FRA_TABLE), fixed[4]),
        action=ACTIONS.get(fixed[7], str(fixed[7])),
        inverted=bool(fixed[8] & _INVERT),
        suppressed=-1 if suppressed == _NOTHING else suppressed,
        unread=(*((_TOS,) if fixed[3] else ()), *sorted(_UNREAD & found.keys())),
    )
