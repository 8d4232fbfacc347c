"""Listening TCP and bound UDP sockets of this network namespace, from /proc/thread-self/net."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Final

from model.facts import Socket

ROOT: Final = Path("/proc/thread-self/net")
TCP_LISTEN: Final = "0A"
UDP_UNCONNECTED: Final = "07"
FILES: Final = (("tcp", 4), ("tcp6", 6), ("udp", 4), ("udp6", 6))


def read(root: Path = ROOT) -> tuple[Socket, ...]:
    """Who may be spoken to here. Connected UDP sockets are left out: they hear one peer only."""
    found = set()
    for name, family in FILES:
        try:
            lines = (root / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        protocol = name[:3]
        wanted = TCP_LISTEN if protocol == "tcp" else UDP_UNCONNECTED
        for line in lines:
            fields = line.split()
            if fields[3] == wanted:
                address, _, port = fields[1].partition(":")
                found.add((protocol, family, _address(address), int(port, 16)))
    return tuple(
        Socket(protocol=protocol, family=family, address=address, port=port)
        for protocol, family, address, port in sorted(found)
    )


def _address(text: str) -> str:
    """The kernel prints addresses as native 32 bit words."""
    words = (int(text[at : at + 8], 16) for at in range(0, len(text), 8))
    data = b"".join(struct.pack("=I", word) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)
