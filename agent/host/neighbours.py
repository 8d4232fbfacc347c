"""The ARP and neighbour discovery tables, with the addresses that this host answers for as a proxy (RTM_GETNEIGH)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Final

from agent.host.netlink import RTM_GETNEIGH, Netlink, address, mac
from model.facts import Neighbour

FIXED: Final = struct.Struct("=BxxxiHBB")
NDA_DST, NDA_LLADDR = 1, 2
NTF_PROXY: Final = 8
STATES: Final = {
    0: "none", 0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe", 0x20: "failed",
    0x40: "noarp", 0x80: "permanent",
}  # fmt: skip


def read(netlink: Netlink, devices: Mapping[int, str]) -> tuple[Neighbour, ...]:
    """All entries of both families but the kernel's own multicast ones; proxies in state "proxy"."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for flags in (0, NTF_PROXY):
            for message in netlink.dump(RTM_GETNEIGH, FIXED.pack(family, 0, 0, flags, 0)):
                its_family, index, state, _, _ = FIXED.unpack(message.fixed)
                to = address(message.attributes.get(NDA_DST))
                if its_family != family or not to or (state == 0x40 and _is_multicast(message.attributes[NDA_DST])):
                    continue
                found.append(
                    Neighbour(
                        family=4 if family == socket.AF_INET else 6,
                        address=to,
                        device=devices.get(index, str(index)),
                        mac=mac(message.attributes.get(NDA_LLADDR)),
                        state="proxy" if flags else STATES.get(state, str(state)),
                    )
                )
    return tuple(found)


def _is_multicast(value: bytes) -> bool:
    return value[0] == 0xFF if len(value) == 16 else 224 <= value[0] < 240
