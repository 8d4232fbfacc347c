"""A case: one failing flow, and everything that was found out about it. Causes read it; they ask nobody.

The flow is concrete: it runs between two addresses, after any Service was resolved to one of its backends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from controller.cluster.state import ClusterState, Pod, Service, ServicePort
from controller.diagnosis.trace import Trace
from controller.matrix.paths import PathStatus
from controller.plan.paths import Path
from controller.policy import PolicyModel
from model.facts import Dropper, Facts, Link, Packet, Route, RouteAnswer, Walk
from model.netfilter import RuleRef, RuleTrace
from model.probes import ProbeResult, Vantage
from model.words import CellState, Method, Network, Outcome

Site = tuple[str, str]
"""A network namespace of the cluster: node name, and pod UID ("" for the node's own)."""

MAIN = 254
"""The main routing table (RT_TABLE_MAIN)."""

THROWN = {"blackhole": (22, "EINVAL"), "unreachable": (113, "EHOSTUNREACH"), "prohibit": (13, "EACCES")}
"""What the kernel answers for a type of route that throws packets away (fib_props in net/ipv4/fib_semantics.c)."""

REPLY_PORT = 40000
"""Stands for the client's source port where a packet of the way back is asked about."""


@dataclass(frozen=True, slots=True)
class Place:
    """An end of a flow. `node` is "" outside of the cluster, `pod` None for a host or the outside."""

    address: str
    node: str = ""
    vantage: Vantage = field(default_factory=Vantage)
    pod: Pod | None = None

    @property
    def whose(self) -> str:
        """For what goes there: the pods of a node, a node, or an address."""
        return f"pods of {self.node}" if self.pod is not None else self.node or self.address

    @property
    def site(self) -> Site:
        """The network namespace in which it lies."""
        return (self.node, self.vantage.pod_uid)


@dataclass(frozen=True, slots=True)
class Flow:
    """Packets from one place to another, and what they ask for."""

    source: Place
    destination: Place
    method: Method
    family: int
    port: int = 0
    name: str = ""
    record: str = ""
    over_tcp: bool = False
    service: Service | None = None
    service_port: ServicePort | None = None
    virtual_address: str = ""

    @property
    def protocol(self) -> str:
        """The IP protocol that the packets have: tcp, udp, icmp or icmpv6."""
        if self.method in {Method.TCP, Method.HTTP} or self.over_tcp:
            return "tcp"
        if self.method is Method.ICMP:
            return "icmp" if self.family == 4 else "icmpv6"
        return "udp"

    @property
    def network(self) -> Network:
        """The pods' network if either end is a pod that is not on the host network."""
        return Network.POD if self.source.pod is not None or self.destination.pod is not None else Network.HOST

    @property
    def crosses(self) -> bool:
        """Whether it runs from one node of the cluster to another."""
        return bool(self.source.node and self.destination.node) and self.source.node != self.destination.node

    @property
    def nodes(self) -> tuple[str, ...]:
        """The cluster's nodes at its ends, without doubles."""
        return tuple(dict.fromkeys(n for n in (self.source.node, self.destination.node) if n))

    def ways(self) -> Iterator[tuple[str, Place, Place, bool]]:
        """Yield for every node and direction: node, from where, to where, whether it is the way back."""
        for node in self.nodes:
            yield node, self.source, self.destination, False
            yield node, self.destination, self.source, True


@dataclass(frozen=True, slots=True)
class Case:
    """A flow and what is known of it.

    `facts` were read before the burst and `after` behind it; `silent` says of a node why nothing could be asked;
    `witnesses` are facts of hosts beside the flow (who answers ARP); `replicas` are probes of each DNS pod from its
    own node's host; `hosts` what host-to-host probes between the flow's nodes gave, by method; `trace` where marked
    packets were seen; `told` what the kernel of a node said of its rules then; `uplinks` the device of each node's
    address, as its agent last told. `policy` is what policies say; `passes`: the flow gets through although they
    forbid it, and that is what is to be explained; then `tried` are other forbidden paths, by id, as tried just now,
    and it is `over` if the flow itself got through no more after them. `at` is the wall clock's time in seconds.
    """

    flow: Flow
    cluster: ClusterState
    paths: Mapping[str, Path]
    statuses: Mapping[str, PathStatus]
    facts: Mapping[Site, Facts] = field(default_factory=dict)
    after: Mapping[Site, Facts] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    witnesses: Mapping[str, Facts] = field(default_factory=dict)
    replicas: Mapping[str, ProbeResult] = field(default_factory=dict)
    uplinks: Mapping[str, str] = field(default_factory=dict)
    burst: ProbeResult | None = None
    trace: Trace | None = None
    told: Mapping[str, RuleTrace] = field(default_factory=dict)
    hosts: Mapping[Method, Outcome] = field(default_factory=dict)
    policy: PolicyModel | None = None
    passes: bool = False
    tried: Mapping[str, Outcome] = field(default_factory=dict)
    over: bool = False
    at: float = 0.0

    def host(self, node: str) -> Facts | None:
        """The host facts of a node, None if it could not be asked."""
        return self.facts.get((node, ""))

    def link(self, node: str, name: str) -> Link | None:
        """A device of a node's host namespace."""
        facts = self.host(node)
        return next((link for link in (facts.links or ()) if link.name == name), None) if facts else None

    def cable(self, place: Place) -> tuple[Link, Link] | None:
        """A pod's own device and its other end on the host, where both are known."""
        facts, host = self.facts.get(place.site), self.host(place.node)
        if place.pod is None or facts is None or host is None:
            return None
        ends = ((own, far) for own in facts.links or () for far in host.links or () if _are_ends(own, far))
        return next(ends, None)

    def plugged_into(self, place: Place) -> Link | None:
        """The bridge that holds the host's end of a pod's cable; None where it has none."""
        cable = self.cable(place)
        master = self.link(place.node, cable[1].master) if cable is not None and cable[1].master else None
        return master if master is not None and master.kind == "bridge" else None

    def bridge_of_pods(self, place: Place) -> Link | None:
        """The bridge of the node that holds the address by which a pod leaves its subnet; None without such a one."""
        facts, host = self.facts.get(place.site), self.host(place.node)
        if place.pod is None or facts is None or host is None:
            return None
        gateways = {route.gateway for route in facts.routes or () if route.gateway}
        holding = {a.device for a in host.addresses or () if a.address in gateways}
        return next((k for k in host.links or () if k.kind == "bridge" and k.name in holding), None)

    def sysctl(self, node: str, key: str) -> str | None:
        """A sysctl of a node's host namespace, by its dotted name."""
        facts = self.host(node)
        return facts.sysctls.get(key) if facts and facts.sysctls is not None else None

    def route_answer(self, node: str, source: Place, destination: Place) -> RouteAnswer | None:
        """What the kernel of `node` said about a packet from `source` to `destination`."""
        asked = [a for a in self._answers(node) if a.query.destination == destination.address]
        exact = [a for a in asked if a.query.source == source.address]
        return next(iter((*exact, *(a for a in asked if not a.query.source))), None)

    def own_route(self, node: str, destination: Place) -> RouteAnswer | None:
        """What the kernel of `node` said about a packet of its own to that end."""
        for answer in self._answers(node):
            query = answer.query
            if (query.destination, query.source, query.incoming) == (destination.address, "", ""):
                return answer
        return None

    def _answers(self, node: str) -> tuple[RouteAnswer, ...]:
        """What the kernel was asked last stands first: then it is known by which devices packets come in."""
        known = (self.after.get((node, "")), self.host(node))
        return tuple(answer for facts in known if facts is not None for answer in facts.route_answers or ())

    def arrived(self, node: str, *, reply: bool) -> str:
        """The device by which a node's host took the traced packets in, "" if nothing was traced there."""
        told = self.trace.told.get(node) if self.trace is not None else None
        if self.trace is None or told is None:
            return ""
        host, way = self.trace.watched[node].index(Vantage()), "reply" if reply else "request"
        came = [s for s in told.seen if (s.vantage, s.way, s.direction, s.outer) == (host, way, "in", "")]
        return next((s.device for s in reversed(came) if s.device != "socket"), "")

    def best_route(self, node: str, address: str, table: int = MAIN) -> Route | None:
        """The most specific route of a table that covers an address; a default route counts."""
        facts = self.host(node)
        if facts is None:
            return None
        covering = [r for r in facts.routes or () if r.table == table and address in Prefix(r.destination)]
        return max(covering, key=lambda r: (Prefix(r.destination).length, -r.metric), default=None)

    def moved(self, site: Site) -> Iterator[tuple[Dropper, int, int]]:
        """Yield the dropping rules of a namespace that may match the flow, with their counters before and after."""
        before, after = self.facts.get(site), self.after.get(site)
        if before is None or after is None:
            return
        was = {_identity(d.rule): d.rule.packets for d in before.droppers or ()}
        seen: set[tuple[object, ...]] = set()
        for dropper in after.droppers or ():
            identity = _identity(dropper.rule)
            if identity not in seen:
                seen.add(identity)
                yield dropper, was.get(identity, 0), dropper.rule.packets

    def walks(self, site: Site) -> tuple[Walk, ...]:
        """The packet walks of a namespace."""
        facts = self.facts.get(site)
        return facts.walks or () if facts else ()

    def pod_cidr_of(self, node: str, address: str) -> str:
        """The pod CIDR of a node in which an address lies, "" if in none."""
        found = self.cluster.nodes.get(node)
        return next((cidr for cidr in found.pod_cidrs if address in Prefix(cidr)), "") if found else ""

    def node_address(self, node: str, family: int) -> str:
        """The address of a node in one family, "" if it has none."""
        found = self.cluster.nodes.get(node)
        return next((a for a in found.addresses if ip_address(a).version == family), "") if found else ""

    def paths_between(self, one: str, other: str, network: Network | None = None) -> Iterator[tuple[Path, PathStatus]]:
        """Yield the paths between two nodes, either way, that have a fresh state."""
        for path, status in self.sampled():
            ends = {path.source_node, *path.destination_nodes}
            if ends == {one, other} and (network is None or path.network is network):
                yield path, status

    def sampled(self) -> Iterator[tuple[Path, PathStatus]]:
        """Yield every path that has been measured lately, with its state, but for those that policy forbids."""
        for path_id, path in self.paths.items():
            status = self.statuses.get(path_id)
            measured = status is not None and status.state in {CellState.OK, CellState.FAILING, CellState.DEGRADED}
            if status is not None and measured and path.expected.allowed is not False:
                yield path, status

    @property
    def burst_size(self) -> int:
        """How many packets of the burst were sent for certain and not answered."""
        if self.burst is None:
            return 0
        return sum(1 for a in self.burst.attempts if a.outcome not in {Outcome.OK, Outcome.NOT_MEASURED})


def _identity(rule: RuleRef) -> tuple[object, ...]:
    return (rule.backend, rule.family, rule.table, rule.chain, rule.position, rule.text)


def _are_ends(one: Link, other: Link) -> bool:
    veths = one.kind == other.kind == "veth"
    return veths and (one.peer_index, one.index) == (other.index, other.peer_index)


class Prefix:
    """A CIDR with membership by address text; "default" and "" are the whole family of whatever is asked."""

    __slots__ = ("network",)

    def __init__(self, text: str) -> None:
        self.network: IPv4Network | IPv6Network | None = (
            None if text in {"", "default"} else ip_network(text, strict=False)
        )

    @property
    def length(self) -> int:
        """The prefix length in bits."""
        return 0 if self.network is None else self.network.prefixlen

    def __contains__(self, address: object) -> bool:
        if self.network is None:
            return True
        return ip_address(str(address)) in self.network


def packets_of(flow: Flow, node: str) -> list[Packet]:
    """The packets of a flow as one of its nodes' hosts meets them: there and back.

    The incoming device is left to the host ("@ADDRESS": through which it reaches the sender), since only it knows.
    """
    return [
        _packet(flow, source, destination, reply=reply, local=source.node == node and source.pod is None)
        for where, source, destination, reply in flow.ways()
        if where == node
    ]


def packets_in_pod(flow: Flow, end: Place) -> list[Packet]:
    """The packets of a flow as the network namespace of the pod at one of its ends meets them: there and back."""
    ways = ((flow.source, flow.destination, False), (flow.destination, flow.source, True))
    return [_packet(flow, one, other, reply=reply, local=one == end) for one, other, reply in ways]


def _packet(flow: Flow, source: Place, destination: Place, *, reply: bool, local: bool) -> Packet:
    return Packet(
        family=flow.family,
        source=source.address,
        destination=destination.address,
        protocol=flow.protocol,
        source_port=flow.port if reply else REPLY_PORT,
        destination_port=REPLY_PORT if reply else flow.port,
        icmp_type=_icmp_type(flow, reply=reply),
        incoming="" if local else f"@{source.address}",
        state="established" if reply else "new",
    )


def reference_of(flow: Flow, cluster: ClusterState) -> tuple[Service, Packet] | None:
    """Another Service, as the flow's source would ask for it: whether the node translates any Service at all."""
    for service in (cluster.dns_service(), cluster.services.get("default/kubernetes")):
        if service is None or service is flow.service or flow.service is None or service.key == flow.service.key:
            continue
        virtual = next((a for a in service.cluster_ips if ip_address(a).version == flow.family), "")
        for port in service.ports if virtual else ():
            if any(b.ready and ip_address(b.address).version == flow.family for b in cluster.backends(service, port)):
                return service, asked_of(flow, virtual, port.protocol.lower(), port.port)
    return None


def asked_of(flow: Flow, address: str, protocol: str, port: int) -> Packet:
    """A first packet from the flow's source to an address, as the source's host meets it."""
    return Packet(
        family=flow.family,
        source=flow.source.address,
        destination=address,
        protocol=protocol,
        source_port=REPLY_PORT,
        destination_port=port,
        incoming="" if flow.source.pod is None else f"@{flow.source.address}",
        state="new",
    )


def _icmp_type(flow: Flow, *, reply: bool) -> int:
    if flow.family == 6:
        return 129 if reply else 128
    return 0 if reply else 8


def outer_packets_of(
    case_nodes: tuple[str, str], addresses: tuple[str, str], ports: tuple[int, ...], node: str
) -> list[Packet]:
    """The VXLAN packets that may carry a flow between two nodes, as `node` meets them (RFC 7348)."""
    here, there = addresses if case_nodes[0] == node else addresses[::-1]
    family = ip_address(here).version
    packets = []
    for port in ports:
        packets.append(
            Packet(
                family=family,
                source=here,
                destination=there,
                protocol="udp",
                source_port=REPLY_PORT,
                destination_port=port,
            )
        )
        packets.append(
            Packet(
                family=family,
                source=there,
                destination=here,
                protocol="udp",
                source_port=REPLY_PORT,
                destination_port=port,
                incoming=f"@{there}",
            )
        )
    return packets
