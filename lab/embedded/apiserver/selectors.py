"""Label and field selectors of list and watch, from their text to a predicate.

Raises Refusal (400) for text that is no selector, or for a field that cannot be selected by.
"""

import re
from collections.abc import Callable
from typing import Any

from lab.embedded.apiserver.errors import Refusal
from lab.embedded.apiserver.kinds import Kind, Object

Predicate = Callable[[Object], bool]

_SET = re.compile(r"\s*(?P<key>[^\s!=<>,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)\s*")
_EQUAL = re.compile(r"\s*(?P<key>[^\s!=<>,()]+)\s*(?P<op>==|!=|=)\s*(?P<value>[^\s!=<>,()]*)\s*")
_EXISTS = re.compile(r"\s*(?P<not>!?)\s*(?P<key>[^\s!=<>,()]+)\s*")

_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_OBJECT_FIELDS = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
FIELDS: dict[str, tuple[str, ...]] = {
    "Pod": _POD_FIELDS,
    "Node": ("spec.unschedulable",),
    "Namespace": ("status.phase",),
    "Service": ("spec.clusterIP", "spec.type"),
    "Secret": ("type",),
    "ReplicaSet": ("status.replicas",),
    "Job": ("status.successful",),
    "Event": (
        *(f"{owner}.{name}" for owner in ("involvedObject", "regarding") for name in _OBJECT_FIELDS),
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}


def label_predicate(text: str) -> Predicate | None:
    """None where everything is selected."""
    if not text.strip():
        return None
    tests: list[Callable[[dict[str, str]], bool]] = []
    rest = text
    while True:
        test, end = _label_test(rest, text)
        tests.append(test)
        if end == len(rest):
            break
        if rest[end] != "," or end + 1 == len(rest):
            raise Refusal(400, f"unable to parse requirement: {text!r}")
        rest = rest[end + 1 :]
    return lambda item: all(test(item["metadata"].get("labels") or {}) for test in tests)


def _label_test(rest: str, text: str) -> tuple[Callable[[dict[str, str]], bool], int]:
    if found := _SET.match(rest):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values, found.end()
        return lambda labels: labels.get(key) not in values, found.end()
    if found := _EQUAL.match(rest):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value, found.end()
        return lambda labels: labels.get(key) == value, found.end()
    if found := _EXISTS.match(rest):
        key, wanted = found["key"], not found["not"]
        return lambda labels: (key in labels) is wanted, found.end()
    raise Refusal(400, f"unable to parse requirement: {text!r}")


def field_predicate(kind: Kind, text: str) -> Predicate | None:
    """None where everything is selected."""
    tests = [_field_test(kind, term) for term in text.split(",") if term.strip()]
    if not tests:
        return None
    return lambda item: all(test(item) for test in tests)


def _field_test(kind: Kind, term: str) -> Predicate:
    found = _EQUAL.fullmatch(term)
    if found is None:
        raise Refusal(400, f"invalid field selector: {term!r}")
    field, value, equal = found["key"], found["value"], found["op"] != "!="
    if field not in ("metadata.name", "metadata.namespace", *FIELDS.get(kind.name, ())):
        raise Refusal(400, f'field label not supported: "{field}"')
    path = field.split(".")
    return lambda item: (_text_at(item, path) == value) is equal


def _text_at(item: Any, path: list[str]) -> str:
    if path == ["source"]:
        path = ["source", "component"]
    for name in path:
        item = item.get(name) if isinstance(item, dict) else None
    if isinstance(item, bool):
        return str(item).lower()
    return "" if item is None else str(item)
