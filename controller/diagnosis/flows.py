"""Turns a path of the plan into the flow that it measures, with its backends where it goes to a Service. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from controller.cluster.state import Backend, ClusterState, Pod, Service, ServicePort
from controller.diagnosis.case import Flow, Place
from controller.plan.paths import Path
from model.probes import Vantage


@dataclass(frozen=True, slots=True)
class Question:
    """A flow as asked, and the flows to each ready backend where it goes to a Service."""

    flow: Flow
    backends: tuple[Flow, ...] = ()


def vantage_of(pod: Pod) -> Vantage:
    """The vantage of a pod's network namespace; that of the host if the pod is on the host network."""
    if pod.host_network:
        return Vantage()
    return Vantage(pod_uid=pod.uid, namespace=pod.namespace, name=pod.name, addresses=pod.addresses)


def question_of(path: Path, cluster: ClusterState) -> Question | None:
    """The flow of a path, or None if an end of it is gone from the cluster."""
    source = _source(path, cluster)
    if source is None:
        return None
    service, port = _service(path, cluster)
    target = _target(path, cluster)
    if target is None:
        return None
    virtual = path.target_kind in {"Service", "DNSService"}
    flow = Flow(
        source=source,
        destination=target,
        method=path.method,
        family=path.family,
        port=path.port,
        name=path.task.name,
        record=path.task.record,
        over_tcp=path.task.over_tcp,
        service=service,
        service_port=port,
        virtual_address=path.address if virtual else "",
    )
    if not virtual or service is None or port is None:
        return Question(flow)
    backends = [b for b in cluster.backends(service, port) if b.ready and b.family == path.family]
    return Question(flow, tuple(to_backend(flow, b, cluster) for b in backends))


def to_backend(flow: Flow, backend: Backend, cluster: ClusterState) -> Flow:
    """The flow to a Service as it is behind the translation: straight to one backend."""
    pod = cluster.pod_of(backend)
    place = Place(
        address=backend.address,
        node=pod.node if pod is not None else cluster.node_of_address(backend.address),
        vantage=vantage_of(pod) if pod is not None else Vantage(),
        pod=pod if pod is not None and not pod.host_network else None,
    )
    return Flow(
        source=flow.source,
        destination=place,
        method=flow.method,
        family=flow.family,
        port=backend.port,
        name=flow.name,
        record=flow.record,
        over_tcp=flow.over_tcp,
        service=flow.service,
        service_port=flow.service_port,
    )


def unready_behind(flow: Flow, cluster: ClusterState) -> Flow | None:
    """The flow to a pod that runs and is not ready, where a Service has no ready one; None without such a pod."""
    service, port = flow.service, flow.service_port
    if service is None or port is None or not flow.virtual_address:
        return None
    for backend in cluster.backends(service, port):
        pod = cluster.pod_of(backend)
        if pod is None or pod.node not in cluster.nodes or pod.deleting or pod.host_network or pod.waiting_reasons:
            continue
        if backend.family == flow.family and pod.phase == "Running":
            return to_backend(flow, backend, cluster)
    return None


def _source(path: Path, cluster: ClusterState) -> Place | None:
    node = cluster.nodes.get(path.source_node)
    if node is None:
        return None
    if path.vantage.is_host:
        address = next((a for a in node.addresses if ip_address(a).version == path.family), "")
        return Place(address=address, node=node.name)
    pod = cluster.pods.get(path.vantage.pod_uid)
    if pod is None:
        return None
    address = next((a for a in pod.addresses if ip_address(a).version == path.family), "")
    return Place(address=address, node=node.name, vantage=path.vantage, pod=pod) if address else None


def _target(path: Path, cluster: ClusterState) -> Place | None:
    if path.target_kind in {"Service", "DNSService", "Egress"}:
        return Place(address=path.address)
    pod = cluster.pods_by_address.get(path.address)
    if pod is not None:
        return Place(address=path.address, node=pod.node, vantage=vantage_of(pod), pod=pod)
    node = cluster.nodes_by_address.get(path.address)
    return Place(address=path.address, node=node.name) if node is not None else None


def _service(path: Path, cluster: ClusterState) -> tuple[Service | None, ServicePort | None]:
    if path.target_kind in {"DNSService", "DNSReplica"}:
        service = cluster.dns_service()
    elif path.target_kind in {"Service", "Backend"}:
        # Both stand in the Service's column of the matrix: "namespace/service:port/protocol".
        service = cluster.services.get(path.destination.partition(":")[0])
    else:
        return None, None
    if service is None:
        return None, None
    for port in service.ports:
        if path.target_kind in {"Service", "DNSService"} and port.port == path.port:
            return service, port
        if path.target_kind in {"Backend", "DNSReplica"} and any(
            b.port == path.port for b in cluster.backends(service, port)
        ):
            return service, port
    return service, None
