"""What a person asks by `kubereach probe A B`, and its translation into flows.

A and B are written `node/NAME`, `pod/NS/NAME`, `NS/NAME`, `svc/NS/NAME[:PORT]`, `IP[:PORT]`, `dns/NAME` or a URL.
Pure: names are looked up in the cluster state, nothing is sent.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from urllib.parse import urlsplit

import msgspec

from controller.cluster.state import FINISHED, ClusterState, Pod, Service, ServicePort
from controller.diagnosis.asked import PROTOCOLS, ProbeRequest, TargetError, check
from controller.diagnosis.case import Flow, Place
from controller.diagnosis.flows import Question, to_backend, vantage_of
from controller.plan.paths import EgressTarget
from model.probes import ENDPOINT_PORT, HOST_ECHO_PORT
from model.words import Method


def resolve(request: ProbeRequest, cluster: ClusterState, egress: tuple[EgressTarget, ...]) -> Question:
    """Translate a request. Raises TargetError that names what is unknown or impossible."""
    check(request)
    source = _source(request.source, cluster)
    if request.destination.startswith("dns/"):
        return _to_name(request, source, cluster)
    if "://" in request.destination:
        return _to_url(request, source, cluster, egress)
    if request.destination.startswith("svc/"):
        return _to_service(request, source, cluster)
    return _to_place(request, source, cluster, egress)


def _source(text: str, cluster: ClusterState) -> Place:
    if text.startswith("node/"):
        node = cluster.nodes.get(text.removeprefix("node/"))
        if node is None:
            raise TargetError(
                f"there is no node {text.removeprefix('node/')!r}", _like("node/", cluster.nodes), missing=True
            )
        return Place(address="", node=node.name)
    pod = _pod(text, cluster)
    if pod is None:
        raise TargetError(
            f"{text!r} is no source", "write node/NAME or pod/NAMESPACE/NAME: probes start on a node or in a pod"
        )
    return _pod_place(pod)


def _pod(text: str, cluster: ClusterState) -> Pod | None:
    """The pod that is meant, None if the text names no pod; TargetError if it does and there is none."""
    name = text.removeprefix("pod/")
    if name.count("/") != 1 or name.startswith(("node/", "svc/", "dns/")):
        return None
    pod = cluster.pods_by_key.get(name)
    if pod is not None:
        return pod
    namespace, wanted = name.split("/")
    begin = [p for p in cluster.pods.values() if p.namespace == namespace and p.owner_name and p.phase not in FINISHED]
    alike = [p for p in begin if p.name.startswith(f"{wanted}-")]
    if alike:
        return min(alike, key=lambda p: (not p.ready, p.name))
    raise TargetError(
        f"there is no pod {name!r}",
        _like("pod/", [p.key for p in cluster.pods.values() if p.namespace == namespace]),
        missing=True,
    )


def _like(prefix: str, names: object) -> str:
    known = sorted(names)  # type: ignore[call-overload]
    return "known: " + ", ".join(f"{prefix}{n}" for n in known[:8]) + (" …" if len(known) > 8 else "") if known else ""


def _pod_place(pod: Pod) -> Place:
    if not pod.addresses or not pod.node:
        reasons = ", ".join(pod.waiting_reasons) or pod.phase
        raise TargetError(f"pod {pod.key} has no address yet ({reasons})", "wait until it runs")
    return Place(address="", node=pod.node, vantage=vantage_of(pod), pod=None if pod.host_network else pod)


def _addresses(place: Place, cluster: ClusterState) -> tuple[str, ...]:
    if place.pod is not None:
        return place.pod.addresses
    return cluster.nodes[place.node].addresses if place.node in cluster.nodes else (place.address,)


def _common_family(request: ProbeRequest, source: Place, addresses: tuple[str, ...], cluster: ClusterState) -> int:
    mine = {ip_address(a).version for a in _addresses(source, cluster)}
    theirs = {ip_address(a).version for a in addresses}
    if request.family is not None:
        if request.family not in theirs:
            raise TargetError(f"{request.destination} has no IPv{request.family} address")
        if request.family not in mine:
            raise TargetError(f"{request.source} has no IPv{request.family} address")
        return request.family
    both = mine & theirs
    if not both:
        raise TargetError(f"{request.source} and {request.destination} have no address family in common")
    return min(both)


def _at(place: Place, family: int, cluster: ClusterState) -> Place:
    address = next((a for a in _addresses(place, cluster) if ip_address(a).version == family), "")
    return Place(address=address, node=place.node, vantage=place.vantage, pod=place.pod)


def _to_place(
    request: ProbeRequest, source: Place, cluster: ClusterState, egress: tuple[EgressTarget, ...]
) -> Question:
    """To a node, a pod, or an address with or without a port."""
    text = request.destination
    if text.startswith("node/"):
        target = _source(text, cluster)
        method, port = _method(request, Method.UDP, HOST_ECHO_PORT)
    else:
        pod = _pod(text, cluster) if "/" in text else None
        if pod is None:
            return _to_address(request, source, cluster, egress)
        target = _pod_place(pod)
        method, port = _method(request, *_default_of_pod(pod))
    family = _common_family(request, source, _addresses(target, cluster), cluster)
    flow = Flow(
        source=_at(source, family, cluster),
        destination=_at(target, family, cluster),
        method=method,
        family=family,
        port=port,
    )
    return Question(flow)


def _default_of_pod(pod: Pod) -> tuple[Method, int]:
    """What a pod is asked by default: its first declared TCP port, or an echo where it declares none."""
    if pod.is_endpoint:
        return Method.UDP, ENDPOINT_PORT
    declared = [p for p in pod.container_ports if p.protocol == "TCP"]
    return (Method.TCP, declared[0].port) if declared else (Method.ICMP, 0)


def _method(request: ProbeRequest, default: Method, port: int) -> tuple[Method, int]:
    method = (
        PROTOCOLS[request.protocol]
        if request.protocol is not None
        else Method.TCP
        if request.port and default is Method.ICMP
        else default
    )
    if request.port is not None and request.protocol is None and request.port != port and default is Method.UDP:
        method = Method.TCP
    if method is Method.ICMP:
        return method, 0
    chosen = request.port or port
    if not chosen:
        raise TargetError(f"{request.destination} declares no port for {method.value}", "add --port")
    return method, chosen


def _to_address(
    request: ProbeRequest, source: Place, cluster: ClusterState, egress: tuple[EgressTarget, ...]
) -> Question:
    address, port = _split(request.destination)
    if address is None:
        raise TargetError(
            f"{request.destination!r} is no target",
            "write node/NAME, pod/NS/NAME, svc/NS/NAME[:PORT], IP[:PORT], dns/NAME or a URL",
        )
    service = cluster.services_by_address.get(address)
    if service is not None:
        named = f"svc/{service.key}" + (f":{port}" if port else "")
        return _to_service(msgspec.structs.replace(request, destination=named), source, cluster)
    pod = cluster.pods_by_address.get(address)
    node = cluster.nodes_by_address.get(address)
    if pod is None and node is None and address not in {a for t in egress for a in t.addresses}:
        raise TargetError(
            f"{address} is no address of this cluster and no configured egress target",
            "targets outside are named to the controller by --egress-target",
        )
    family = ip_address(address).version
    asked = msgspec.structs.replace(request, port=request.port or port or None)
    if pod is not None:
        target = Place(address=address, node=pod.node, vantage=vantage_of(pod), pod=pod)
        method, number = _method(asked, *_default_of_pod(pod))
    else:
        target = Place(address=address, node=node.name if node is not None else "")
        method, number = (
            _method(asked, Method.UDP, HOST_ECHO_PORT) if node is not None else _method(asked, Method.TCP, port or 443)
        )
    _common_family(request, source, (address,), cluster)
    return Question(
        Flow(source=_at(source, family, cluster), destination=target, method=method, family=family, port=number)
    )


def _split(text: str) -> tuple[str | None, int]:
    """IP, IP:PORT or [IPv6]:PORT."""
    for address, port in ((text, ""), text.rsplit(":", 1) if ":" in text else (text, "")):
        try:
            found = str(ip_address(address.strip("[]")))
        except ValueError:
            continue
        if port and not (port.isdigit() and 1 <= int(port) <= 65535):
            raise TargetError(f"port {port!r} of {text!r} is not in 1…65535")
        return found, int(port or 0)
    return None, 0


def _to_service(request: ProbeRequest, source: Place, cluster: ClusterState) -> Question:
    name, _, port_text = request.destination.removeprefix("svc/").partition(":")
    service = cluster.services.get(name)
    if service is None:
        namespace = name.split("/")[0]
        raise TargetError(
            f"there is no Service {name!r}",
            _like("svc/", [s for s in cluster.services if s.startswith(f"{namespace}/")]),
            missing=True,
        )
    port = _service_port(service, port_text or (str(request.port) if request.port else ""), request.protocol)
    if service.external_name:
        return _to_name(
            msgspec.structs.replace(request, destination=f"dns/{service.name}.{service.namespace}.svc"), source, cluster
        )
    method = _service_method(request, port)
    backends = cluster.backends(service, port)
    addresses = service.cluster_ips or tuple(b.address for b in backends if b.ready)
    if not addresses:
        raise TargetError(f"Service {name} is headless and has no ready backend to ask", "probe one of its pods")
    family = _common_family(request, source, addresses, cluster)
    address = next(a for a in addresses if ip_address(a).version == family)
    start = _at(source, family, cluster)
    flow = Flow(
        source=start,
        destination=Place(address=address),
        method=method,
        family=family,
        port=port.port,
        service=service,
        service_port=port,
        virtual_address=address,
    )
    return Question(flow, tuple(to_backend(flow, b, cluster) for b in backends if b.ready and b.family == family))


def _service_port(service: Service, wanted: str, protocol: str | None) -> ServicePort:
    fits = [p for p in service.ports if protocol not in {"tcp", "udp"} or p.protocol.lower() == protocol]
    if not wanted:
        if not fits:
            raise TargetError(f"Service {service.key} has no {protocol or ''} port")
        return fits[0]
    for port in fits:
        if wanted in {str(port.port), port.name}:
            return port
    known = ", ".join(f"{p.port}/{p.protocol}" + (f" ({p.name})" if p.name else "") for p in service.ports)
    if wanted.isdigit() and not 1 <= int(wanted) <= 65535:
        raise TargetError(f"port {wanted} is not in 1…65535", f"Service {service.key} has: {known}")
    raise TargetError(f"Service {service.key} has no port {wanted!r}", f"it has: {known}", missing=True)


def _service_method(request: ProbeRequest, port: ServicePort) -> Method:
    if request.protocol is not None:
        return PROTOCOLS[request.protocol]
    if port.protocol == "TCP":
        return Method.TCP
    if port.port == 53:
        return Method.DNS
    if port.protocol == "SCTP":
        raise TargetError("SCTP cannot be probed yet", "probe the pod with --proto icmp")
    return Method.UDP


def _to_name(request: ProbeRequest, source: Place, cluster: ClusterState) -> Question:
    """Ask the cluster's DNS for a name, as the source's resolver would."""
    name = request.destination.removeprefix("dns/").rstrip(".")
    if not name or len(name) > 253 or any(not 0 < len(label) <= 63 for label in name.split(".")):
        raise TargetError(
            f"{request.destination!r} names no DNS name", "for example dns/payments.pay.svc.cluster.local"
        )
    service = cluster.dns_service()
    if service is None:
        hint = "looked for kube-system/kube-dns and the label k8s-app=kube-dns"
        raise TargetError("the cluster has no DNS Service", hint, missing=True)
    family = _common_family(request, source, service.cluster_ips, cluster)
    start = _at(source, family, cluster)
    port = _service_port(service, str(request.port or 53), "tcp" if request.protocol == "tcp" else "udp")
    return _ask_name(_qualified(name, source), start, family, service, port, cluster)


def dns_question(flow: Flow, cluster: ClusterState) -> Question | None:
    """The look-up that a flow to a URL begins with; None if the cluster has no DNS of its own."""
    service, host = cluster.dns_service(), urlsplit(flow.name).hostname
    if service is None or not service.cluster_ips or not host:
        return None
    family = ip_address(service.cluster_ips[0]).version
    start = _at(flow.source, family, cluster)
    return _ask_name(f"{host}.", start, family, service, _service_port(service, "53", "udp"), cluster)


def _ask_name(
    name: str, start: Place, family: int, service: Service, port: ServicePort, cluster: ClusterState
) -> Question:
    address = next(a for a in service.cluster_ips if ip_address(a).version == family)
    flow = Flow(
        source=start,
        destination=Place(address=address),
        method=Method.DNS,
        family=family,
        port=port.port,
        name=name,
        record="A" if family == 4 else "AAAA",
        over_tcp=port.protocol == "TCP",
        service=service,
        service_port=port,
        virtual_address=address,
    )
    backends = [b for b in cluster.backends(service, port) if b.ready and b.family == family]
    return Question(flow, tuple(to_backend(flow, b, cluster) for b in backends))


def _qualified(name: str, source: Place) -> str:
    """The name that a pod's search path leads to, for the short forms of cluster names; others stand as they are."""
    labels = name.split(".")
    if len(labels) == 1 and source.pod is not None:
        return f"{name}.{source.pod.namespace}.svc.cluster.local."
    if len(labels) == 2 and not name.endswith((".test", ".com", ".org", ".net", ".io")):
        return f"{name}.svc.cluster.local."
    return f"{name}.cluster.local." if labels[-1] == "svc" else f"{name}."


def _to_url(request: ProbeRequest, source: Place, cluster: ClusterState, egress: tuple[EgressTarget, ...]) -> Question:
    parts = urlsplit(request.destination)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise TargetError(f"the port of {request.destination!r} is not in 1…65535") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise TargetError(f"{request.destination!r} is no http or https URL")
    known = next((t for t in egress if (t.host, t.port) == (parts.hostname, port)), None)
    if known is None and not parts.hostname.endswith((".svc", ".cluster.local")):
        raise TargetError(
            f"{parts.hostname}:{port} is no configured egress target",
            "targets outside are named to the controller by --egress-target; known: "
            + (", ".join(t.url for t in egress) or "none"),
        )
    family = request.family or 4
    address = next((a for a in known.addresses if ip_address(a).version == family), "") if known is not None else ""
    flow = Flow(
        source=source,
        destination=Place(address=address),
        method=Method.HTTP,
        family=family,
        port=port,
        name=request.destination,
    )
    service, service_port = _named_service(parts.hostname, port, cluster)
    if service is None or service_port is None:
        return Question(flow)
    ready = [b for b in cluster.backends(service, service_port) if b.ready and b.family == family]
    flow = replace(flow, source=_at(source, family, cluster), service=service, service_port=service_port)
    # A backend is asked whether it takes a connection: the URL's port is the Service's, not its own.
    connecting = replace(flow, method=Method.TCP, name="")
    return Question(flow, tuple(to_backend(connecting, b, cluster) for b in ready))


def _named_service(host: str, port: int, cluster: ClusterState) -> tuple[Service | None, ServicePort | None]:
    """The Service and its TCP port that NAME.NAMESPACE.svc… stands for."""
    name, _, rest = host.partition(".")
    service = cluster.services.get(f"{rest.split('.')[0]}/{name}") if ".svc" in host else None
    ports = service.ports if service is not None else ()
    return service, next((p for p in ports if (p.port, p.protocol) == (port, "TCP")), None)
