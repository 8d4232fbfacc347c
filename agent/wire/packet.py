"""The IP header of a packet, as far as captures look at it."""

from __future__ import annotations

import socket
from typing import NamedTuple


class Header(NamedTuple):
    """Addresses, protocol, where the payload begins."""

    family: int
    source: bytes
    destination: bytes
    protocol: int
    payload: int


def parse(data: bytes) -> Header | None:
    """The IP header of a packet; None if it is none. IPv6 extension headers are not followed."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        return Header(4, data[12:16], data[16:20], data[9], (data[0] & 15) * 4)
    if len(data) >= 40 and data[0] >> 4 == 6:
        return Header(6, data[8:24], data[24:40], data[6], 40)
    return None


def spelled(address: bytes) -> str:
    """An address in text."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
