"""IPVS: virtual services and their real servers with weights and counters (generic netlink, linux/ip_vs.h).

Nothing is asked where the kernel has no IPVS, since the question itself would load the module.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Final

from agent.host.netlink import Attributes, Netlink, address, attribute, attributes, big, little, text
from model.tables import IpvsServer, IpvsService

PROC: Final = Path("/proc/thread-self/net/ip_vs")
NETLINK_GENERIC: Final = 16
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
CMD_GET_SERVICE, CMD_GET_DEST, ATTR_SERVICE, ATTR_DEST = 4, 8, 1, 2
S_AF, S_PROTOCOL, S_ADDR, S_PORT, S_MARK, S_SCHEDULER, S_FLAGS, S_TIMEOUT, S_STATS, S_STATS64 = (
    1, 2, 3, 4, 5, 6, 7, 8, 10, 12,
)  # fmt: skip
D_ADDR, D_PORT, D_METHOD, D_WEIGHT, D_ACTIVE, D_INACTIVE, D_STATS, D_FAMILY, D_STATS64 = 1, 2, 3, 4, 7, 8, 10, 11, 12
FLAG_PERSISTENT: Final = 1
METHOD_MASK: Final = 7
METHODS: Final = ("masquerade", "local", "tunnel", "route", "bypass")
PROTOCOLS: Final = {6: "tcp", 17: "udp", 132: "sctp"}
COUNTERS: Final = {"connections": 1, "packets_in": 2, "packets_out": 3, "bytes_in": 4, "bytes_out": 5}
_HEADER: Final = struct.Struct("=BBH")
NLA_F_NESTED: Final = 0x8000


def read(proc: Path = PROC) -> tuple[IpvsService, ...]:
    """All services of the namespace with their servers; none where the kernel has no IPVS. Raises OSError."""
    if not proc.exists():
        return ()
    with Netlink(NETLINK_GENERIC) as netlink:
        kind = _family(netlink)
        services = netlink.dump(kind, _HEADER.pack(CMD_GET_SERVICE, 1, 0))
        return tuple(_service(netlink, kind, attributes(one.attributes.get(ATTR_SERVICE, b""))) for one in services)


def _family(netlink: Netlink) -> int:
    asked = attribute(CTRL_ATTR_FAMILY_NAME, b"IPVS\0")
    return little(
        netlink.ask(GENL_ID_CTRL, _HEADER.pack(CTRL_CMD_GETFAMILY, 1, 0), asked).attributes[CTRL_ATTR_FAMILY_ID]
    )


def _service(netlink: Netlink, kind: int, found: Attributes) -> IpvsService:
    family, mark, protocol = little(found.get(S_AF)), little(found.get(S_MARK)), little(found.get(S_PROTOCOL))
    names = (S_AF, S_MARK) if mark else (S_AF, S_PROTOCOL, S_ADDR, S_PORT)
    key = attribute(ATTR_SERVICE | NLA_F_NESTED, b"".join(attribute(one, found[one]) for one in names))
    servers = netlink.dump(kind, _HEADER.pack(CMD_GET_DEST, 1, 0), key)
    flags = little(found.get(S_FLAGS, b"")[:4])
    return IpvsService(
        family=4 if family == socket.AF_INET else 6,
        address="" if mark else _address(found.get(S_ADDR), family),
        protocol="" if mark else PROTOCOLS.get(protocol, str(protocol)),
        port=big(found.get(S_PORT)),
        mark=mark,
        scheduler=text(found.get(S_SCHEDULER)),
        persistent_s=little(found.get(S_TIMEOUT)) if flags & FLAG_PERSISTENT else 0,
        **_counters(found.get(S_STATS64) or found.get(S_STATS)),
        servers=tuple(_server(attributes(one.attributes.get(ATTR_DEST, b"")), family) for one in servers),
    )


def _server(found: Attributes, family: int) -> IpvsServer:
    method = little(found.get(D_METHOD)) & METHOD_MASK
    return IpvsServer(
        # A server may be of the other family than its service where it is tunnelled to.
        address=_address(found.get(D_ADDR), little(found.get(D_FAMILY), family)),
        port=big(found.get(D_PORT)),
        forwarding=METHODS[method] if method < len(METHODS) else str(method),
        weight=little(found.get(D_WEIGHT)),
        active=little(found.get(D_ACTIVE)),
        inactive=little(found.get(D_INACTIVE)),
        **_counters(found.get(D_STATS64) or found.get(D_STATS)),
    )


def _counters(data: bytes | None) -> dict[str, int]:
    found = attributes(data or b"")
    return {name: little(found.get(number)) for name, number in COUNTERS.items()}


def _address(value: bytes | None, family: int) -> str:
    """Addresses are a union of 16 octets, of which IPv4 takes the first four."""
    return address((value or b"")[: 4 if family == socket.AF_INET else 16])
