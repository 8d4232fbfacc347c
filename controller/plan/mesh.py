"""Node to node: hosts to hosts, endpoint pods to endpoint pods, and each host to its own endpoint. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from controller.cluster.state import Node, Pod
from controller.plan.draft import HOST, Context, Draft, Target, by_family, spread, vantage_of
from controller.plan.expectation import OPEN, OWN_NODE, expect, pod_ref
from controller.plan.order import FIXED_INTERVAL_S, STEP_RATE
from model.diagnosis import Expectation
from model.probes import ENDPOINT_PORT, HOST_ECHO_PORT, Vantage
from model.words import MatrixKind, Method, Network

UDP_S, TCP_S, ICMP_S = 1.0, 3.0, 5.0
TCP_RATE, ICMP_RATE = 4.0, 1.5
LONGEST_S = 30.0


class Edge(NamedTuple):
    """From one namespace to another node's, or to the own endpoint's. `port` is 0 where the far end serves none;
    `icmp` whether an echo request may be sent. What is expected is told apart by protocol, as policies do.
    """

    vantage: Vantage
    target: Target
    address: str
    port: int
    udp: Expectation
    tcp: Expectation
    icmp: bool


def add_mesh(draft: Draft, context: Context, node: Node, others: tuple[Node, ...]) -> None:
    """Adds the paths of a full mesh, slower the more of them there are."""
    edges = [*host_edges(context, node, others), *pod_edges(context, node, others), *own_edges(context, node)]
    served = [e for e in edges if e.port]
    for edge in served:
        _udp(draft, edge, max(UDP_S, len(served) / context.settings.node_rate))
    taken, interval_s = spread(len(served), TCP_RATE, TCP_S, LONGEST_S)
    for edge in served[:taken]:
        draft.add(edge.vantage, edge.target, edge.tcp, Method.TCP, edge.address, edge.port, interval_s)
    pings = [e for e in edges if e.icmp]
    taken, interval_s = spread(len(pings), ICMP_RATE, ICMP_S, LONGEST_S)
    for edge in pings[:taken]:
        draft.add(edge.vantage, edge.target, OPEN, Method.ICMP, edge.address, 0, interval_s)


def add_sample(
    draft: Draft, context: Context, node: Node, fixed: tuple[Node, ...], steps: tuple[Node, ...], epoch: int
) -> None:
    """Adds the paths of a sampled mesh: fixed targets on both networks, steps on one network an epoch, in turn."""
    interval_s = 2 * FIXED_INTERVAL_S
    for edge in (*host_edges(context, node, fixed), *pod_edges(context, node, fixed), *own_edges(context, node)):
        if edge.port:
            _udp(draft, edge, interval_s)
    stepping = pod_edges(context, node, steps) if epoch % 2 == 0 else host_edges(context, node, steps)
    for edge in stepping:
        if edge.port:
            _udp(draft, edge, len(steps) / STEP_RATE)


def _udp(draft: Draft, edge: Edge, interval_s: float) -> None:
    draft.add(edge.vantage, edge.target, edge.udp, Method.UDP, edge.address, edge.port, interval_s)


def host_edges(context: Context, node: Node, others: tuple[Node, ...]) -> Iterator[Edge]:
    """Host to host, every family that both have. A host whose agent never came, or ended, serves no port."""
    mine = by_family(node.addresses)
    for other in others:
        answers = context.answers(other.name)
        if not answers and other.ready is not True:
            continue
        target = Target(
            kind=MatrixKind.HOST,
            network=Network.HOST,
            destination=other.name,
            target_kind="Node",
            name=other.name,
            uid=other.uid,
            nodes=frozenset({other.name}),
        )
        for family, address in by_family(other.addresses).items():
            if family in mine:
                yield Edge(HOST, target, address, HOST_ECHO_PORT if answers else 0, OPEN, OPEN, icmp=True)


def pod_edges(context: Context, node: Node, others: tuple[Node, ...]) -> Iterator[Edge]:
    """Endpoint pod to endpoint pod."""
    source = context.endpoints.get(node.name)
    if source is None:
        return
    mine = by_family(source.addresses)
    for other in others:
        pod = context.endpoints.get(other.name)
        if pod is None:
            continue
        target = _endpoint_target(pod)
        for family, address in by_family(pod.addresses).items():
            if family in mine:
                udp, tcp, icmp = _by_protocol(context, source, pod, family)
                yield Edge(vantage_of(source), target, address, ENDPOINT_PORT, udp, tcp, icmp=icmp.allowed is True)


def own_edges(context: Context, node: Node) -> Iterator[Edge]:
    """The host to its own endpoint pod: the diagonal."""
    pod = context.endpoints.get(node.name)
    if pod is not None:
        for address in by_family(pod.addresses).values():
            yield Edge(HOST, _endpoint_target(pod), address, ENDPOINT_PORT, OWN_NODE, OWN_NODE, icmp=False)


def _endpoint_target(pod: Pod) -> Target:
    return Target(
        kind=MatrixKind.POD,
        network=Network.POD,
        destination=pod.node,
        target_kind="Pod",
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        nodes=frozenset({pod.node}),
    )


def _by_protocol(context: Context, source: Pod, pod: Pod, family: int) -> tuple[Expectation, Expectation, Expectation]:
    """What policy says of UDP and of TCP to the endpoint's port, and of an echo request."""
    asked = (("UDP", ENDPOINT_PORT), ("TCP", ENDPOINT_PORT), ("ICMP", 0))
    udp, tcp, icmp = (
        expect(context.policy, pod_ref(source), pod_ref(pod), protocol, port, family) for protocol, port in asked
    )
    return udp, tcp, icmp
