"""Connection tracking: how full it is, what went wrong, and the entries that a query asks for (ctnetlink).

The kernel filters a dump by itself (since Linux 5.8); what comes is compared again here, for older ones. Nothing is
asked where connections are not tracked, since the question would load the module. Sources: linux/netfilter/
nfnetlink_conntrack.h, nf_conntrack_common.h, nf_conntrack_tcp.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.host.netlink import Message, Netlink, address, attribute, attributes, big
from model.tables import Conntrack, ConntrackEntries, ConntrackEntry, ConntrackQuery, ConntrackTuple

SYSCTLS: Final = Path("/proc/sys/net/netfilter")
NETLINK_NETFILTER: Final = 12
CT_GET, CT_GET_STATS_CPU = 1 << 8 | 1, 1 << 8 | 4
CTA_ORIGINAL, CTA_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_TIMEOUT, CTA_MARK = 1, 2, 3, 4, 7, 8
CTA_COUNTERS_ORIGINAL, CTA_COUNTERS_REPLY, CTA_ZONE, CTA_FILTER = 9, 10, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_IP_SRC, CTA_IP_DST, CTA_IP6_SRC, CTA_IP6_DST = 1, 2, 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID = 1, 2, 3, 4, 7
CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE = 1, 1
F_IP_SRC, F_IP_DST, F_NUMBER, F_SRC_PORT, F_DST_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5
NLA_F_NESTED: Final = 0x8000
MOST: Final = 1000
NUMBERS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "icmpv6": 58, "sctp": 132}
NAMES: Final = {number: name for name, number in NUMBERS.items()}
STATUS: Final = (
    "expected", "seen_reply", "assured", "confirmed", "snat", "dnat", "seq_adjust", "snat_done", "dnat_done", "dying",
    "fixed_timeout", "template", "untracked", "helper", "offload", "hw_offload",
)  # fmt: skip
TOLD: Final = {"seen_reply", "assured", "snat", "dnat", "dying", "offload", "hw_offload"}
TCP_STATES: Final = (
    "none", "syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close",
    "syn_sent2",
)  # fmt: skip
STATISTICS: Final = {
    2: "found", 4: "invalid", 8: "insert", 9: "insert_failed", 10: "drop", 11: "early_drop", 12: "error",
    13: "search_restart", 14: "clash_resolve", 15: "chaintoolong",
}  # fmt: skip
_HEADER: Final = struct.Struct("=BBH")


class NotTrackedError(Exception):
    """This kernel tracks no connections."""


def read(sysctls: Path = SYSCTLS) -> Conntrack:
    """Count, maximum and statistics. Raises NotTrackedError, OSError."""
    try:
        count, maximum = (int((sysctls / f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))
    except FileNotFoundError:
        raise NotTrackedError("connection tracking is not loaded in this kernel") from None
    statistics: dict[str, int] = {}
    with Netlink(NETLINK_NETFILTER) as netlink:
        for one in netlink.dump(CT_GET_STATS_CPU, _HEADER.pack(socket.AF_UNSPEC, 0, 0)):
            for number, name in STATISTICS.items():
                if number in one.attributes:
                    statistics[name] = statistics.get(name, 0) + big(one.attributes[number])
    return Conntrack(count=count, maximum=maximum, statistics=statistics)


def entries(queries: Iterable[ConntrackQuery], sysctls: Path = SYSCTLS) -> tuple[ConntrackEntries, ...]:
    """The entries of each query. Raises NotTrackedError, OSError, ValueError for a query that names no address."""
    if not (sysctls / "nf_conntrack_count").exists():
        raise NotTrackedError("connection tracking is not loaded in this kernel")
    return tuple(_answer(query) for query in queries)


def _answer(query: ConntrackQuery) -> ConntrackEntries:
    limit = max(0, min(query.limit, MOST))
    family = socket.AF_INET if query.family == 4 else socket.AF_INET6
    found: list[ConntrackEntry] = []
    # A socket for each, since a dump that is left early goes on in its socket.
    with Netlink(NETLINK_NETFILTER) as netlink:
        for message in netlink.scan(CT_GET, _HEADER.pack(family, 0, 0), *_filter(query, family)):
            entry = _entry(message)
            if not _matches(query, entry.reply if query.reply else entry.original):
                continue
            if len(found) == limit:
                return ConntrackEntries(query=query, entries=tuple(found), more=True)
            found.append(entry)
    return ConntrackEntries(query=query, entries=tuple(found))


def _filter(query: ConntrackQuery, family: int) -> list[bytes]:
    """The kernel's filter: a tuple, and which of its parts count."""
    flags, ends, protocol = 0, b"", b""
    for text, flag, kind in ((query.source, F_IP_SRC, CTA_IP_SRC), (query.destination, F_IP_DST, CTA_IP_DST)):
        packed = _packed(family, text) if text else b""
        # IPv6 addresses are not left to the kernel: ctnetlink_filter_match_tuple() drops those that are equal.
        if packed and family == socket.AF_INET:
            flags |= flag
            ends += attribute(kind, packed)
    if query.protocol:
        flags |= F_NUMBER
        protocol += attribute(CTA_PROTO_NUM, bytes([_number(query.protocol)]))
        if query.protocol not in {"icmp", "icmpv6"}:
            for port, flag, kind in (
                (query.source_port, F_SRC_PORT, CTA_PROTO_SRC_PORT),
                (query.destination_port, F_DST_PORT, CTA_PROTO_DST_PORT),
            ):
                if port:
                    flags |= flag
                    protocol += attribute(kind, port.to_bytes(2, "big"))
    if not flags:
        return []
    inner = attribute(CTA_TUPLE_IP | NLA_F_NESTED, ends) if ends else b""
    inner += attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, protocol) if protocol else b""
    which = struct.pack("=I", flags)
    return [
        attribute((CTA_REPLY if query.reply else CTA_ORIGINAL) | NLA_F_NESTED, inner),
        attribute(CTA_FILTER | NLA_F_NESTED, attribute(2 if query.reply else 1, which)),
    ]


def _matches(query: ConntrackQuery, found: ConntrackTuple) -> bool:
    pairs = (
        (query.protocol, found.protocol),
        (query.source_port, found.source_port),
        (query.destination_port, found.destination_port),
    )
    ends = ((query.source, found.source), (query.destination, found.destination))
    return all(not wanted or wanted == has for wanted, has in pairs) and all(
        not wanted or _packed(_family_of(wanted), wanted) == _packed(_family_of(has), has) for wanted, has in ends
    )


def _entry(message: Message) -> ConntrackEntry:
    found = message.attributes
    status = big(found.get(CTA_STATUS))
    words = {word for at, word in enumerate(STATUS) if status >> at & 1} & TOLD
    if "seen_reply" not in words:
        words.add("unreplied")
    tcp = attributes(attributes(found.get(CTA_PROTOINFO, b"")).get(CTA_PROTOINFO_TCP, b""))
    state = tcp.get(CTA_PROTOINFO_TCP_STATE, b"\xff")[0]
    return ConntrackEntry(
        original=_tuple(found.get(CTA_ORIGINAL), found.get(CTA_COUNTERS_ORIGINAL)),
        reply=_tuple(found.get(CTA_REPLY), found.get(CTA_COUNTERS_REPLY)),
        status=tuple(sorted(words)),
        state=TCP_STATES[state] if state < len(TCP_STATES) else "",
        timeout_s=big(found.get(CTA_TIMEOUT)),
        mark=big(found.get(CTA_MARK)),
        zone=big(found.get(CTA_ZONE)),
    )


def _tuple(data: bytes | None, counters: bytes | None) -> ConntrackTuple:
    found = attributes(data or b"")
    ends, protocol, counted = (
        attributes(one or b"") for one in (found.get(CTA_TUPLE_IP), found.get(CTA_TUPLE_PROTO), counters)
    )
    number = protocol.get(CTA_PROTO_NUM, b"\0")[0]
    identifier = protocol.get(CTA_PROTO_ICMP_ID) or protocol.get(CTA_PROTO_ICMPV6_ID)
    return ConntrackTuple(
        source=address(ends.get(CTA_IP_SRC) or ends.get(CTA_IP6_SRC)),
        destination=address(ends.get(CTA_IP_DST) or ends.get(CTA_IP6_DST)),
        protocol=NAMES.get(number, str(number)),
        source_port=big(identifier or protocol.get(CTA_PROTO_SRC_PORT)),
        destination_port=big(identifier or protocol.get(CTA_PROTO_DST_PORT)),
        packets=big(counted.get(1)),
        bytes=big(counted.get(2)),
    )


def _number(protocol: str) -> int:
    if protocol not in NUMBERS:
        raise ValueError(f"conntrack: unknown protocol {protocol!r}")
    return NUMBERS[protocol]


def _family_of(text: str) -> int:
    return socket.AF_INET6 if ":" in text else socket.AF_INET


def _packed(family: int, text: str) -> bytes:
    try:
        return socket.inet_pton(family, text)
    except OSError:
        raise ValueError(f"conntrack: not an address of the family: {text!r}") from None
