"""Addresses on devices (RTM_GETADDR)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Final

from agent.host.netlink import RTM_GETADDR, Netlink, address
from model.facts import Address

_FIXED: Final = struct.Struct("=BBBBI")
IFA_ADDRESS, IFA_LOCAL = 1, 2
SCOPES: Final = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}


def read(netlink: Netlink, devices: Mapping[int, str]) -> tuple[Address, ...]:
    """All addresses of the namespace, both families, in the kernel's order (the first of a device is its primary)."""
    found = []
    for message in netlink.dump(RTM_GETADDR, _FIXED.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, length, _, scope, index = _FIXED.unpack(message.fixed)
        if family not in {socket.AF_INET, socket.AF_INET6}:
            continue
        found.append(
            Address(
                device=devices.get(index, str(index)),
                address=address(message.attributes.get(IFA_LOCAL) or message.attributes.get(IFA_ADDRESS)),
                prefix_length=length,
                family=4 if family == socket.AF_INET else 6,
                scope=SCOPES.get(scope, str(scope)),
            )
        )
    return tuple(found)
