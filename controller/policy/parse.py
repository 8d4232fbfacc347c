"""Kubernetes dictionaries → pods, namespaces, nodes and Services.

Reads only what policies can see and checks only what it reads. Every error is an `ObjectError` that names object
and field. Unknown fields are passed over, as an API server of another version may add some. No I/O.
Source of the rules: kubernetes/pkg/apis/core/validation and apimachinery/pkg/util/validation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from ipaddress import ip_address
from typing import Any, NoReturn

from controller.policy.objects import (
    NAME_LABEL,
    PROTOCOLS,
    Labels,
    NamedPort,
    Namespace,
    Node,
    ObjectError,
    Operator,
    Owner,
    Pod,
    Requirement,
    Selector,
    Service,
    ServicePort,
)

PORT_NAME_LENGTH = 15
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# Of RFC 1123: a subdomain, and a label of it.
LONGEST_NAME, LONGEST_LABEL = 253, 63
_TERMINATED = ("Succeeded", "Failed")


class Field:
    """A value inside an object and the way to it. A null counts as missing, as in the API."""

    __slots__ = ("owner", "path", "value")

    def __init__(self, value: Any, owner: str, path: tuple[str | int, ...] = ()) -> None:
        """Take the value, the object's name for messages, and the path."""
        self.value = value
        self.owner = owner
        self.path = path

    def fail(self, problem: str) -> NoReturn:
        """Raise an `ObjectError` at this field."""
        raise ObjectError(self.owner, self.path, problem)

    def get(self, key: str) -> Field:
        """Give the member `key` of a mapping; missing where this field is missing."""
        if self.value is None:
            return Field(None, self.owner, (*self.path, key))
        if not isinstance(self.value, Mapping):
            self.fail(f"must be a mapping, not {_kind(self.value)}")
        return Field(self.value.get(key), self.owner, (*self.path, key))

    @property
    def missing(self) -> bool:
        """Whether the field is absent or null."""
        return self.value is None

    def items(self) -> list[Field]:
        """Give the members of a list; none where the field is missing."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self.fail(f"must be a list, not {_kind(self.value)}")
        return [Field(item, self.owner, (*self.path, at)) for at, item in enumerate(self.value)]

    def mapping(self) -> Mapping[str, Any]:
        """Give the mapping itself; empty where the field is missing."""
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            self.fail(f"must be a mapping, not {_kind(self.value)}")
        return self.value

    def text(self, default: str = "") -> str:
        """Give a string."""
        if self.value is None:
            return default
        if not isinstance(self.value, str):
            self.fail(f"must be a string, not {_kind(self.value)} (quote it)")
        return self.value

    def number(self, first: int, last: int) -> int:
        """Give an integer between `first` and `last`."""
        if self.value is None:
            self.fail("is required")
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.fail(f"must be a whole number, not {_kind(self.value)}")
        if not first <= self.value <= last:
            self.fail(f"must be between {first} and {last}, not {self.value}")
        return self.value

    def protocol(self) -> str:
        """Give TCP, UDP or SCTP; TCP where the field is missing."""
        protocol = self.text("TCP") or "TCP"
        if protocol not in PROTOCOLS:
            self.fail(f"unknown protocol {protocol!r}; one of TCP, UDP, SCTP")
        return protocol

    def port_name(self) -> str:
        """Give the name of a port (IANA service name, RFC 6335 section 5.1)."""
        name = self.text()
        if len(name) > PORT_NAME_LENGTH:
            self.fail(f"port name {name!r} has {len(name)} characters; at most {PORT_NAME_LENGTH}")
        if not _PORT_NAME.fullmatch(name) or "--" in name or not re.search("[a-z]", name):
            self.fail(f"{name!r} is no port name: lower-case letters, digits and single '-', at least a letter")
        return name

    def labels(self) -> Labels:
        """Give labels, sorted."""
        pairs = self.mapping()
        for key, value in pairs.items():
            if not isinstance(key, str):
                self.fail(f"label {key!r} must be a string (quote it)")
            if value is not None and not isinstance(value, str):
                self.get(key).fail(f"must be a string, not {_kind(value)} (quote it)")
        return tuple(sorted((key, value or "") for key, value in pairs.items()))

    def address(self) -> str:
        """Give an address in its shortest form; empty where the field is missing or empty."""
        text = self.text()
        if not text or text == "None":
            return ""
        try:
            return str(ip_address(text))
        except ValueError:
            self.fail(f"{text!r} is no IP address")

    def selector(self) -> Selector:
        """Give a label selector; an empty one selects everything."""
        wanted = [Requirement(key, Operator.IN, (value,)) for key, value in self.get("matchLabels").labels()]
        return Selector((*wanted, *(_requirement(item) for item in self.get("matchExpressions").items())))


def read_object(raw: Any) -> Field:
    """Wrap an object as Kubernetes writes it.

    Raises:
        ObjectError: it is no mapping, or has no kind or no name.

    """
    if not isinstance(raw, Mapping):
        raise ObjectError("document", (), f"is no Kubernetes object: {_kind(raw)} instead of a mapping")
    kind = raw.get("kind")
    if not isinstance(kind, str) or not kind:
        raise ObjectError("document", (), "is no Kubernetes object: it has no kind")
    version = raw.get("apiVersion")
    if not isinstance(version, str) or not version:
        raise ObjectError(kind, (), "is no Kubernetes object: it has no apiVersion")
    field = Field(raw, kind)
    metadata = field.get("metadata")
    name = metadata.get("name").text() or metadata.get("generateName").text()
    if not name:
        metadata.get("name").fail("is required")
    namespace = metadata.get("namespace").text()
    return Field(raw, f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}")


def name_of(raw: Field) -> str:
    """Give the object's name; as long as a DNS subdomain at most (RFC 1123), as that of any object."""
    metadata = raw.get("metadata")
    field = metadata.get("name")
    name = field.text()
    if name and len(name) > LONGEST_NAME:
        field.fail(f"name {name[:40]!r}… has {len(name)} characters; at most {LONGEST_NAME}")
    return name or metadata.get("generateName").text()


def namespace_of(raw: Field) -> str:
    """Give the object's namespace; `default` where it says none, as kubectl does."""
    field = raw.get("metadata").get("namespace")
    name = field.text() or "default"
    if len(name) > LONGEST_LABEL:
        field.fail(f"namespace {name[:40]!r}… has {len(name)} characters; at most {LONGEST_LABEL}")
    return name


def parse_namespace(raw: Mapping[str, Any]) -> Namespace:
    """Read a Namespace."""
    field = read_object(raw)
    return make_namespace(name_of(field), dict(field.get("metadata").get("labels").labels()))


def make_namespace(name: str, labels: Mapping[str, str] | None = None) -> Namespace:
    """Give a namespace with the label that the API server adds to every one."""
    return Namespace(name, tuple(sorted({**(labels or {}), NAME_LABEL: name}.items())))


def parse_node(raw: Mapping[str, Any]) -> Node:
    """Read a Node: InternalIP before other addresses."""
    field = read_object(raw)
    rows = []
    for item in field.get("status").get("addresses").items():
        kind = item.get("type").text()
        if kind in {"InternalIP", "ExternalIP"}:
            rows.append((kind != "InternalIP", item.get("address").address()))
    rows.sort(key=lambda row: row[0])
    labels = field.get("metadata").get("labels").labels()
    return Node(name_of(field), labels, tuple(address for _, address in rows if address))


def parse_pod(raw: Mapping[str, Any]) -> Pod:
    """Read a Pod."""
    field = read_object(raw)
    metadata, spec, status = field.get("metadata"), field.get("spec"), field.get("status")
    return Pod(
        namespace=namespace_of(field),
        name=name_of(field),
        labels=metadata.get("labels").labels(),
        addresses=_addresses(status, "podIPs", "podIP"),
        named_ports=named_ports(spec),
        node=spec.get("nodeName").text(),
        node_addresses=_addresses(status, "hostIPs", "hostIP"),
        host_network=spec.get("hostNetwork").value is True,
        terminated=status.get("phase").text() in _TERMINATED,
        owner=controller_of(metadata),
    )


def controller_of(metadata: Field) -> Owner | None:
    """Give the workload that controls the object, if it has one; the Node of a static pod is none."""
    for item in metadata.get("ownerReferences").items():
        if item.get("controller").value is True and item.get("kind").value != "Node":
            return Owner(item.get("kind").text() or "Pod", item.get("name").text())
    return None


def named_ports(spec: Field) -> tuple[NamedPort, ...]:
    """Give the named ports of a pod's containers, and of init containers that keep running (sidecars)."""
    containers = spec.get("containers").items()
    for container in spec.get("initContainers").items():
        if container.get("restartPolicy").value == "Always":
            containers.append(container)
    found: dict[NamedPort, None] = {}
    for container in containers:
        for port in container.get("ports").items():
            name, number, protocol = port.get("name"), port.get("containerPort"), port.get("protocol").protocol()
            if number.missing or name.missing or name.value == "":
                continue
            entry = NamedPort(name.port_name(), protocol, number.number(1, 65535))
            found[entry] = None
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.protocol, entry.port)))


def parse_service(raw: Mapping[str, Any]) -> Service:
    """Read a Service."""
    field = read_object(raw)
    spec = field.get("spec")
    addresses = [item.address() for item in (*spec.get("clusterIPs").items(), spec.get("clusterIP"))]
    addresses += [item.address() for item in spec.get("externalIPs").items()]
    for entry in field.get("status").get("loadBalancer").get("ingress").items():
        addresses.append(entry.get("ip").address())
    return Service(
        namespace=namespace_of(field),
        name=name_of(field),
        selector=spec.get("selector").labels(),
        ports=tuple(_service_port(item) for item in spec.get("ports").items()),
        addresses=tuple(dict.fromkeys(address for address in addresses if address)),
    )


def _service_port(item: Field) -> ServicePort:
    port, target = item.get("port").number(1, 65535), item.get("targetPort")
    goal: int | str = port
    if isinstance(target.value, str):
        goal = target.port_name()
    elif not target.missing:
        goal = target.number(1, 65535)
    return ServicePort(item.get("name").text(), item.get("protocol").protocol(), port, goal)


def _addresses(status: Field, many: str, one: str) -> tuple[str, ...]:
    found = [item.get("ip").address() for item in status.get(many).items()] or [status.get(one).address()]
    return tuple(address for address in found if address)


def _requirement(item: Field) -> Requirement:
    key, operator, values = item.get("key").text(), item.get("operator").text(), item.get("values")
    if not key:
        item.get("key").fail("is required")
    if operator not in set(Operator):
        item.get("operator").fail(f"unknown operator {operator!r}; one of {', '.join(Operator)}")
    texts = tuple(value.text() for value in values.items())
    if operator in {Operator.IN, Operator.NOT_IN}:
        if not texts:
            values.fail(f"operator {operator} needs at least one value")
    elif texts:
        values.fail(f"operator {operator} takes no values")
    return Requirement(key, Operator(operator), tuple(sorted(set(texts))))


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "true or false", type(None): "nothing"}
    names |= {date: "a date", datetime: "a date"}
    return names.get(type(value), f"the number {value}" if isinstance(value, int | float) else "something else")


def walk_list(raw: Any) -> Iterator[tuple[Any, tuple[str | int, ...]]]:
    """Give the object, or those of a List kind, each with its path in the document."""
    if isinstance(raw, Mapping) and str(raw.get("kind", "")).endswith("List") and "items" in raw:
        items = raw["items"] or []
        if not isinstance(items, list):
            raise ObjectError(str(raw.get("kind")), ("items",), "must be a list")
        for at, item in enumerate(items):
            if isinstance(item, dict) and "kind" not in item and raw["kind"] != "List":
                item = {"kind": raw["kind"][:-4], "apiVersion": raw.get("apiVersion"), **item}  # noqa: PLW2901
            for inner, path in walk_list(item):
                yield inner, ("items", at, *path)
    else:
        yield raw, ()
