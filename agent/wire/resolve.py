"""Asks the segment itself who has an address: an ARP request or a neighbour solicitation, past the kernel's cache.

It changes nothing: the answer is read from the wire by a packet socket, and the kernel's tables are left as they are
(RFC 826, RFC 4861 section 7.2). Built and read with scapy.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

from model.facts import Resolution

ETH_P_ALL: Final = 3
TRIES: Final = 2
TRY_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Asked:
    """An address on a link of this host: the device, its MAC, and our address there."""

    address: str
    device: str
    mac: str
    source: str


def resolve(asked: Sequence[Asked]) -> tuple[Resolution, ...]:
    """Who answers for each address; takes at most TRIES × TRY_S, and returns early once all have answered."""
    sockets = {one.device: _open(one.device) for one in asked}
    found: dict[str, list[str]] = {one.address: [] for one in asked}
    try:
        for _ in range(TRIES):
            for one in asked:
                if not found[one.address]:
                    sockets[one.device].send(bytes(_question(one)))
            _listen(sockets, found, time.monotonic() + TRY_S)
            if all(found.values()):
                break
    finally:
        for sock in sockets.values():
            sock.close()
    return tuple(Resolution(address=a.address, device=a.device, macs=tuple(found[a.address])) for a in asked)


def _open(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((device, ETH_P_ALL))
    return sock


def _question(one: Asked) -> Any:
    if ":" not in one.address:
        return Ether(src=one.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=one.mac, psrc=one.source, pdst=one.address)
    group = in6_getnsma(socket.inet_pton(socket.AF_INET6, one.address))
    link, network = in6_getnsmac(group), socket.inet_ntop(socket.AF_INET6, group)
    ask = IPv6(src=one.source, dst=network, hlim=255) / ICMPv6ND_NS(tgt=one.address)
    return Ether(src=one.mac, dst=link) / ask / ICMPv6NDOptSrcLLAddr(lladdr=one.mac)


def _listen(sockets: Mapping[str, socket.socket], found: dict[str, list[str]], until: float) -> None:
    """Collect answers until the time is up. All of the time is used where one came, since a second owner may answer."""
    for sock in sockets.values():
        while (rest := until - time.monotonic()) > 0:
            sock.settimeout(rest)
            try:
                frame = sock.recv(2048)
            except TimeoutError:
                break
            answer = _answer(frame)
            if answer is not None and answer[0] in found and answer[1] not in found[answer[0]]:
                found[answer[0]].append(answer[1])


def _answer(frame: bytes) -> tuple[str, str] | None:
    """Address and MAC of an ARP reply or neighbour advertisement; None for any other frame."""
    kind = frame[12:14]
    if kind == b"\x08\x06":
        packet = Ether(frame)
        return (packet[ARP].psrc, packet[ARP].hwsrc) if packet[ARP].op == 2 else None
    if kind == b"\x86\xdd" and frame[20:21] == b"\x3a" and frame[54:55] == b"\x88":
        packet = Ether(frame)
        return (packet[ICMPv6ND_NA].tgt, packet.src) if ICMPv6ND_NA in packet else None
    return None
