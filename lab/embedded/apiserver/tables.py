"""The columns that `kubectl get` shows, as meta.k8s.io/v1 Tables. Source: k8s.io/kubernetes/pkg/printers."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from lab.embedded.apiserver.kinds import Kind, Object

Cell = str | int
# Name, priority (1: -o wide alone), and the cell of an object.
Column = tuple[str, int, Callable[[Object], Cell]]


def table(kind: Kind, items: Iterable[Object], version: str, *, include: str = "Metadata") -> Object:
    """Return the Table of some objects; `include` is Metadata, Object or None."""
    columns = _COLUMNS.get(kind.key, (_NAME, _AGE))
    rows = []
    for item in items:
        row: Object = {"cells": [cell(item) for _, _, cell in columns]}
        if include == "Object":
            row["object"] = item
        elif include == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": item["metadata"],
            }
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [
            {
                "name": name,
                "type": "string",
                "format": "name" if name == "Name" else "",
                "description": "",
                "priority": priority,
            }
            for name, priority, _ in columns
        ],
        "rows": rows,
    }


def ago(text: str | None) -> str:
    """Return how long ago a time was, as kubectl words it: 45s, 3m12s, 5h, 12d."""
    if not text:
        return "<unknown>"
    then = datetime.fromisoformat(text)
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def at(item: Any, path: str, default: Any = None) -> Any:
    """Return what lies at a dotted path of an object, else the default."""
    for name in path.split("."):
        item = item.get(name) if isinstance(item, dict) else None
    return default if item is None else item


def _cell(path: str, default: Cell = "<none>") -> Callable[[Object], Cell]:
    def cell(item: Object) -> Cell:
        value = at(item, path, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value)
        return str(value) or default

    return cell


def _joined(values: Iterable[object]) -> str:
    return ",".join(str(value) for value in values) or "<none>"


def _map(path: str) -> Callable[[Object], Cell]:
    return lambda item: _joined(f"{k}={v}" for k, v in sorted(at(item, path, {}).items()))


def _selector(path: str) -> Callable[[Object], Cell]:
    def cell(item: Object) -> Cell:
        selector = at(item, path, {})
        terms = [f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items())]
        for term in selector.get("matchExpressions") or ():
            key, values = term["key"], ",".join(term.get("values") or ())
            shown = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
            terms.append(shown.get(term["operator"], f"!{key}"))
        return _joined(terms)

    return cell


def _count(path: str) -> Callable[[Object], Cell]:
    return lambda item: len(at(item, path, ()))


def _pod_status(item: Object) -> Cell:
    if item["metadata"].get("deletionTimestamp"):
        return "Terminating"
    reason = at(item, "status.reason") or at(item, "status.phase", "Unknown")
    for status in reversed(at(item, "status.containerStatuses", [])):
        state = status.get("state") or {}
        reason = at(state, "waiting.reason") or at(state, "terminated.reason") or reason
    return str(reason)


def _pod_ready(item: Object) -> Cell:
    statuses = at(item, "status.containerStatuses", [])
    return f"{sum(bool(s.get('ready')) for s in statuses)}/{len(at(item, 'spec.containers', []))}"


def _restarts(item: Object) -> Cell:
    return int(sum(s.get("restartCount", 0) for s in at(item, "status.containerStatuses", [])))


def _ready_of(ready: str, wanted: str) -> Callable[[Object], Cell]:
    return lambda item: f"{at(item, ready, 0)}/{at(item, wanted, 0)}"


def _containers(item: Object) -> Cell:
    return _joined(c["name"] for c in at(item, "spec.template.spec.containers", []))


def _images(item: Object) -> Cell:
    return _joined(c.get("image") for c in at(item, "spec.template.spec.containers", []))


def _node_status(item: Object) -> Cell:
    ready = {c["type"]: c["status"] for c in at(item, "status.conditions", [])}.get("Ready")
    words = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    return ",".join(words + (["SchedulingDisabled"] if at(item, "spec.unschedulable") else []))


def _node_roles(item: Object) -> Cell:
    prefix = "node-role.kubernetes.io/"
    labels = at(item, "metadata.labels", {})
    return _joined(sorted(label[len(prefix) :] for label in labels if label.startswith(prefix)))


def _node_address(kind: str) -> Callable[[Object], Cell]:
    return lambda item: next((a["address"] for a in at(item, "status.addresses", []) if a["type"] == kind), "<none>")


def _external_ip(item: Object) -> Cell:
    spec = item["spec"]
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName"))
    given = [i.get("ip") or i.get("hostname") for i in at(item, "status.loadBalancer.ingress", [])]
    shown = _joined([*given, *(spec.get("externalIPs") or ())])
    return "<pending>" if shown == "<none>" and spec.get("type") == "LoadBalancer" else shown


def _service_ports(item: Object) -> Cell:
    return _joined(
        f"{p['port']}:{p['nodePort']}/{p['protocol']}" if p.get("nodePort") else f"{p['port']}/{p['protocol']}"
        for p in at(item, "spec.ports", [])
    )


def _slice_ports(item: Object) -> Cell:
    return _joined(p.get("port") for p in item.get("ports") or ())


def _slice_addresses(item: Object) -> Cell:
    every = [a for e in item.get("endpoints") or () for a in e["addresses"]]
    return _joined(every[:3]) + (f" + {len(every) - 3} more..." if len(every) > 3 else "")


def _endpoints(item: Object) -> Cell:
    return _joined(
        f"{address['ip']}:{port['port']}"
        for subset in item.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset.get("ports") or ()
    )


def _event_object(item: Object) -> Cell:
    owner = item.get("involvedObject") or item.get("regarding") or {}
    return f"{owner.get('kind', '').lower()}/{owner.get('name', '')}"


def _event_seen(item: Object) -> Cell:
    for name in ("series.lastObservedTime", "lastTimestamp", "deprecatedLastTimestamp", "eventTime"):
        if at(item, name):
            return ago(at(item, name))
    return ago(item["metadata"].get("creationTimestamp"))


def _event_message(item: Object) -> Cell:
    return str(item.get("message") or item.get("note") or "").strip()


_NAME: Column = ("Name", 0, _cell("metadata.name"))
_AGE: Column = ("Age", 0, lambda item: ago(item["metadata"].get("creationTimestamp")))
_WORKLOAD: tuple[Column, ...] = (("Containers", 1, _containers), ("Images", 1, _images))
_EVENT: tuple[Column, ...] = (
    ("Last Seen", 0, _event_seen),
    ("Type", 0, _cell("type")),
    ("Reason", 0, _cell("reason")),
    ("Object", 0, _event_object),
    ("Message", 0, _event_message),
    ("Name", 1, _cell("metadata.name")),
)
_ROLE_REF: Column = ("Role", 0, lambda item: f"{item['roleRef']['kind']}/{item['roleRef']['name']}")

_COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "namespaces": (_NAME, ("Status", 0, _cell("status.phase")), _AGE),
    "nodes": (
        _NAME,
        ("Status", 0, _node_status),
        ("Roles", 0, _node_roles),
        _AGE,
        ("Version", 0, _cell("status.nodeInfo.kubeletVersion", "")),
        ("Internal-IP", 1, _node_address("InternalIP")),
        ("External-IP", 1, _node_address("ExternalIP")),
        ("OS-Image", 1, _cell("status.nodeInfo.osImage", "<unknown>")),
        ("Kernel-Version", 1, _cell("status.nodeInfo.kernelVersion", "<unknown>")),
        ("Container-Runtime", 1, _cell("status.nodeInfo.containerRuntimeVersion", "<unknown>")),
    ),
    "pods": (
        _NAME,
        ("Ready", 0, _pod_ready),
        ("Status", 0, _pod_status),
        ("Restarts", 0, _restarts),
        _AGE,
        ("IP", 1, _cell("status.podIP")),
        ("Node", 1, _cell("spec.nodeName")),
        ("Nominated Node", 1, _cell("status.nominatedNodeName")),
        ("Readiness Gates", 1, lambda _item: "<none>"),
    ),
    "services": (
        _NAME,
        ("Type", 0, _cell("spec.type")),
        ("Cluster-IP", 0, _cell("spec.clusterIP")),
        ("External-IP", 0, _external_ip),
        ("Port(s)", 0, _service_ports),
        _AGE,
        ("Selector", 1, _map("spec.selector")),
    ),
    "endpoints": (_NAME, ("Endpoints", 0, _endpoints), _AGE),
    "configmaps": (_NAME, ("Data", 0, _count("data")), _AGE),
    "secrets": (_NAME, ("Type", 0, _cell("type")), ("Data", 0, _count("data")), _AGE),
    "events": _EVENT,
    "events.k8s.io/events": _EVENT,
    "apps/deployments": (
        _NAME,
        ("Ready", 0, _ready_of("status.readyReplicas", "spec.replicas")),
        ("Up-to-date", 0, _cell("status.updatedReplicas", 0)),
        ("Available", 0, _cell("status.availableReplicas", 0)),
        _AGE,
        *_WORKLOAD,
        ("Selector", 1, _selector("spec.selector")),
    ),
    "apps/daemonsets": (
        _NAME,
        ("Desired", 0, _cell("status.desiredNumberScheduled", 0)),
        ("Current", 0, _cell("status.currentNumberScheduled", 0)),
        ("Ready", 0, _cell("status.numberReady", 0)),
        ("Up-to-date", 0, _cell("status.updatedNumberScheduled", 0)),
        ("Available", 0, _cell("status.numberAvailable", 0)),
        ("Node Selector", 0, _map("spec.template.spec.nodeSelector")),
        _AGE,
        *_WORKLOAD,
        ("Selector", 1, _selector("spec.selector")),
    ),
    "apps/replicasets": (
        _NAME,
        ("Desired", 0, _cell("spec.replicas", 0)),
        ("Current", 0, _cell("status.replicas", 0)),
        ("Ready", 0, _cell("status.readyReplicas", 0)),
        _AGE,
        *_WORKLOAD,
        ("Selector", 1, _selector("spec.selector")),
    ),
    "apps/statefulsets": (
        _NAME,
        ("Ready", 0, _ready_of("status.readyReplicas", "spec.replicas")),
        _AGE,
        *_WORKLOAD,
    ),
    "batch/jobs": (
        _NAME,
        ("Completions", 0, _ready_of("status.succeeded", "spec.completions")),
        _AGE,
        *_WORKLOAD,
    ),
    "batch/cronjobs": (
        _NAME,
        ("Schedule", 0, _cell("spec.schedule")),
        ("Suspend", 0, _cell("spec.suspend")),
        ("Active", 0, _count("status.active")),
        _AGE,
    ),
    "coordination.k8s.io/leases": (_NAME, ("Holder", 0, _cell("spec.holderIdentity", "")), _AGE),
    "discovery.k8s.io/endpointslices": (
        _NAME,
        ("AddressType", 0, _cell("addressType")),
        ("Ports", 0, _slice_ports),
        ("Endpoints", 0, _slice_addresses),
        _AGE,
    ),
    "networking.k8s.io/networkpolicies": (_NAME, ("Pod-Selector", 0, _selector("spec.podSelector")), _AGE),
    "networking.k8s.io/ingresses": (
        _NAME,
        ("Class", 0, _cell("spec.ingressClassName")),
        ("Hosts", 0, lambda item: _joined(r.get("host", "*") for r in at(item, "spec.rules", []))),
        ("Address", 0, lambda item: _joined(i.get("ip") for i in at(item, "status.loadBalancer.ingress", []))),
        ("Ports", 0, lambda item: "80, 443" if at(item, "spec.tls") else "80"),
        _AGE,
    ),
    "networking.k8s.io/ingressclasses": (_NAME, ("Controller", 0, _cell("spec.controller")), _AGE),
    "policy/poddisruptionbudgets": (
        _NAME,
        ("Min Available", 0, _cell("spec.minAvailable", "N/A")),
        ("Max Unavailable", 0, _cell("spec.maxUnavailable", "N/A")),
        ("Allowed Disruptions", 0, _cell("status.disruptionsAllowed", 0)),
        _AGE,
    ),
    "rbac.authorization.k8s.io/rolebindings": (_NAME, _ROLE_REF, _AGE),
    "rbac.authorization.k8s.io/clusterrolebindings": (_NAME, _ROLE_REF, _AGE),
}
