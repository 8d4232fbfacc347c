"""Services to EndpointSlices, as kube-controller-manager's endpointslice controller makes them. Pure.

One slice a Service and family (a lab's Services have far fewer than 100 endpoints). Ports are those of the pods: named
target ports are resolved per pod, and pods that resolve them differently get slices of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from lab.client import Object
from lab.embedded.cluster import objects

MANAGED_BY: Final = "endpointslice-controller.k8s.io"
SERVICE_LABEL: Final = "kubernetes.io/service-name"
MANAGED_LABEL: Final = "endpointslice.kubernetes.io/managed-by"


def slices_for(service: Object, pods: Iterable[Object], zones: Mapping[str, str]) -> list[Object]:
    """Return the slices that `service` should have; `zones` is node name → zone. Empty without a selector."""
    spec = service["spec"]
    selector = spec.get("selector")
    if not selector or spec.get("type") == "ExternalName":
        return []
    chosen = [
        pod
        for pod in pods
        if objects.namespace(pod) == objects.namespace(service)
        and all(objects.labels(pod).get(key) == value for key, value in selector.items())
        and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]
    slices = []
    for family in spec.get("ipFamilies") or ["IPv4"]:
        groups: dict[str, tuple[list[Object], list[Object]]] = {}
        for pod in sorted(chosen, key=objects.name):
            address = _address(pod, family)
            if address is None:
                continue
            ports = _ports(service, pod)
            _, endpoints = groups.setdefault(objects.digest(ports), (ports, []))
            endpoints.append(_endpoint(service, pod, address, zones))
        # a Service without endpoints has a slice all the same, as in a real cluster
        for key, (ports, endpoints) in (groups or {"": (_ports(service, None), [])}).items():
            extra = key if len(groups) > 1 else ""
            slices.append(_slice(service, family, extra, ports, endpoints))
    return slices


def _slice(service: Object, family: str, extra: str, ports: list[Object], endpoints: list[Object]) -> Object:
    labels = dict(objects.labels(service))
    labels |= {SERVICE_LABEL: objects.name(service), MANAGED_LABEL: MANAGED_BY}
    if service["spec"].get("clusterIP") == "None":
        labels["service.kubernetes.io/headless"] = ""
    suffix = objects.short_hash(objects.uid(service), family, extra)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{objects.name(service)}-{suffix}",
            "namespace": objects.namespace(service),
            "labels": labels,
            "ownerReferences": [objects.owner_reference(service, "Service", "v1")],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    }


def _address(pod: Object, family: str) -> str | None:
    for entry in (pod.get("status") or {}).get("podIPs") or []:
        if (":" in entry["ip"]) == (family == "IPv6"):
            return str(entry["ip"])
    return None


def _ports(service: Object, pod: Object | None) -> list[Object]:
    ports = []
    for port in service["spec"].get("ports") or []:
        protocol = port.get("protocol") or "TCP"
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else _named(pod, target, protocol)
        if number is not None:
            ports.append({"name": port.get("name") or "", "port": number, "protocol": protocol})
    return ports


def _named(pod: Object | None, target: str, protocol: str) -> int | None:
    if pod is None:
        return None
    for _, port in objects.container_ports(pod):
        if port.get("name") == target and (port.get("protocol") or "TCP") == protocol:
            return int(port["containerPort"])
    return None


def _endpoint(service: Object, pod: Object, address: str, zones: Mapping[str, str]) -> Object:
    serving = objects.condition_true(pod, "Ready")
    going = objects.terminating(pod)
    always = bool(service["spec"].get("publishNotReadyAddresses"))
    node = pod["spec"].get("nodeName")
    endpoint: dict[str, Any] = {
        "addresses": [address],
        "conditions": {
            "ready": always or (serving and not going),
            "serving": serving,
            "terminating": going,
        },
        "targetRef": {
            "kind": "Pod",
            "name": objects.name(pod),
            "namespace": objects.namespace(pod),
            "uid": objects.uid(pod),
        },
    }
    if node:
        endpoint["nodeName"] = node
        if node in zones:
            endpoint["zone"] = zones[node]
    hostname = pod["spec"].get("hostname")
    if hostname and pod["spec"].get("subdomain") == objects.name(service):
        endpoint["hostname"] = hostname
    return endpoint


def same(have: Object, want: Object) -> bool:
    """Return whether an existing slice says what it should."""
    have_labels = objects.labels(have)
    return (
        (have.get("endpoints") or []) == want["endpoints"]
        and (have.get("ports") or []) == want["ports"]
        and all(have_labels.get(key) == value for key, value in objects.labels(want).items())
    )
