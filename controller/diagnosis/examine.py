"""Examines a failing flow: asks just the agents concerned, and only for what the causes that can apply need.

Rounds, each skipped where the one before was decisive: what the hosts are (facts, packet walks, counters before); a
burst of probes, and a trace beside it; the counters behind them. Decides nothing about causes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from controller.agents import AgentRegistry, OrderError
from controller.cluster.state import Pod
from controller.diagnosis.case import Case, Flow, Site, outer_packets_of, packets_in_pod, packets_of, reference_of
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.flows import Question, vantage_of
from controller.diagnosis.trace import Trace
from controller.diagnosis.tracing import Tracer, has_spoken
from model.clock import Clock
from model.facts import Facts, FactsOrder, Packet, RouteQuery
from model.probes import HOST_ECHO_PORT, ProbeOrder, ProbeResult, Vantage
from model.words import CellState, MatrixKind, Method, Network, Outcome

FACTS_S = 2.5
# An agent that goes on reporting is only slow: its node is busy.
SLOW_S = 6.0
QUIET_S = 1.2
BURST_COUNT = 5
BURST_INTERVAL_MS = 40
BURST_TIMEOUT_MS = 400
WITNESSES = 2
VXLAN_PORTS = (8472, 4789)
QUESTION = "kubernetes.default.svc.cluster.local."


@dataclass(slots=True)
class Answers:
    """What came back of a round of orders."""

    facts: dict[Site, Facts] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)


def first_orders(case: Case, causes: tuple[CauseType, ...]) -> dict[Site, FactsOrder]:
    """What to ask in the first round: host facts on the flow's nodes, and of the destination's pod."""
    flow = case.flow
    needs = frozenset[str]().union(*(c.needs for c in causes)) if causes else frozenset()
    orders: dict[Site, FactsOrder] = {}
    for node in flow.nodes:
        packets = (*packets_of(flow, node), *_outer(case, node))
        orders[node, ""] = FactsOrder(
            vantage=Vantage(),
            subjects=tuple(sorted(needs)),
            routes_asked=_route_queries(case, node),
            walks_asked=(*packets, *_reference(case, node)),
            droppers_asked=packets,
        )
    pod_needs = frozenset[str]().union(*(c.pod_needs for c in causes)) if causes else frozenset()
    for end in (flow.source, flow.destination):
        if pod_needs and end.pod is not None and end.node:
            orders[end.site] = FactsOrder(vantage=end.vantage, subjects=tuple(sorted(pod_needs)))
    return orders


def _outer(case: Case, node: str) -> tuple[Packet, ...]:
    flow = case.flow
    if not (flow.crosses and flow.network is Network.POD):
        return ()
    one, other = flow.source.node, flow.destination.node
    addresses = (case.node_address(one, 4), case.node_address(other, 4))
    if not all(addresses):
        addresses = (case.node_address(one, 6), case.node_address(other, 6))
    return tuple(outer_packets_of((one, other), addresses, VXLAN_PORTS, node)) if all(addresses) else ()


def _reference(case: Case, node: str) -> tuple[Packet, ...]:
    flow = case.flow
    found = reference_of(flow, case.cluster) if flow.virtual_address and node == flow.source.node else None
    return (found[1],) if found is not None else ()


def _route_queries(case: Case, node: str) -> tuple[RouteQuery, ...]:
    """Where the kernel would send the flow's packets, and whether it would take them from where they come in.

    Both ends are asked for as from the host itself, too: where there is a way to the destination, and the way to the
    source leads by another device, a refusal is one of the source (rp_filter).
    """
    flow, queries = case.flow, list[RouteQuery]()
    for where, source, destination, reply in flow.ways():
        if where != node or (destination.node == node and destination.pod is None):
            continue
        local = source.node == node and source.pod is None
        incoming = "" if local else case.arrived(node, reply=reply) or f"@{source.address}"
        queries.append(RouteQuery(destination=destination.address, source=source.address, incoming=incoming))
        if incoming:
            queries += (RouteQuery(destination=end.address) for end in (destination, source))
    return tuple(queries)


class Examiner:
    """Carries out the rounds. One object serves any number of examinations; each has its own case."""

    def __init__(self, agents: AgentRegistry, clock: Clock) -> None:
        self._agents = agents
        self._clock = clock
        self._tracer = Tracer(agents, clock)

    async def first(self, case: Case, causes: tuple[CauseType, ...]) -> Case:
        """Facts of the hosts and the destination's pod; of DNS replicas; and, for a silent node, of its neighbours."""
        quiet = [node for node in case.flow.nodes if not self._speaks(node) or _is_unreached(case, node)]
        answers, replicas, witnesses = await asyncio.gather(
            self._ask(first_orders(case, causes), QUIET_S if quiet else FACTS_S),
            self._replicas(case) if case.flow.method is Method.DNS else _nothing(),
            self._witnesses(case, quiet),
        )
        unexpected = [node for node in answers.silent if node not in quiet]
        witnesses = {**witnesses, **await self._witnesses(case, unexpected)}
        return replace(
            case,
            facts={**case.facts, **answers.facts, **{site: f for site, (f, _) in replicas.items() if f is not None}},
            silent={**case.silent, **answers.silent},
            replicas={site[1]: result for site, (_, result) in replicas.items()},
            witnesses=witnesses,
        )

    async def second(self, case: Case) -> Case:
        """A burst of probes from the flow's source, a trace beside it; then counters and routes again."""
        traced, burst, hosts = await asyncio.gather(self._trace(case), self._burst(case.flow), self._hosts(case))
        case = replace(case, burst=burst, hosts=hosts, trace=traced)
        orders = {
            site: FactsOrder(vantage=Vantage(), droppers_asked=order.droppers_asked, routes_asked=order.routes_asked)
            for site, order in first_orders(case, ()).items()
            if site[0] not in case.silent
        }
        for end in (case.flow.source, case.flow.destination):
            if end.pod is not None and end.node and end.node not in case.silent:
                packets = tuple(packets_in_pod(case.flow, end))
                orders[end.site] = FactsOrder(vantage=end.vantage, walks_asked=packets)
        return replace(case, after=(await self._ask(orders, FACTS_S)).facts)

    async def _trace(self, case: Case) -> Trace | None:
        if case.trace is not None or set(case.silent) & set(case.flow.nodes):
            return case.trace
        return await self._tracer.trace(Question(case.flow))

    async def _burst(self, flow: Flow) -> ProbeResult | None:
        if not flow.source.node:
            return None
        return await self._probe(
            flow.source.node,
            order_of(flow, count=BURST_COUNT, interval_ms=BURST_INTERVAL_MS, timeout_ms=BURST_TIMEOUT_MS),
        )

    async def _hosts(self, case: Case) -> dict[Method, Outcome]:
        """Each method between the two hosts: what still passes tells how much is blocked."""
        flow = case.flow
        there = case.node_address(flow.destination.node, flow.family) if flow.crosses else ""
        if not there:
            return {}

        def order(method: Method) -> ProbeOrder:
            port = 0 if method is Method.ICMP else HOST_ECHO_PORT
            return ProbeOrder(
                vantage=Vantage(),
                method=method,
                family=flow.family,
                address=there,
                port=port,
                count=2,
                interval_ms=BURST_INTERVAL_MS,
                timeout_ms=BURST_TIMEOUT_MS,
            )

        methods = (Method.UDP, Method.TCP, Method.ICMP)
        results = await asyncio.gather(*(self._probe(flow.source.node, order(m)) for m in methods))
        return {m: r.outcome for m, r in zip(methods, results, strict=True) if r.outcome is not Outcome.NOT_MEASURED}

    async def _probe(self, node: str, order: ProbeOrder) -> ProbeResult:
        limit_s = 2 + (order.count * order.interval_ms + order.timeout_ms) / 1000
        answer = await self._agents.probe(node, order, limit_s)
        return answer if isinstance(answer, ProbeResult) else ProbeResult(error=str(answer))

    async def _replicas(self, case: Case) -> dict[Site, tuple[Facts | None, ProbeResult]]:
        """Each DNS server asked from its own node's host, where no policy and no other host stands between."""
        pods = [p for p in case.cluster.dns_pods() if p.node and p.addresses and not p.host_network]

        async def ask(pod: Pod) -> tuple[Facts | None, ProbeResult]:
            address = next((a for a in pod.addresses if ip_address(a).version == case.flow.family), pod.addresses[0])
            order = ProbeOrder(
                vantage=Vantage(),
                method=Method.DNS,
                family=ip_address(address).version,
                address=address,
                port=53,
                count=2,
                interval_ms=50,
                timeout_ms=600,
                name=QUESTION,
                record="A",
                over_tcp=case.flow.over_tcp,
            )
            sockets = FactsOrder(vantage=vantage_of(pod), subjects=("sockets",))
            result, facts = await asyncio.gather(self._probe(pod.node, order), self._facts(pod.node, sockets, FACTS_S))
            if result.outcome is Outcome.NOT_MEASURED:
                # Whether all replicas are down or one hangs on each answer; a busy agent has another chance.
                result = await self._probe(pod.node, order)
            return (facts if isinstance(facts, Facts) else None), result

        results = await asyncio.gather(*(ask(p) for p in pods))
        return {(p.node, p.uid): r for p, r in zip(pods, results, strict=True)}

    async def _witnesses(self, case: Case, silent: Collection[str]) -> dict[str, Facts]:
        """Hosts on the same segment as a silent node, asked who answers ARP for its addresses."""
        found: dict[str, Facts] = {}
        for node in silent:
            addresses = case.cluster.nodes[node].addresses if node in case.cluster.nodes else ()
            zone = case.cluster.nodes[node].zone if node in case.cluster.nodes else ""
            near = [n for n in case.cluster.nodes.values() if n.name not in silent and self._connected(n.name)]
            near.sort(key=lambda n: (n.zone != zone, n.name))
            orders = {(n.name, ""): FactsOrder(vantage=Vantage(), resolve_asked=addresses) for n in near[:WITNESSES]}
            answers = await self._ask(orders, FACTS_S)
            found.update({site[0]: facts for site, facts in answers.facts.items()})
        return found

    def _connected(self, node: str) -> bool:
        agent = self._agents.get(node)
        return agent is not None and agent.connected

    def _speaks(self, node: str) -> bool:
        return has_spoken(self._agents.get(node), self._clock.wall(), QUIET_S)

    async def _facts(self, node: str, order: FactsOrder, limit_s: float) -> Facts | OrderError:
        """Facts of a node, within `limit_s`, or within SLOW_S as long as its agent speaks."""
        asking = asyncio.create_task(self._agents.facts(node, order, SLOW_S))
        try:
            done, _ = await asyncio.wait((asking,), timeout=limit_s)
            while not done and self._speaks(node):
                done, _ = await asyncio.wait((asking,), timeout=QUIET_S)
            if not done:
                return OrderError("timeout", f"the agent of {node} did not answer within {limit_s:g} s")
            return asking.result()
        finally:
            asking.cancel()

    async def _ask(self, orders: Mapping[Site, FactsOrder], limit_s: float) -> Answers:
        answers = Answers()

        async def ask(site: Site, order: FactsOrder) -> None:
            answer = await self._facts(site[0], order, limit_s)
            if isinstance(answer, Facts):
                answers.facts[site] = answer
            elif isinstance(answer, OrderError) and site[1] == "":
                answers.silent[site[0]] = str(answer)

        await asyncio.gather(*(ask(site, order) for site, order in orders.items()))
        return answers


def order_of(flow: Flow, *, count: int, interval_ms: int, timeout_ms: int, size: int = 0) -> ProbeOrder:
    """The probe that a flow is, as an order to its source's agent."""
    return ProbeOrder(
        vantage=flow.source.vantage,
        method=flow.method,
        family=flow.family,
        address=flow.destination.address,
        port=flow.port,
        count=count,
        interval_ms=interval_ms,
        timeout_ms=timeout_ms,
        size=size,
        name=flow.name,
        record=flow.record,
        over_tcp=flow.over_tcp,
    )


def _is_unreached(case: Case, node: str) -> bool:
    """Whether every UDP path between this node's host and others fails: then its agent cannot be heard either."""
    states = [
        status.state
        for path, status in case.sampled()
        if path.kind is MatrixKind.HOST and path.method is Method.UDP and node in path.destination_nodes
    ]
    return bool(states) and all(state is CellState.FAILING for state in states)


async def _nothing() -> dict[Site, tuple[Facts | None, ProbeResult]]:
    return {}
