"""DNS: each node's endpoint to the DNS Service and to each of its replicas; and egress targets. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from controller.cluster.state import Backend, Node, Pod, Service, ServicePort, family_of
from controller.plan.cut_off import cut_off_pods
from controller.plan.draft import HOST, Context, Draft, Target, spread, vantage_of
from controller.plan.expectation import OPEN, expect, expect_backends, pod_ref
from controller.plan.paths import EgressTarget
from controller.policy.peers import AddressRef
from model.diagnosis import Expectation
from model.probes import stable_id
from model.words import MatrixKind, Method, Network

UDP_S, TCP_S, OUTSIDE_S, EGRESS_S = 2.0, 10.0, 10.0, 15.0
REPLICA_RATE, LONGEST_S = 2.0, 30.0
OUTSIDE_TIMEOUT_MS = 3000


def add_dns(draft: Draft, context: Context, node: Node) -> None:
    """Adds the questions to the DNS Service and to its replicas, from the node's endpoint pod."""
    service, pod = context.cluster.dns_service(), context.endpoints.get(node.name)
    if service is None or pod is None:
        return
    families = {family_of(a) for a in pod.addresses}
    question = f"kubernetes.default.svc.{context.settings.cluster_domain}."
    for port in service.ports:
        if (port.protocol, port.port) in (("UDP", 53), ("TCP", 53)):
            over_tcp = port.protocol == "TCP"
            for address in service.cluster_ips:
                if family_of(address) in families:
                    ready = [b for b in _backends(context, service, port) if b.ready and b.family == family_of(address)]
                    expected = expect_backends(context.policy, pod_ref(pod), ready, family_of(address))
                    target = _service_target(service, service.key, ready)
                    interval_s = TCP_S if over_tcp else UDP_S
                    _ask(draft, pod, target, expected, address, port.port, interval_s, question, over_tcp=over_tcp)
                    if not over_tcp:
                        _add_cut_off(draft, context, node, service, port, ready, address)
                        _add_outside(draft, context, pod, service, ready, expected, address)
    _add_replicas(draft, context, node, service, pod, question)


def _add_cut_off(
    draft: Draft,
    context: Context,
    node: Node,
    service: Service,
    port: ServicePort,
    ready: list[Backend],
    address: str,
) -> None:
    """Pods that egress policies cut off from DNS by mistake ask too: see `cut_off`."""
    for pod in cut_off_pods(context, node):
        if family_of(address) in {family_of(a) for a in pod.addresses}:
            expected = expect_backends(context.policy, pod_ref(pod), ready, family_of(address))
            target = _service_target(service, service.key, ready)
            question = f"kubernetes.default.svc.{context.settings.cluster_domain}."
            _ask(draft, pod, target, expected, address, port.port, UDP_S, question)


def _add_replicas(draft: Draft, context: Context, node: Node, service: Service, pod: Pod, question: str) -> None:
    families = {family_of(a) for a in pod.addresses}
    replicas = [
        (backend, replica)
        for port in service.ports
        if (port.protocol, port.port) == ("UDP", 53)
        for backend in _backends(context, service, port)
        if backend.family in families
        if (replica := context.cluster.pod_of(backend)) is not None and replica.was_ready and not replica.deleting
    ]
    replicas.sort(key=lambda found: stable_id(node.name, found[0].address))
    taken, interval_s = spread(len(replicas), REPLICA_RATE, UDP_S, LONGEST_S)
    for backend, replica in replicas[:taken]:
        target = Target(
            kind=MatrixKind.DNS,
            network=Network.POD,
            destination=replica.key,
            target_kind="DNSReplica",
            namespace=replica.namespace,
            name=replica.name,
            uid=replica.uid,
            nodes=frozenset({replica.node}),
        )
        expected = expect(
            context.policy, pod_ref(pod), AddressRef(backend.address), "UDP", backend.port, backend.family
        )
        _ask(draft, pod, target, expected, backend.address, backend.port, interval_s, question)


def _add_outside(
    draft: Draft,
    context: Context,
    pod: Pod,
    service: Service,
    ready: list[Backend],
    expected: Expectation,
    address: str,
) -> None:
    for name in _outside_names(context.settings.egress_targets):
        target = _service_target(service, name, ready)
        _ask(draft, pod, target, expected, address, 53, OUTSIDE_S, name + ".", timeout_ms=OUTSIDE_TIMEOUT_MS)


def _outside_names(targets: tuple[EgressTarget, ...]) -> tuple[str, ...]:
    return tuple(sorted({t.host.rstrip(".") for t in targets if not _is_address(t.host)}))


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _ask(
    draft: Draft,
    pod: Pod,
    target: Target,
    expected: Expectation,
    address: str,
    port: int,
    interval_s: float,
    name: str,
    *,
    over_tcp: bool = False,
    timeout_ms: int = 0,
) -> None:
    draft.add(
        vantage_of(pod),
        target,
        expected,
        Method.DNS,
        address,
        port,
        interval_s,
        name=name,
        record="A",
        over_tcp=over_tcp,
        timeout_ms=timeout_ms,
        vital=True,
    )


def _service_target(service: Service, destination: str, ready: list[Backend]) -> Target:
    return Target(
        kind=MatrixKind.DNS,
        network=Network.POD,
        destination=destination,
        target_kind="DNSService",
        namespace=service.namespace,
        name=service.name,
        uid=service.uid,
        nodes=frozenset(b.node for b in ready if b.node),
    )


def _backends(context: Context, service: Service, port: ServicePort) -> tuple[Backend, ...]:
    return context.cluster.backends(service, port)


def add_egress(draft: Draft, context: Context, node: Node) -> None:
    """Adds each egress target, from the endpoint pod and, where its address is known, from the host.

    A host's resolver is none of the cluster's, so a name is asked for only from the pod.
    """
    pod = context.endpoints.get(node.name)
    pod_families = {family_of(a) for a in pod.addresses} if pod else set()
    host_families = {family_of(a) for a in node.addresses}
    for outside in context.settings.egress_targets:
        for family, address in _ways(outside):
            if pod is not None and family in pod_families:
                expected = (
                    expect(context.policy, pod_ref(pod), AddressRef(address), "TCP", outside.port, family)
                    if address
                    else OPEN
                )
                target = _egress_target(outside, outside.url, Network.POD)
                draft.add(
                    vantage_of(pod),
                    target,
                    expected,
                    Method.HTTP,
                    address,
                    outside.port,
                    EGRESS_S,
                    name=outside.url,
                    family=family,
                )
            if address and family in host_families:
                target = _egress_target(outside, f"{outside.url} (host)", Network.HOST)
                draft.add(
                    HOST, target, OPEN, Method.HTTP, address, outside.port, EGRESS_S, name=outside.url, family=family
                )


def _ways(outside: EgressTarget) -> Iterator[tuple[int, str]]:
    """Family and address of each way to ask; without a known address the one way by name, over IPv4."""
    if not outside.addresses:
        yield 4, ""
    for address in outside.addresses:
        yield family_of(address), address


def _egress_target(outside: EgressTarget, destination: str, network: Network) -> Target:
    return Target(
        kind=MatrixKind.EGRESS,
        network=network,
        destination=destination,
        target_kind="Egress",
        name=outside.url,
        uid=stable_id("egress", outside.url),
    )
