"""Services → the pods and ports behind them, from selectors alone. Pure.

Policies see the pod behind a Service, never the Service's address, so a question about a Service is asked of its
backends. Readiness is not looked at: policy holds for a pod whether it is ready or not.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from controller.policy.objects import Pod, Service, ServicePort


class Backend(Struct, frozen=True):
    """A pod and the port on it that a Service leads to."""

    namespace: str
    name: str
    protocol: str
    port: int


def resolve_service(
    service: Service, pods: Iterable[Pod], port: int | None = None, protocol: str = "TCP"
) -> tuple[Backend, ...]:
    """Give the backends of a port of a Service; of all its ports where `port` is None.

    A Service without a selector has none that can be known here. A named target that a pod does not declare is left
    out for that pod, as the endpoint slices leave it out.
    """
    if not service.selector:
        return ()
    chosen = [pod for pod in pods if pod.namespace == service.namespace and not pod.terminated]
    chosen = [pod for pod in chosen if set(service.selector) <= set(pod.labels)]
    wanted = [entry for entry in service.ports if port is None or (entry.port, entry.protocol) == (port, protocol)]
    found: dict[Backend, None] = {}
    for entry in wanted:
        for pod in chosen:
            target = target_port(entry, pod)
            if target is not None:
                found[Backend(pod.namespace, pod.name, entry.protocol, target)] = None
    return tuple(found)


def target_port(entry: ServicePort, pod: Pod) -> int | None:
    """Give the port of a pod that a Service's port leads to, if the pod has it."""
    if isinstance(entry.target, int):
        return entry.target
    for port in pod.named_ports:
        if (port.name, port.protocol) == (entry.target, entry.protocol):
            return port.port
    return None
