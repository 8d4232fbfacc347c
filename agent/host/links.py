"""Network devices, their VXLAN and bridge port attributes, and counters (RTM_GETLINK)."""

from __future__ import annotations

import socket
import struct
from typing import Final

from agent.host.netlink import RTM_GETLINK, Attributes, Netlink, address, attributes, mac, text, u32
from model.facts import Link, Vxlan

_FIXED: Final = struct.Struct("=BxHiII")
_STATS: Final = struct.Struct("=8Q")
IFF_UP: Final = 0x1
IFF_LOWER_UP: Final = 0x10000
ARPHRD_LOOPBACK: Final = 772
ADDRESS, NAME, MTU, LINK, MASTER, OPERSTATE, LINKINFO, STATS64, LINK_NETNSID = 1, 3, 4, 5, 10, 16, 18, 23, 37
INFO_KIND, INFO_DATA, INFO_SLAVE_KIND, INFO_SLAVE_DATA = 1, 2, 4, 5
VXLAN_ID, VXLAN_LINK, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PORT, VXLAN_LOCAL6 = 1, 3, 4, 7, 15, 17
BRPORT_MODE: Final = 4
OPERSTATES: Final = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")


def read(netlink: Netlink) -> tuple[Link, ...]:
    """All devices of the namespace, by index."""
    messages = netlink.dump(RTM_GETLINK, _FIXED.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    parsed = [(_FIXED.unpack(message.fixed), message.attributes) for message in messages]
    names = {fixed[2]: text(found.get(NAME)) for fixed, found in parsed}
    return tuple(sorted((_link(fixed, found, names) for fixed, found in parsed), key=lambda link: link.index))


def _link(fixed: tuple[int, ...], found: Attributes, names: dict[int, str]) -> Link:
    info = attributes(found.get(LINKINFO, b""))
    kind = text(info.get(INFO_KIND)) or ("loopback" if fixed[1] == ARPHRD_LOOPBACK else "")
    state = found.get(OPERSTATE, b"\0")[0]
    port = attributes(info.get(INFO_SLAVE_DATA, b"")) if text(info.get(INFO_SLAVE_KIND)) == "bridge" else {}
    counters = _STATS.unpack_from(found[STATS64]) if STATS64 in found else (0,) * 8
    return Link(
        index=fixed[2],
        name=text(found.get(NAME)),
        kind=kind,
        up=bool(fixed[3] & IFF_UP),
        carrier=bool(fixed[3] & IFF_LOWER_UP),
        operstate=OPERSTATES[state] if state < len(OPERSTATES) else str(state),
        mtu=u32(found.get(MTU)),
        mac=mac(found.get(ADDRESS)),
        master=names.get(u32(found.get(MASTER)), ""),
        peer_index=u32(found.get(LINK)),
        peer_netnsid=struct.unpack("=i", found[LINK_NETNSID])[0] if LINK_NETNSID in found else -1,
        vxlan=_vxlan(attributes(info.get(INFO_DATA, b"")), names) if kind == "vxlan" else None,
        hairpin=bool(port[BRPORT_MODE][0]) if BRPORT_MODE in port else None,
        rx_packets=counters[0],
        tx_packets=counters[1],
        rx_errors=counters[4],
        tx_errors=counters[5],
        rx_dropped=counters[6],
        tx_dropped=counters[7],
    )


def _vxlan(data: Attributes, names: dict[int, str]) -> Vxlan:
    return Vxlan(
        vni=u32(data.get(VXLAN_ID)),
        port=int.from_bytes(data.get(VXLAN_PORT, b"\0\0"), "big"),
        local=address(data.get(VXLAN_LOCAL)),
        local6=address(data.get(VXLAN_LOCAL6)),
        device=names.get(u32(data.get(VXLAN_LINK)), ""),
        learning=bool(data.get(VXLAN_LEARNING, b"\0")[0]),
    )
