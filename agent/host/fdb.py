"""Forwarding entries of bridges and VXLAN devices, as `bridge fdb` lists them (RTM_GETNEIGH of AF_BRIDGE)."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from agent.host.neighbours import FIXED, NDA_DST, NDA_LLADDR, STATES
from agent.host.netlink import RTM_GETNEIGH, Netlink, address, mac
from model.facts import FdbEntry

AF_BRIDGE: Final = 7


def read(netlink: Netlink, devices: Mapping[int, str]) -> tuple[FdbEntry, ...]:
    """All entries. `destination` is the tunnel's remote end, "" for entries of a plain bridge."""
    found = []
    for message in netlink.dump(RTM_GETNEIGH, FIXED.pack(AF_BRIDGE, 0, 0, 0, 0)):
        family, index, state, _, _ = FIXED.unpack(message.fixed)
        if family in {AF_BRIDGE, socket.AF_UNSPEC}:
            found.append(
                FdbEntry(
                    mac=mac(message.attributes.get(NDA_LLADDR)),
                    device=devices.get(index, str(index)),
                    destination=address(message.attributes.get(NDA_DST)),
                    state=STATES.get(state, str(state)),
                )
            )
    return tuple(found)
