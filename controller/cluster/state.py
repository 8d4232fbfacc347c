"""What the controller knows of the cluster: frozen typed values, and an immutable snapshot with its look-ups.

Knows nothing of how it was read (`controller.cluster.watch`) and decides nothing about reachability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any

import msgspec

ENDPOINT_LABELS: Mapping[str, str] = MappingProxyType(
    {"app.kubernetes.io/name": "kubereach", "app.kubernetes.io/component": "endpoint"}
)
FINISHED = frozenset({"Succeeded", "Failed"})


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A Node. `addresses` are its InternalIPs; `ready` is None where its condition is Unknown or missing."""

    name: str
    uid: str = ""
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    zone: str = ""
    ready: bool | None = None
    ready_reason: str = ""
    unschedulable: bool = False
    deleting: bool = False
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class ContainerPort(msgspec.Struct, frozen=True):
    """A declared port of a container; `protocol` is TCP, UDP or SCTP."""

    name: str
    protocol: str
    port: int


class Condition(msgspec.Struct, frozen=True):
    """A condition of a status; `changed_at` in seconds since the epoch, 0 if not told."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    changed_at: float = 0.0


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod. `was_ready`: it is ready, or was once in this life. `waiting_reasons` such as ImagePullBackOff."""

    uid: str
    namespace: str
    name: str
    node: str = ""
    addresses: tuple[str, ...] = ()
    phase: str = ""
    ready: bool = False
    was_ready: bool = False
    host_network: bool = False
    deleting: bool = False
    labels: dict[str, str] = {}
    container_ports: tuple[ContainerPort, ...] = ()
    owner_kind: str = ""
    owner_name: str = ""
    conditions: tuple[Condition, ...] = ()
    waiting_reasons: tuple[str, ...] = ()
    created_at: float = 0.0
    started_at: float = 0.0
    """When the last of its containers started; 0 where one waits, or was started more than once."""

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_endpoint(self) -> bool:
        """Whether it is one of our own that probes come from and go to."""
        return ENDPOINT_LABELS.items() <= self.labels.items()

    @property
    def workload(self) -> tuple[str, str]:
        """Kind and name of what people made that made this pod: of a ReplicaSet its Deployment; of nothing, itself."""
        generation = self.labels.get("pod-template-hash", "")
        if self.owner_kind == "ReplicaSet" and generation and self.owner_name.endswith(f"-{generation}"):
            return "Deployment", self.owner_name.removesuffix(f"-{generation}")
        return (self.owner_kind, self.owner_name) if self.owner_kind else ("Pod", self.name)


class ServicePort(msgspec.Struct, frozen=True, kw_only=True):
    """A port of a Service. `target_port` is a number, or the name of a container port."""

    name: str = ""
    protocol: str = "TCP"
    port: int
    target_port: int | str = 0
    node_port: int = 0


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A Service. A headless one has no `cluster_ips` ("None" is left out). `written_at` is when it was last changed."""

    uid: str = ""
    namespace: str
    name: str
    type: str = "ClusterIP"
    headless: bool = False
    cluster_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    labels: dict[str, str] = {}
    external_name: str = ""
    external_ips: tuple[str, ...] = ()
    internal_traffic_policy: str = "Cluster"
    external_traffic_policy: str = "Cluster"
    session_affinity: str = "None"
    load_balancer_addresses: tuple[str, ...] = ()
    written_at: float = 0.0

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"


class SlicePort(msgspec.Struct, frozen=True):
    """A port of an EndpointSlice: the Service port's name, the protocol, and the number behind."""

    name: str
    protocol: str
    port: int


class SliceEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of a slice. A missing `ready` means ready, a missing `serving` means as ready (the API's words)."""

    addresses: tuple[str, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zone: str = ""
    target_kind: str = ""
    target_uid: str = ""
    target_namespace: str = ""
    target_name: str = ""


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    """An EndpointSlice; `service` is the name of the Service of the same namespace that it belongs to."""

    namespace: str
    name: str
    service: str = ""
    address_type: str = "IPv4"
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One address and port behind a Service port, from its EndpointSlices."""

    address: str
    port: int
    protocol: str
    ready: bool
    serving: bool
    terminating: bool
    node: str = ""
    zone: str = ""
    pod_uid: str = ""
    target_namespace: str = ""
    target_name: str = ""

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """A Namespace."""

    name: str
    labels: dict[str, str] = {}
    deleting: bool = False


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A Deployment, DaemonSet or StatefulSet. `replicas` are wanted; `selector` is the raw LabelSelector.

    `written_at` is when anybody last wrote what is wanted, `failure` why its pods cannot be made.
    """

    kind: str
    namespace: str
    name: str
    replicas: int = 0
    ready: int = 0
    selector: dict[str, Any] = {}
    template_labels: dict[str, str] = {}
    written_at: float = 0.0
    failure: str = ""

    @property
    def key(self) -> str:
        """kind/namespace/name."""
        return f"{self.kind}/{self.namespace}/{self.name}"


def family_of(address: str) -> int:
    """4 or 6, by the look of the address."""
    return 6 if ":" in address else 4


class Gives(StrEnum):
    """Whom a pool gives addresses to."""

    PODS = "pods"
    SERVICES = "services"
    BALANCERS = "load balancers"
    NOBODY = "nobody"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """An object that addresses are given from. `cidrs` in canonical form; `name` with the namespace, if it has one."""

    kind: str
    name: str
    gives: Gives
    cidrs: tuple[str, ...]


@dataclass(frozen=True)
class ClusterState:
    """The cluster at one moment. Never changed; indexes are made when they are first asked for.

    Keys: nodes by name, pods by UID, services, slices and policies by "namespace/name", workloads by
    "kind/namespace/name", pools by "kind/name". `policies` are NetworkPolicies as the API gave them, and admin policies
    by "kind/name".
    `synced`: every watched kind was listed at least once. `stale_since`: wall seconds since when the API has not
    answered, None if it does.
    """

    revision: int = 0
    synced: bool = False
    stale_since: float | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Mapping[str, Pod] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    slices: Mapping[str, EndpointSlice] = field(default_factory=dict)
    policies: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    corefile: str | None = None

    @cached_property
    def pods_by_address(self) -> Mapping[str, Pod]:
        """Pods with an address of their own (not on the host network, not finished)."""
        live = (p for p in self.pods.values() if not p.host_network and p.phase not in FINISHED)
        return {address: pod for pod in live for address in pod.addresses}

    @cached_property
    def pods_by_key(self) -> Mapping[str, Pod]:
        """Pods by "namespace/name"; a deleting one gives way to its successor."""
        return {p.key: p for p in sorted(self.pods.values(), key=lambda p: (not p.deleting, p.created_at))}

    @cached_property
    def pods_by_node(self) -> Mapping[str, tuple[Pod, ...]]:
        """Pods by node name, in order of namespace and name."""
        found: dict[str, list[Pod]] = {}
        for pod in sorted(self.pods.values(), key=lambda p: (p.namespace, p.name, p.uid)):
            if pod.node:
                found.setdefault(pod.node, []).append(pod)
        return {node: tuple(pods) for node, pods in found.items()}

    @cached_property
    def nodes_by_address(self) -> Mapping[str, Node]:
        """Nodes by InternalIP."""
        return {address: node for node in self.nodes.values() for address in node.addresses}

    @cached_property
    def services_by_address(self) -> Mapping[str, Service]:
        """Services by ClusterIP, external IP and load balancer address."""
        return {
            address: service
            for service in self.services.values()
            for address in (*service.load_balancer_addresses, *service.external_ips, *service.cluster_ips)
        }

    @cached_property
    def slices_by_service(self) -> Mapping[str, tuple[EndpointSlice, ...]]:
        """EndpointSlices by "namespace/service"."""
        found: dict[str, list[EndpointSlice]] = {}
        for key in sorted(self.slices):
            part = self.slices[key]
            if part.service:
                found.setdefault(f"{part.namespace}/{part.service}", []).append(part)
        return {service: tuple(parts) for service, parts in found.items()}

    @cached_property
    def endpoint_pods(self) -> Mapping[str, Pod]:
        """Our own endpoint pod by node: the one that is not ending, has an address, and is newest."""
        own = [
            pod
            for pod in self.pods.values()
            if pod.node and pod.addresses and not pod.deleting and not pod.host_network
            if pod.phase not in FINISHED and pod.is_endpoint
        ]
        return {pod.node: pod for pod in sorted(own, key=lambda p: (p.ready, p.created_at, p.uid))}

    def backends(self, service: Service, port: ServicePort) -> tuple[Backend, ...]:
        """All backends of a Service port, ready or not, both families, in order of address."""
        found: dict[tuple[str, int], Backend] = {}
        for part in self.slices_by_service.get(service.key, ()):
            if part.address_type == "FQDN":
                continue
            for number in (p.port for p in part.ports if (p.name, p.protocol) == (port.name, port.protocol)):
                for endpoint in part.endpoints:
                    for address in endpoint.addresses[:1]:
                        found[address, number] = _backend(endpoint, address, number, port.protocol)
        return tuple(found[key] for key in sorted(found))

    def pod_of(self, backend: Backend) -> Pod | None:
        """The pod behind a backend, if the cluster has it."""
        return self.pods.get(backend.pod_uid) or self.pods_by_address.get(backend.address)

    def node_of_address(self, address: str) -> str:
        """The name of the node that has the address, or whose pod has it; "" if none."""
        node = self.nodes_by_address.get(address)
        if node is not None:
            return node.name
        pod = self.pods_by_address.get(address)
        return pod.node if pod is not None else ""

    def backends_of(self, service: Service) -> tuple[Backend, ...]:
        """The backends of all ports of a Service, ready or not."""
        return tuple(b for port in service.ports for b in self.backends(service, port))

    def dns_service(self) -> Service | None:
        """The cluster's DNS Service: kube-system/kube-dns, or the one with its label."""
        return self._dns_service

    def dns_pods(self) -> tuple[Pod, ...]:
        """The pods that the DNS Service selects, ready or not, in order of name; those that are ending left out."""
        service = self._dns_service
        if service is None or not service.selector:
            return ()
        return tuple(p for p in self.pods_of(service) if not p.deleting)

    def pods_of(self, service: Service) -> tuple[Pod, ...]:
        """The pods that a Service's selector matches, ready or not, by name; those that have ended left out."""
        wanted = service.selector.items()
        own = (p for p in self.pods.values() if p.namespace == service.namespace and p.phase not in FINISHED)
        return tuple(sorted((p for p in own if wanted <= p.labels.items()), key=lambda p: p.name))

    def ends_with_namespace(self, service: Service) -> bool:
        """Whether the namespace of a Service is being deleted, and the Service with it."""
        namespace = self.namespaces.get(service.namespace)
        return namespace is not None and namespace.deleting

    @cached_property
    def _dns_service(self) -> Service | None:
        named = self.services.get("kube-system/kube-dns")
        if named is not None:
            return named
        labelled = (s for s in self.services.values() if s.labels.get("k8s-app") == "kube-dns" and s.cluster_ips)
        return min(labelled, key=lambda s: s.key, default=None)


def _backend(endpoint: SliceEndpoint, address: str, port: int, protocol: str) -> Backend:
    return Backend(
        address=address,
        port=port,
        protocol=protocol,
        ready=endpoint.ready,
        serving=endpoint.serving,
        terminating=endpoint.terminating,
        node=endpoint.node,
        zone=endpoint.zone,
        pod_uid=endpoint.target_uid if endpoint.target_kind in ("", "Pod") else "",
        target_namespace=endpoint.target_namespace,
        target_name=endpoint.target_name,
    )
