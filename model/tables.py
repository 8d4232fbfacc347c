"""Facts of the kernel's tables of flows: IPVS, connection tracking, and the counters of the network stack.

Parts of `model.facts.Facts`; they cross the wire in it and nowhere else.
"""

from __future__ import annotations

import msgspec


class IpvsServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A real server of an IPVS service. `forwarding` is masquerade, local, tunnel, route or bypass.

    `weight` 0 takes no new connection. Counters since the service was made or they were zeroed.
    """

    address: str
    port: int
    forwarding: str = "masquerade"
    weight: int = 1
    active: int = 0
    inactive: int = 0
    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class IpvsService(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A virtual service of IPVS, by address, protocol and port, or by `mark` (then these are empty and 0).

    `persistent_s` is how long a client stays with its server, 0 if it does not.
    """

    family: int
    address: str = ""
    protocol: str = ""
    port: int = 0
    mark: int = 0
    scheduler: str = ""
    persistent_s: int = 0
    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    servers: tuple[IpvsServer, ...] = ()


class ConntrackQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which tracked connections: what is empty or 0 is anything. `reply` compares with the reply's tuple instead.

    At most `limit` of them are told, and never more than 1000.
    """

    family: int = 4
    protocol: str = ""
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0
    reply: bool = False
    limit: int = 100


class ConntrackTuple(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One direction of a tracked connection. For icmp and icmpv6 both ports are the echo identifier."""

    source: str
    destination: str
    protocol: str
    source_port: int = 0
    destination_port: int = 0
    packets: int = 0
    bytes: int = 0


class ConntrackEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tracked connection: the tuple that began it, and the one that its replies carry (translations seen there).

    `status` has the kernel's words (assured, seen_reply, snat, dnat, dying, offload), and unreplied. `state` is TCP's,
    "" for other protocols. Packets are 0 where net.netfilter.nf_conntrack_acct is off.
    """

    original: ConntrackTuple
    reply: ConntrackTuple
    status: tuple[str, ...] = ()
    state: str = ""
    timeout_s: int = 0
    mark: int = 0
    zone: int = 0


class ConntrackEntries(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a `ConntrackQuery`; `more` if the limit cut it off."""

    query: ConntrackQuery
    entries: tuple[ConntrackEntry, ...] = ()
    more: bool = False


class Conntrack(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How full connection tracking is in this namespace, and what went wrong, all processors together.

    `statistics` has found, invalid, insert, insert_failed, drop, early_drop, error, search_restart, clash_resolve and
    chaintoolong, of those that the kernel tells.
    """

    count: int
    maximum: int
    statistics: dict[str, int] = {}


class Softnet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One processor's line of /proc/net/softnet_stat. It counts for all namespaces of the machine together."""

    cpu: int
    processed: int
    dropped: int = 0
    time_squeeze: int = 0


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of the namespace's protocols, "Ip.InHdrErrors" from snmp and netstat, "Ip6InDiscards" from snmp6.

    Those that are 0 are left out.
    """

    protocols: dict[str, int]
    softnet: tuple[Softnet, ...] = ()
