"""Facts: what an agent reads of a host's, or a pod's, network namespace when it is asked.

Every subject is a typed value; one that could not be read stands in `Facts.errors` with the reason, and is None in its
own field, so that "there is none" and "could not look" never mix. Reading is the agent's work, judging the
controller's,
but for the packet walk: only its answer travels, since a node may hold 20,000 rules.
"""

from __future__ import annotations

import msgspec

from model.netfilter import RuleRef, RuleTrace, RuleTraceQuery
from model.probes import Vantage
from model.tables import Conntrack, ConntrackEntries, ConntrackQuery, Counters, IpvsService


class Vxlan(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes of a VXLAN device (IFLA_VXLAN_*)."""

    vni: int
    port: int
    local: str = ""
    local6: str = ""
    device: str = ""
    learning: bool = False


class Link(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A network device. `up` is IFF_UP (the administrator's will), `carrier` is IFF_LOWER_UP (the wire's state)."""

    index: int
    name: str
    kind: str = ""
    up: bool = False
    carrier: bool = False
    operstate: str = ""
    mtu: int = 0
    mac: str = ""
    master: str = ""
    peer_index: int = 0
    peer_netnsid: int = -1
    vxlan: Vxlan | None = None
    hairpin: bool | None = None
    rx_packets: int = 0
    tx_packets: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    rx_errors: int = 0
    tx_errors: int = 0


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An address on a device."""

    device: str
    address: str
    prefix_length: int
    family: int
    scope: str = "global"


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A route. `destination` is a CIDR ("0.0.0.0/0" for the default); `type` as iproute2 names it (unicast,
    blackhole…).
    """

    family: int
    destination: str
    type: str = "unicast"
    gateway: str = ""
    device: str = ""
    table: int = 254
    protocol: int = 0
    metric: int = 0
    source: str = ""
    onlink: bool = False
    scope: str = ""


class PolicyRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of `ip rule`.

    `suppressed` is the prefix length up to which routes of the table do not count (-1: none). `unread` are conditions
    that are not read (ports, users, tunnels, …), by their numbers in linux/fib_rules.h, and 0 for the type of service:
    whether such a rule matches is not known.
    """

    family: int
    priority: int
    source: str = ""
    destination: str = ""
    incoming: str = ""
    outgoing: str = ""
    mark: int = 0
    mask: int = 0
    table: int = 0
    action: str = "to_table"
    inverted: bool = False
    suppressed: int = -1
    unread: tuple[int, ...] = ()


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ARP or ND table; `state` is NUD_* in lower case (reachable, failed, permanent, …)."""

    family: int
    address: str
    device: str
    mac: str = ""
    state: str = ""


class FdbEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A forwarding entry of a bridge or VXLAN device; `destination` is the remote tunnel end."""

    mac: str
    device: str
    destination: str = ""
    state: str = ""


class RouteQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question to the kernel: where would this packet go (RTM_GETROUTE)? `incoming` asks as for a forwarded one.

    `incoming` (here and in `Packet`) is a device, or "@ADDRESS": the device through which this host reaches ADDRESS,
    which the asker on another host need not know. Where no route leads there, the query is answered as if it had none.
    """

    destination: str
    source: str = ""
    incoming: str = ""
    mark: int = 0


class RouteAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The kernel's answer.

    `errno` is a finding: 113 forwarding off, 101 no route, 13 prohibit, 22 rp_filter or blackhole. `incoming` is the
    device that the query's "@ADDRESS" meant. `matched` is the prefix of the route that answered (RTM_F_FIB_MATCH), ""
    if unknown.
    """

    query: RouteQuery
    incoming: str = ""
    errno: int = 0
    type: str = ""
    device: str = ""
    gateway: str = ""
    source: str = ""
    table: int = 0
    matched: str = ""


class Packet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A packet to walk through a host's rules. `incoming` empty: sent by a local process; `outgoing` empty: for this
    host.

    `protocol` is tcp, udp, icmp or icmpv6; `state` the conntrack state it would have (new, established, …).
    `incoming` may be "@ADDRESS", as in `RouteQuery`; `outgoing` empty is found out by asking the kernel for the route.
    """

    family: int
    source: str
    destination: str
    protocol: str
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 8
    incoming: str = ""
    outgoing: str = ""
    bridge_port: str = ""
    state: str = "new"
    mark: int = 0


class WalkStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule that the packet meets and matches, and what it does (accept, drop, reject, dnat, snat, masquerade, mark,
    …).
    """

    hook: str
    rule: RuleRef
    verdict: str
    detail: str = ""


class Walk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a packet would meet on this host.

    `verdict`: accept, drop, reject or unsure. drop and reject name the deciding rule in `decided_by`. unsure names in
    `unsure` the matches that could not be judged. `packet` is the packet as it leaves, translations done; where chance
    or something unknown decides (a Service with several endpoints), `alternatives` has every packet that may leave, and
    the verdict holds for all of them. Where the routing decision ends the packet, `decided_by` has the backend "route".
    """

    asked: Packet
    verdict: str
    packet: Packet
    decided_by: RuleRef | None = None
    steps: tuple[WalkStep, ...] = ()
    unsure: tuple[str, ...] = ()
    alternatives: tuple[Packet, ...] = ()


class Dropper(msgspec.Struct, frozen=True, kw_only=True):
    """A rule (or chain policy) that drops or rejects and may match the packet; `packets` counted at the time of
    reading.

    `matches` is yes when every match of the rule holds for the packet, unsure where one could not be judged.
    """

    rule: RuleRef
    verdict: str
    matches: str
    asked: Packet


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """A listening (TCP) or bound (UDP) socket; `address` "0.0.0.0" or "::" is any."""

    protocol: str
    family: int
    address: str
    port: int


class Resolver(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class CniFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file in the CNI configuration folder, in the order in which the runtime looks at them."""

    path: str
    name: str = ""
    types: tuple[str, ...] = ()
    missing_types: tuple[str, ...] = ()
    error: str = ""


class Resolution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who answered an ARP request or neighbour solicitation sent just now (RFC 826, RFC 4861), past the kernel's cache.

    `macs` is empty if nobody answered, and has several if several hosts claim the address. `device` is empty, and
    `error` says so, where the address is not on a link of this host.
    """

    address: str
    device: str = ""
    macs: tuple[str, ...] = ()
    error: str = ""


class FactsOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which facts, of which namespace. `subjects` are field names of `Facts`; the queries are answered in addition.

    `known` has the digest of what the asker has of a subject: if it is the same still, the subject is not sent again.
    """

    vantage: Vantage
    subjects: tuple[str, ...] = ()
    known: dict[str, str] = {}
    routes_asked: tuple[RouteQuery, ...] = ()
    walks_asked: tuple[Packet, ...] = ()
    droppers_asked: tuple[Packet, ...] = ()
    resolve_asked: tuple[str, ...] = ()
    conntrack_asked: tuple[ConntrackQuery, ...] = ()
    rule_trace_asked: RuleTraceQuery | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a `FactsOrder`: fields that were not asked for are None, and those whose digest is `known`.

    `digests` are told of the subjects for which the order has one in `known` ("" asks for it).
    """

    at_ms: int = 0
    links: tuple[Link, ...] | None = None
    addresses: tuple[Address, ...] | None = None
    routes: tuple[Route, ...] | None = None
    rules: tuple[PolicyRule, ...] | None = None
    neighbours: tuple[Neighbour, ...] | None = None
    fdb: tuple[FdbEntry, ...] | None = None
    sysctls: dict[str, str] | None = None
    sockets: tuple[Socket, ...] | None = None
    resolver: Resolver | None = None
    cni: tuple[CniFile, ...] | None = None
    ipvs: tuple[IpvsService, ...] | None = None
    conntrack: Conntrack | None = None
    conntrack_entries: tuple[ConntrackEntries, ...] | None = None
    counters: Counters | None = None
    route_answers: tuple[RouteAnswer, ...] | None = None
    walks: tuple[Walk, ...] | None = None
    droppers: tuple[Dropper, ...] | None = None
    resolved: tuple[Resolution, ...] | None = None
    rule_trace: RuleTrace | None = None
    digests: dict[str, str] = {}
    errors: dict[str, str] = {}
