"""The packet on its walk: what a rule sees of it, as one hashable value, and addresses as numbers."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Final, NamedTuple

from model.facts import Packet

PROTOCOL_NUMBERS: Final = {
    "ip": 0, "icmp": 1, "igmp": 2, "ipencap": 4, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47,
    "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "icmp6": 58, "ospf": 89, "sctp": 132, "udplite": 136,
}  # fmt: skip
PROTOCOL_NAMES: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", 33: "dccp", 136: "udplite"}
WITH_PORTS: Final = {"tcp", "udp", "sctp", "dccp", "udplite"}


class Seen(NamedTuple):
    """What rules see. Addresses are numbers. `mark` and `ct_mark` None: not known any more.

    `bridged`: crosses a bridge from `bridge_in`, and comes here by bridge-nf. `dnat`/`snat`: translated on this walk.
    """

    family: int
    source: int
    destination: int
    protocol: str
    source_port: int
    destination_port: int
    icmp_type: int
    incoming: str
    outgoing: str
    bridge_in: str
    bridge_out: str
    bridged: bool
    mark: int | None
    ct_mark: int | None
    state: str
    dnat: bool
    snat: bool


@lru_cache(maxsize=8192)
def number(address: str) -> int:
    """An address as a number. Raises ValueError."""
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address), "big")
    except OSError:
        raise ValueError(f"not an address: {address}") from None


def spell(family: int, value: int) -> str:
    """A number as an address of the family (4 or 6)."""
    if family == 4:
        return socket.inet_ntop(socket.AF_INET, value.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))


@lru_cache(maxsize=65536)
def network(text: str) -> tuple[int, int, int]:
    """First and last address and prefix length of "a", "a/n", "a/m.a.s.k" or "a-b". Raises ValueError."""
    if "-" in text:
        first, _, last = text.partition("-")
        return number(first), number(last), 0
    address, slash, mask = text.partition("/")
    bits = 128 if ":" in address else 32
    if not slash:
        value = number(address)
        return value, value, bits
    if mask.isdigit():
        length = int(mask)
        size = 1 << (bits - length)
        first_number = number(address) & ~(size - 1)
        return first_number, first_number + size - 1, length
    found = ipaddress.ip_network(text, strict=False)
    return int(found.network_address), int(found.broadcast_address), found.prefixlen


def family_of(text: str) -> int:
    """4 or 6, of an address or network in text."""
    return 6 if ":" in text else 4


def start(packet: Packet, *, incoming: str) -> Seen:
    """The packet as it begins its walk. Raises ValueError for a malformed address."""
    return Seen(
        family=packet.family,
        source=number(packet.source) if packet.source else 0,
        destination=number(packet.destination),
        protocol=packet.protocol,
        source_port=packet.source_port,
        destination_port=packet.destination_port,
        icmp_type=packet.icmp_type,
        incoming=incoming,
        outgoing=packet.outgoing,
        bridge_in=packet.bridge_port,
        bridge_out="",
        bridged=False,
        mark=packet.mark,
        ct_mark=0 if packet.state == "new" else None,
        state=packet.state,
        dnat=False,
        snat=False,
    )


def finish(asked: Packet, seen: Seen) -> Packet:
    """The packet as it leaves, in the words of the wire."""
    return Packet(
        family=seen.family,
        source=spell(seen.family, seen.source) if seen.source or asked.source else "",
        destination=spell(seen.family, seen.destination),
        protocol=seen.protocol,
        source_port=seen.source_port,
        destination_port=seen.destination_port,
        icmp_type=seen.icmp_type,
        incoming=seen.incoming,
        outgoing=seen.outgoing,
        bridge_port=seen.bridge_in,
        state=seen.state,
        mark=seen.mark or 0,
    )
