"""From Service and EndpointSlice objects to what one node's rules are made of.

Pure: a function of objects, node and address family, as kube-proxy's change trackers and CategorizeEndpoints
(pkg/proxy/topology.go) work. Topology hints are not used.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Literal

import msgspec

Object = Mapping[str, Any]
Family = Literal[4, 6]
FAMILIES: tuple[Family, ...] = (4, 6)


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """One backend of a service port."""

    address: str
    port: int
    node: str | None
    ready: bool
    serving: bool
    terminating: bool

    @property
    def text(self) -> str:
        """10.0.0.1:80 or [fd00::1]:80."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class ServicePort(msgspec.Struct, frozen=True):
    """One port of one Service in one address family. Protocol is lower case; timeout in seconds."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    port: int
    node_port: int
    cluster_ip: str
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    source_ranges: tuple[str, ...]
    internal_local: bool
    external_local: bool
    affinity_s: int | None
    health_check_node_port: int
    endpoints: tuple[Endpoint, ...]

    @property
    def label(self) -> str:
        """ns/name:port, or ns/name where the port has no name; this is what comments and hashes hold."""
        suffix = f":{self.port_name}" if self.port_name else ""
        return f"{self.namespace}/{self.service}{suffix}"

    @property
    def external(self) -> bool:
        """Whether it is reachable by node port, external or load balancer address."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)


class Backends(msgspec.Struct, frozen=True):
    """Where a service port's traffic on one node goes."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    anywhere: bool
    """Some endpoint exists somewhere, even where none may be used from this node."""

    @property
    def reachable(self) -> tuple[Endpoint, ...]:
        """All that this node may send to, without doubles."""
        return tuple(sorted({*self.cluster, *self.local}, key=lambda endpoint: endpoint.text))


def _of_family(addresses: Iterable[str], family: Family) -> tuple[str, ...]:
    return tuple(address for address in addresses if ip_address(address).version == family)


def _endpoints(slices: Iterable[Object], port_name: str, protocol: str) -> tuple[Endpoint, ...]:
    found: dict[tuple[str, int], Endpoint] = {}
    for piece in slices:
        for port in piece.get("ports") or ():
            number = port.get("port")
            if (port.get("name") or "") != port_name or not number:
                continue
            if port.get("protocol", "TCP").lower() != protocol:
                continue
            for entry in piece.get("endpoints") or ():
                conditions = entry.get("conditions") or {}
                ready = conditions.get("ready") is not False
                serving = conditions.get("serving")
                endpoint = Endpoint(
                    address=str(ip_address(entry["addresses"][0])),
                    port=number,
                    node=entry.get("nodeName"),
                    ready=ready,
                    serving=ready if serving is None else bool(serving),
                    terminating=bool(conditions.get("terminating")),
                )
                found[endpoint.address, endpoint.port] = endpoint
    return tuple(sorted(found.values(), key=lambda endpoint: endpoint.text))


def _load_balancer_ips(service: Object, family: Family) -> tuple[str, ...]:
    if service["spec"].get("type") != "LoadBalancer":
        return ()
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or ()
    return _of_family(
        (entry["ip"] for entry in ingress if entry.get("ip") and entry.get("ipMode", "VIP") == "VIP"), family
    )


def _is_proxied(service: Object) -> bool:
    spec = service["spec"]
    labels = service["metadata"].get("labels") or {}
    return (
        spec.get("type") != "ExternalName"
        and spec.get("clusterIP") not in (None, "", "None")
        and "service.kubernetes.io/service-proxy-name" not in labels
    )


def _ports_of(service: Object, slices: list[Object], family: Family) -> Iterable[ServicePort]:
    spec, metadata = service["spec"], service["metadata"]
    cluster_ips = _of_family(spec.get("clusterIPs") or [spec["clusterIP"]], family)
    if not cluster_ips:
        return
    affinity = None
    if spec.get("sessionAffinity") == "ClientIP":
        affinity = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 10800)
    ranges = [text.strip() for text in spec.get("loadBalancerSourceRanges") or ()]
    for port in spec.get("ports") or ():
        name, protocol = port.get("name") or "", port.get("protocol", "TCP").lower()
        yield ServicePort(
            namespace=metadata["namespace"],
            service=metadata["name"],
            port_name=name,
            protocol=protocol,
            port=port["port"],
            node_port=port.get("nodePort") or 0,
            cluster_ip=cluster_ips[0],
            external_ips=_of_family(spec.get("externalIPs") or (), family),
            load_balancer_ips=_load_balancer_ips(service, family),
            source_ranges=tuple(text for text in ranges if ip_network(text, strict=False).version == family),
            internal_local=spec.get("internalTrafficPolicy") == "Local",
            external_local=spec.get("externalTrafficPolicy") == "Local",
            affinity_s=affinity,
            health_check_node_port=spec.get("healthCheckNodePort") or 0,
            endpoints=_endpoints(slices, name, protocol),
        )


def read_service_ports(services: Iterable[Object], slices: Iterable[Object], family: Family) -> tuple[ServicePort, ...]:
    """Return every service port that kube-proxy makes rules for in this family, by name."""
    by_service: dict[tuple[str, str], list[Object]] = {}
    for piece in slices:
        metadata = piece["metadata"]
        owner = (metadata.get("labels") or {}).get("kubernetes.io/service-name")
        if owner and piece.get("addressType") == f"IPv{family}":
            by_service.setdefault((metadata["namespace"], owner), []).append(piece)
    ports = [
        port
        for service in services
        if _is_proxied(service)
        for port in _ports_of(
            service,
            by_service.get((service["metadata"]["namespace"], service["metadata"]["name"]), []),
            family,
        )
    ]
    return tuple(sorted(ports, key=lambda port: (port.label, port.protocol)))


def _usable(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Ready ones; where there is none, those that still serve while they terminate."""
    endpoints = tuple(endpoints)
    ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    return ready or tuple(endpoint for endpoint in endpoints if endpoint.serving and endpoint.terminating)


def backends(port: ServicePort, node: str) -> Backends:
    """Return where `node` sends the traffic of a service port (CategorizeEndpoints)."""
    usable = _usable(port.endpoints)
    uses_cluster = not port.internal_local or port.external
    uses_local = port.internal_local or (port.external_local and port.external)
    return Backends(
        cluster=usable if uses_cluster else (),
        local=_usable(entry for entry in port.endpoints if entry.node == node) if uses_local else (),
        anywhere=bool(usable),
    )
