"""Services: each node to each ClusterIP port, and each node's host to the pods behind that run on it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from controller.cluster.state import Backend, Node, Pod, Service, ServicePort, family_of
from controller.plan.draft import HOST, Context, Draft, Target, spread, vantage_of
from controller.plan.expectation import OWN_NODE, expect_backends, pod_ref
from controller.plan.paths import Unsampled
from model.diagnosis import Expectation
from model.probes import stable_id
from model.words import MatrixKind, Method, Network

RATE, SHORTEST_S, LONGEST_S = 1.5, 2.0, 30.0
BACKEND_RATE, BACKEND_S = 2.0, 5.0


class Front(NamedTuple):
    """A TCP port of a Service at one of its addresses."""

    service: Service
    port: ServicePort
    address: str
    backends: tuple[Backend, ...]


def fronts(context: Context) -> tuple[Front, ...]:
    """Everything that is to be probed of Services. Headless ones have no address of their own; UDP has no handshake."""
    return tuple(
        Front(
            service,
            port,
            address,
            tuple(b for b in context.cluster.backends(service, port) if b.family == family_of(address)),
        )
        for _, service in sorted(context.cluster.services.items())
        if not service.headless and service.type != "ExternalName"
        for port in service.ports
        if port.protocol == "TCP"
        for address in service.cluster_ips
    )


def label(service: Service, port: ServicePort) -> str:
    """The column of a Service port: namespace/service:port/protocol."""
    return f"{service.key}:{port.port}/{port.protocol.lower()}"


def add_services(draft: Draft, context: Context, node: Node, found: tuple[Front, ...]) -> None:
    """Adds as many Services as the rate allows; which ones are left out differs from node to node."""
    ordered = sorted(found, key=lambda f: stable_id(node.name, f.service.key, f.port.port, f.address))
    taken, interval_s = spread(len(ordered), RATE, SHORTEST_S, LONGEST_S)
    for front in ordered[:taken]:
        _add_front(draft, context, node, front, interval_s)
    for front in ordered[taken:]:
        _leave_out(draft, front, f"more Services than one agent probes in {LONGEST_S:g} s")


def _add_front(draft: Draft, context: Context, node: Node, front: Front, interval_s: float) -> None:
    ready = tuple(b for b in front.backends if b.ready)
    reason = "no endpoint pod on this node"
    for pod in _vantages(context, node):
        expected = expect_backends(context.policy, pod_ref(pod), ready, family_of(front.address))
        if expected.allowed is True or context.policy is None:
            target = Target(
                kind=MatrixKind.SERVICE,
                network=Network.POD,
                destination=label(front.service, front.port),
                target_kind="Service",
                namespace=front.service.namespace,
                name=front.service.name,
                uid=front.service.uid,
                nodes=frozenset(b.node for b in ready if b.node),
            )
            draft.add(vantage_of(pod), target, expected, Method.TCP, front.address, front.port.port, interval_s)
            return
        reason = _why(expected)
    _leave_out(draft, front, reason)


def _vantages(context: Context, node: Node) -> Iterator[Pod]:
    """Pods of this node to probe from: the endpoint, then the others in order of name."""
    own = context.endpoints.get(node.name)
    if own is not None:
        yield own
    if context.policy is not None:
        for pod in context.cluster.pods_by_node.get(node.name, ()):
            if pod is not own and pod.ready and pod.addresses and not pod.host_network and not pod.deleting:
                yield pod


def _why(expected: Expectation) -> str:
    return "policy lets no pod of this node through: " + "; ".join(expected.because or (expected.missing,))


def _leave_out(draft: Draft, front: Front, reason: str) -> None:
    draft.unsampled.append(Unsampled(MatrixKind.SERVICE, draft.node, label(front.service, front.port), reason))


def add_backends(draft: Draft, context: Context, node: Node, found: tuple[Front, ...]) -> None:
    """Adds the pods behind Services that run on this node, at their target ports, from the host: always allowed."""
    local = [
        (front, backend, pod)
        for front in found
        for backend in front.backends
        if backend.ready and backend.node in ("", node.name)
        if (pod := context.cluster.pod_of(backend)) is not None
        if pod.node == node.name and pod.ready and not pod.deleting and not pod.host_network
    ]
    taken, interval_s = spread(len(local), BACKEND_RATE, BACKEND_S, LONGEST_S)
    for front, backend, pod in local[:taken]:
        target = Target(
            kind=MatrixKind.SERVICE,
            network=Network.POD,
            destination=label(front.service, front.port),
            target_kind="Backend",
            namespace=pod.namespace,
            name=pod.name,
            uid=pod.uid,
            nodes=frozenset({node.name}),
        )
        draft.add(HOST, target, OWN_NODE, Method.TCP, backend.address, backend.port, interval_s)
