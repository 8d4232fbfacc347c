"""Who answers for an address on the link: an ARP request or neighbour solicitation, sent now, past the kernel's cache.

The kernel's neighbour table stays as it is, but for what it learns by itself from the answers it hears. Sources: RFC
826, RFC 4861.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Final

from agent.host import route_answers
from agent.host.netlink import Netlink
from model.facts import Address, Link, Resolution, RouteQuery

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
DEADLINE_S: Final = 0.6
ATTEMPTS: Final = 2
MOST: Final = 32
SOLICITATION, ADVERTISEMENT, ICMPV6 = 135, 136, 58


def read(
    netlink: Netlink, asked: tuple[str, ...], links: tuple[Link, ...], addresses: tuple[Address, ...],
    devices: Mapping[int, str],
) -> tuple[Resolution, ...]:  # fmt: skip
    """One resolution for each address, in order; at most 32."""
    return tuple(_resolve(netlink, one, links, addresses, devices) for one in asked[:MOST])


def _resolve(
    netlink: Netlink, asked: str, links: tuple[Link, ...], addresses: tuple[Address, ...], devices: Mapping[int, str]
) -> Resolution:
    route = route_answers.answer(netlink, RouteQuery(destination=asked), devices, with_match=False)
    if route.errno or route.gateway or route.type != "unicast":
        return Resolution(address=asked, error="not on a link of this host")
    link = next(link for link in links if link.name == route.device)
    family = 6 if ":" in asked else 4
    own = route.source or next(
        (one.address for one in addresses if one.family == family and one.device == link.name), ""
    )
    if len(link.mac) != 17:
        return Resolution(address=asked, device=link.name, error=f"{link.name} has no link layer addresses")
    mine = bytes.fromhex(link.mac.replace(":", ""))
    target = socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, asked)
    source = socket.inet_pton(
        socket.AF_INET if family == 4 else socket.AF_INET6, own or ("0.0.0.0" if family == 4 else "::")
    )
    frame = arp_request(mine, source, target) if family == 4 else solicitation(mine, source, target)
    try:
        macs = _exchange(link.name, frame, target)
    except OSError as error:
        return Resolution(address=asked, device=link.name, error=str(error))
    return Resolution(address=asked, device=link.name, macs=macs)


def arp_request(mine: bytes, source: bytes, target: bytes) -> bytes:
    """Who has `target`? Tell `source`."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mine + source + bytes(6) + target
    return b"\xff" * 6 + mine + struct.pack("!H", ETH_P_ARP) + body


def solicitation(mine: bytes, source: bytes, target: bytes) -> bytes:
    """A neighbour solicitation to the target's solicited-node address."""
    group = bytes.fromhex("ff0200000000000000000001ff") + target[-3:]
    body = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + target + b"\x01\x01" + mine
    pseudo = source + group + struct.pack("!II", len(body), ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 255) + source + group
    return b"\x33\x33" + group[-4:] + mine + struct.pack("!H", ETH_P_IPV6) + header + body


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answered_by(frame: bytes, target: bytes) -> str:
    """The address that a frame claims for the target, "" if it is no answer about it."""
    kind = frame[12:14]
    if kind == b"\x08\x06" and frame[20:22] == b"\x00\x02" and frame[28:32] == target:
        return frame[22:28].hex(":")
    is_advertisement = (
        kind == b"\x86\xdd" and frame[20:21] == bytes([ICMPV6]) and frame[54:55] == bytes([ADVERTISEMENT])
    )
    if is_advertisement and frame[62:78] == target:
        return (frame[80:86] if frame[78:80] == b"\x02\x01" else frame[6:12]).hex(":")
    return ""


def _exchange(device: str, frame: bytes, target: bytes) -> tuple[str, ...]:
    """Asks, and listens to the end of the deadline: a second claimant is a finding."""
    found: dict[str, None] = {}
    kind = ETH_P_ARP if len(target) == 4 else ETH_P_IPV6
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asking:
        asking.bind((device, kind))
        for _ in range(ATTEMPTS):
            asking.send(frame)
            ends = time.monotonic() + DEADLINE_S / ATTEMPTS
            while (left := ends - time.monotonic()) > 0:
                if select.select([asking], [], [], left)[0]:
                    mac = answered_by(asking.recv(256), target)
                    if mac:
                        found[mac] = None
    return tuple(found)
