"""The table that marks a flow's packets for nftrace, and says at the ends of every hook how far they came.

Pure: it builds messages. The first chain of prerouting and output marks; the other chains are empty, at the first and
at the last priority of each hook, and accept: since the packet is marked, the kernel tells of each that it came there.
Sources: linux/netfilter/nf_tables.h, net/netfilter/nf_tables_trace.c (a marked packet is told of by iptables-legacy,
too: net/ipv4/netfilter/ip_tables.c, trace_packet).
"""

from __future__ import annotations

import socket
from typing import Final

from agent.host.netfilter.packet import PROTOCOL_NUMBERS
from agent.host.netlink import attribute, attributes
from agent.host.ruletrace.nfnetlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NUMBERS,
    Received,
    Request,
    name,
    nested,
    number,
    pairs,
)
from model.netfilter import TracedFlow

NEW_TABLE: Final = 0
NEW_CHAIN: Final = 3
NEW_RULE: Final = 6
GET_RULE: Final = 7
INET: Final = NUMBERS["inet"]
HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting")
MARKING: Final = ("prerouting", "output")
# Behind br_netfilter's own hook, which keeps what came over a bridge from passing prerouting twice.
FIRST: Final = -(1 << 31) + 1
LAST: Final = (1 << 31) - 1
PER_SECOND: Final = 200
WEEK_S: Final = 7 * 24 * 3600
MOST: Final = 1000

_REGISTER: Final = 1
_META_TRACE: Final = 12
_META_FAMILY: Final = 15
_META_PROTOCOL: Final = 16
_NETWORK: Final = 1
_TRANSPORT: Final = 2
_DESTINATION_PORT_AT: Final = 2


def make(table: str, flows: tuple[TracedFlow, ...], packets: int) -> list[Request]:
    """The transaction that makes the table. Raises ValueError.

    It is not a table with an owner, which would go with the socket: as long as such a table is there, `nft -j list
    ruleset` of nft 1.0.6 breaks off in the middle, ours and everybody's.
    """
    created = NLM_F_CREATE | NLM_F_EXCL
    requests = [Request(NEW_TABLE, created, INET, name(1, table))]
    for at, hook in enumerate(HOOKS):
        for end, priority in (("first", FIRST), ("last", LAST)):
            place = nested(4, number(1, at), number(2, priority))
            body = name(1, table) + name(3, f"{end}_{hook}") + place + number(5, 1) + name(7, "filter")
            requests.append(Request(NEW_CHAIN, created, INET, body))
    for hook in MARKING:
        for flow in flows:
            body = name(1, table) + name(2, f"first_{hook}") + nested(4, *_marking(flow, packets))
            requests.append(Request(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, INET, body))
    return requests


def unmark(table: str) -> list[Request]:
    """The transaction that lets new packets pass unmarked, while those that are under way are told of to their end."""
    verdict = _expression("immediate", number(1, 0), nested(2, nested(2, number(1, 1))))
    return [
        Request(NEW_RULE, NLM_F_CREATE, INET, name(1, table) + name(2, f"first_{hook}") + nested(4, verdict))
        for hook in MARKING
    ]


def rules_of(table: str) -> Request:
    """Asks for the marking rules."""
    return Request(GET_RULE, 0, INET, name(1, table))


def counted(rules: list[Received]) -> int:
    """Packets of the flows that came here, from the marking rules' counters."""
    total = 0
    for rule in rules:
        for _, expression in pairs(attributes(rule.body).get(4, b"")):
            inner = attributes(expression)
            if inner.get(1, b"").rstrip(b"\0") == b"counter":
                total += int.from_bytes(attributes(inner.get(2, b"")).get(2, b""), "big")
    return total


def _marking(flow: TracedFlow, packets: int) -> list[bytes]:
    """Matches, the counter, both limits, `meta nftrace set 1`."""
    if not 0 < packets <= MOST:
        raise ValueError(f"rule trace: {packets} packets is not between 1 and {MOST}")
    if flow.protocol not in {"tcp", "udp", "sctp", "icmp", "icmpv6"} or flow.family not in {4, 6}:
        raise ValueError(f"rule trace: unknown protocol {flow.protocol!r} or family {flow.family}")
    matches = [
        _meta(_META_FAMILY),
        _equals(bytes([NUMBERS["ip" if flow.family == 4 else "ip6"]])),
        _meta(_META_PROTOCOL),
        _equals(bytes([PROTOCOL_NUMBERS[flow.protocol]])),
    ]
    size, source_at, destination_at = (4, 12, 16) if flow.family == 4 else (16, 8, 24)
    for address, offset in ((flow.source, source_at), (flow.destination, destination_at)):
        if address:
            matches += [_load(_NETWORK, offset, size), _equals(_packed(flow.family, address))]
    is_echo = flow.protocol.startswith("icmp")
    for port, offset in ((flow.source_port, 4 if is_echo else 0), (flow.destination_port, 2)):
        if port and not (is_echo and offset == _DESTINATION_PORT_AT):
            matches += [_load(_TRANSPORT, offset, 2), _equals(port.to_bytes(2, "big"))]
    return [
        *matches,
        _expression("counter"),
        # Never more than the burst, since the next token comes in a week; and not more in a second than one can read.
        _expression("limit", number(1, 1, 8), number(2, WEEK_S, 8), number(3, packets), number(4, 0)),
        _expression("limit", number(1, PER_SECOND, 8), number(2, 1, 8), number(3, PER_SECOND), number(4, 0)),
        _expression("immediate", number(1, _REGISTER), nested(2, attribute(1, b"\x01"))),
        _expression("meta", number(2, _META_TRACE), number(3, _REGISTER)),
    ]


def _expression(kind: str, *parts: bytes) -> bytes:
    return nested(1, name(1, kind), nested(2, *parts))


def _meta(key: int) -> bytes:
    return _expression("meta", number(1, _REGISTER), number(2, key))


def _load(base: int, offset: int, size: int) -> bytes:
    return _expression("payload", number(1, _REGISTER), number(2, base), number(3, offset), number(4, size))


def _equals(value: bytes) -> bytes:
    return _expression("cmp", number(1, _REGISTER), number(2, 0), nested(3, attribute(1, value)))


def _packed(family: int, address: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, address)
    except OSError:
        raise ValueError(f"rule trace: not an address: {address!r}") from None
