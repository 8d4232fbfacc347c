"""Raw objects of the Kubernetes API → typed values. Lenient: what is missing gets the API's own default.

Pure. A field of a wrong type raises TypeError, ValueError, AttributeError or KeyError: the caller leaves that object
out and counts it, so that one odd object does not hide all others.
"""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from typing import Any

from controller.cluster.state import (
    Condition,
    ContainerPort,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    Service,
    ServicePort,
    SliceEndpoint,
    SlicePort,
    Workload,
)

Raw = dict[str, Any]
ZONE_LABELS = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
SERVICE_LABEL = "kubernetes.io/service-name"


def seconds(text: str | None) -> float:
    """An RFC 3339 time in seconds since the epoch, 0 for none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


def address(text: str) -> str:
    """An address in its one canonical form."""
    return str(ip_address(text))


def key_of(raw: Raw) -> str:
    """namespace/name, or the name alone."""
    meta = raw["metadata"]
    namespace = meta.get("namespace")
    return f"{namespace}/{meta['name']}" if namespace else str(meta["name"])


def parse_node(raw: Raw) -> Node:
    """A Node; its `ready_reason` is "reason: message" unless it is Ready."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = meta.get("labels") or {}
    condition: Raw = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    ready = {"True": True, "False": False}.get(condition.get("status", ""))
    reason = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    internal = [a["address"] for a in status.get("addresses") or () if a["type"] == "InternalIP"]
    return Node(
        name=meta["name"],
        uid=meta.get("uid", ""),
        addresses=tuple(address(a) for a in internal),
        pod_cidrs=tuple(cidrs),
        zone=next((labels[label] for label in ZONE_LABELS if label in labels), ""),
        ready=ready,
        ready_reason="" if ready else reason,
        unschedulable=bool(spec.get("unschedulable")),
        deleting="deletionTimestamp" in meta,
        labels=labels,
        annotations=meta.get("annotations") or {},
    )


def parse_pod(raw: Raw) -> Pod:
    """A Pod. Static pods' and controllers' owner is the one marked `controller`."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    owner: Raw = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), {})
    conditions = tuple(_condition(c) for c in status.get("conditions") or ())
    ready_condition = next((c for c in conditions if c.type == "Ready"), None)
    ready = ready_condition is not None and ready_condition.status == "True"
    addresses = [a["ip"] for a in status.get("podIPs") or ()] or [status[k] for k in ("podIP",) if status.get(k)]
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    return Pod(
        uid=meta["uid"],
        namespace=meta["namespace"],
        name=meta["name"],
        node=spec.get("nodeName") or "",
        addresses=tuple(address(a) for a in addresses),
        phase=status.get("phase") or "",
        ready=ready,
        was_ready=ready or _was_ready(ready_condition, status),
        host_network=bool(spec.get("hostNetwork")),
        deleting="deletionTimestamp" in meta,
        labels=meta.get("labels") or {},
        container_ports=tuple(
            ContainerPort(p.get("name") or "", p.get("protocol") or "TCP", int(p["containerPort"]))
            for c in containers
            for p in c.get("ports") or ()
        ),
        owner_kind=owner.get("kind", ""),
        owner_name=owner.get("name", ""),
        conditions=conditions,
        waiting_reasons=_waiting(status),
        created_at=seconds(meta.get("creationTimestamp")),
        started_at=_started(status),
    )


def _started(status: Raw) -> float:
    again = any(c.get("restartCount") for c in status.get("containerStatuses") or ())
    starts = _starts(status)
    return max(starts) if starts and all(starts) and not again else 0.0


def _starts(status: Raw) -> list[float]:
    """When each container that runs was started, 0 for one that does not."""
    states = ((c.get("state") or {}).get("running") or {} for c in status.get("containerStatuses") or ())
    return [seconds(state.get("startedAt")) for state in states]


def _was_ready(ready: Condition | None, status: Raw) -> bool:
    """Whether a pod that is not ready was so before: its condition then changed after its containers had started."""
    if ready is None or not ready.changed_at:
        return False
    return 0.0 < max(_starts(status), default=0.0) < ready.changed_at


def _waiting(status: Raw) -> tuple[str, ...]:
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    states = ((c.get("state") or {}).get("waiting") or {} for c in containers)
    return tuple(state["reason"] for state in states if state.get("reason"))


def _condition(raw: Raw) -> Condition:
    return Condition(
        type=raw["type"],
        status=raw["status"],
        reason=raw.get("reason") or "",
        message=raw.get("message") or "",
        changed_at=seconds(raw.get("lastTransitionTime")),
    )


def parse_service(raw: Raw) -> Service:
    """A Service. `target_port` defaults to the port (API reference, ServicePort)."""
    meta, spec = raw["metadata"], raw.get("spec") or {}
    ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    ingress = ((raw.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return Service(
        uid=meta.get("uid", ""),
        namespace=meta["namespace"],
        name=meta["name"],
        type=spec.get("type") or "ClusterIP",
        headless="None" in ips,
        cluster_ips=tuple(address(ip) for ip in ips if ip not in ("None", "")),
        ports=tuple(
            ServicePort(
                name=p.get("name") or "",
                protocol=p.get("protocol") or "TCP",
                port=int(p["port"]),
                target_port=p.get("targetPort") or int(p["port"]),
                node_port=int(p.get("nodePort") or 0),
            )
            for p in spec.get("ports") or ()
        ),
        selector=spec.get("selector") or {},
        labels=meta.get("labels") or {},
        external_name=spec.get("externalName") or "",
        external_ips=tuple(address(ip) for ip in spec.get("externalIPs") or ()),
        internal_traffic_policy=spec.get("internalTrafficPolicy") or "Cluster",
        external_traffic_policy=spec.get("externalTrafficPolicy") or "Cluster",
        session_affinity=spec.get("sessionAffinity") or "None",
        load_balancer_addresses=tuple(address(i["ip"]) for i in ingress if i.get("ip")),
        written_at=_written(meta),
    )


def parse_slice(raw: Raw) -> EndpointSlice:
    """An EndpointSlice of discovery.k8s.io/v1."""
    meta = raw["metadata"]
    kind = raw.get("addressType") or "IPv4"
    return EndpointSlice(
        namespace=meta["namespace"],
        name=meta["name"],
        service=(meta.get("labels") or {}).get(SERVICE_LABEL, ""),
        address_type=kind,
        ports=tuple(
            SlicePort(p.get("name") or "", p.get("protocol") or "TCP", int(p["port"]))
            for p in raw.get("ports") or ()
            if p.get("port")
        ),
        endpoints=tuple(_endpoint(e, kind) for e in raw.get("endpoints") or ()),
    )


def _endpoint(raw: Raw, kind: str) -> SliceEndpoint:
    conditions, target = raw.get("conditions") or {}, raw.get("targetRef") or {}
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    return SliceEndpoint(
        addresses=tuple(a if kind == "FQDN" else address(a) for a in raw.get("addresses") or ()),
        ready=ready,
        serving=ready if serving is None else bool(serving),
        terminating=bool(conditions.get("terminating")),
        node=raw.get("nodeName") or "",
        zone=raw.get("zone") or "",
        target_kind=target.get("kind") or "",
        target_uid=target.get("uid") or "",
        target_namespace=target.get("namespace") or "",
        target_name=target.get("name") or "",
    )


def parse_namespace(raw: Raw) -> Namespace:
    """A Namespace."""
    meta = raw["metadata"]
    return Namespace(name=meta["name"], labels=meta.get("labels") or {}, deleting="deletionTimestamp" in meta)


def keep_policy(raw: Raw) -> Raw:
    """A NetworkPolicy as it is, with the kind that lists leave out of their items."""
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **raw}


def keep_admin_policy(kind: str, raw: Raw) -> Raw:
    """What an admin policy says, and whether it has conditions: something that implements it has then taken it up."""
    meta, status = raw["metadata"], raw.get("status") or {}
    kept: Raw = {
        "apiVersion": raw.get("apiVersion") or "policy.networking.k8s.io",
        "kind": kind,
        "metadata": {"name": meta["name"]},
        "spec": raw["spec"],
    }
    return kept | ({"status": {"conditions": True}} if status.get("conditions") else {})


def parse_workload(kind: str, raw: Raw) -> Workload:
    """A Deployment, StatefulSet (a missing `replicas` means 1) or DaemonSet (as many as nodes ask for it)."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    daemon = kind == "DaemonSet"
    replicas = status.get("desiredNumberScheduled") or 0 if daemon else spec.get("replicas")
    ready = status.get("numberReady" if daemon else "readyReplicas") or 0
    conditions = [c for c in status.get("conditions") or () if c.get("status") == "True"]
    return Workload(
        kind=kind,
        namespace=meta["namespace"],
        name=meta["name"],
        replicas=1 if replicas is None else int(replicas),
        ready=int(ready),
        selector=spec.get("selector") or {},
        template_labels=((spec.get("template") or {}).get("metadata") or {}).get("labels") or {},
        written_at=_written(meta),
        failure=next(
            (c.get("message") or c.get("reason") or "" for c in conditions if c["type"] == "ReplicaFailure"), ""
        ),
    )


def _written(meta: Raw) -> float:
    """The last write that was not of the status, by the API server's own book (metadata.managedFields)."""
    writes = (w.get("time") for w in meta.get("managedFields") or () if w.get("subresource") != "status")
    return max(map(seconds, (meta.get("creationTimestamp"), *writes)))
