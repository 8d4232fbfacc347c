"""What the kernel tells of a marked packet, as values: nft's trace events, and iptables' TRACE lines.

Pure: it reads messages. Sources: linux/netfilter/nf_tables.h (NFTA_TRACE_*), linux/netfilter/nfnetlink_log.h
(NFULA_*), net/ipv4/netfilter/ip_tables.c (the line "TRACE: filter:FORWARD:rule:3 ").
"""

from __future__ import annotations

import re
import socket
from typing import Final, NamedTuple

from agent.host.netlink import Attributes, attributes, text
from agent.host.ruletrace.nfnetlink import FAMILIES, SUBSYSTEM_NFTABLES, SUBSYSTEM_ULOG, Received

TRACE: Final = SUBSYSTEM_NFTABLES << 8 | 17
LOGGED: Final = SUBSYSTEM_ULOG << 8
KINDS: Final = {1: "policy", 2: "return", 3: "rule"}
# NFT_* are negative, NF_* are not.
VERDICTS: Final = {
    -1: "continue", -2: "continue", -3: "jump", -4: "goto", -5: "return",
    0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat",
}  # fmt: skip
HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting")
LINE: Final = re.compile(r"TRACE: ([^:]+):(.+):(?:rule|return|policy):(\d+) ?$")
_WITH_PORTS: Final = {6, 17, 132}
_ECHO: Final = {1, 58}


class Ends(NamedTuple):
    """Where a packet comes from and goes to; for echo messages `source_port` is the identifier."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int

    def spelled(self) -> str:
        """SOURCE:PORT>DESTINATION:PORT."""
        source, destination = (f"[{one}]" if ":" in one else one for one in (self.source, self.destination))
        if self.protocol not in _WITH_PORTS:
            return f"{source}>{destination}"
        return f"{source}:{self.source_port}>{destination}:{self.destination_port}"


class Told(NamedTuple):
    """One event of nft's trace. `kind` is rule, policy or return; `packet` the kernel's number for the packet.

    `ends` is there in the first event of each base chain that the packet enters, and `identity` with it: what tells
    packets of one flow apart, and stays while the packet is only forwarded.
    """

    kind: str
    family: str
    table: str
    chain: str
    handle: int
    verdict: str
    target: str
    packet: int
    ends: Ends | None
    identity: bytes


class Logged(NamedTuple):
    """One line of iptables-legacy's trace: the packet matched the rule at `position` (one more: policy, or end)."""

    family: str
    table: str
    chain: str
    position: int
    hook: str
    ends: Ends | None


def told(message: Received) -> Told | None:
    """A trace event; None for another message."""
    if message.kind != TRACE or message.family not in FAMILIES:
        return None
    found = attributes(message.body)
    kind = KINDS.get(_number(found, 4), "")
    verdict = attributes(found.get(5, b""))
    code = int.from_bytes(verdict.get(1, found.get(16, b"")), "big", signed=True)
    # The upper bits carry a queue's number or an errno.
    word = VERDICTS.get(code if code < 0 else code & 0xFF, "")
    header = found.get(8)
    ends = _ends(header, found.get(9, b"")) if header else None
    return Told(
        kind, FAMILIES[message.family], text(found.get(1)), text(found.get(2)), _number(found, 3), word,
        text(verdict.get(2)), _number(found, 6), ends, _identity(header or b"", found.get(9, b"")),
    )  # fmt: skip


def logged(message: Received) -> Logged | None:
    """A TRACE line; None for any other packet in the log."""
    if message.kind != LOGGED:
        return None
    found = attributes(message.body)
    line = LINE.match(text(found.get(10)))
    header, packet = found.get(1, b""), found.get(9, b"")
    if line is None or len(header) < 3 or header[2] >= len(HOOKS) or not packet:
        return None
    length = 40 if packet[0] >> 4 == 6 else (packet[0] & 0xF) * 4
    family = "ip6" if packet[0] >> 4 == 6 else "ip"
    return Logged(family, line[1], line[2], int(line[3]), HOOKS[header[2]], _ends(packet, packet[length:]))


def _number(found: Attributes, kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), "big")


def _identity(network: bytes, transport: bytes) -> bytes:
    """Addresses, length, IPv4's identification, and the transport's first words (ports; sequence number or id)."""
    if network[:1] and network[0] >> 4 == 4:
        return network[2:6] + network[12:20] + transport[:8]
    return network[4:6] + network[8:40] + transport[:8]


def _ends(network: bytes, transport: bytes) -> Ends | None:
    """Extension headers of IPv6 are not looked through."""
    if len(network) >= 20 and network[0] >> 4 == 4:
        protocol, source, destination = network[9], network[12:16], network[16:20]
    elif len(network) >= 40 and network[0] >> 4 == 6:
        protocol, source, destination = network[6], network[8:24], network[24:40]
    else:
        return None
    family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
    ports = (0, 0)
    if protocol in _WITH_PORTS and len(transport) >= 4:
        ports = int.from_bytes(transport[:2], "big"), int.from_bytes(transport[2:4], "big")
    elif protocol in _ECHO and len(transport) >= 6:
        ports = int.from_bytes(transport[4:6], "big"), 0
    return Ends(protocol, socket.inet_ntop(family, source), ports[0], socket.inet_ntop(family, destination), ports[1])
