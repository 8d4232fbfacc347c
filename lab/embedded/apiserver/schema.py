"""What fields the kinds have: read from Kubernetes' own definitions (schema.json), never written by hand. Custom kinds,
and their definitions, are kept as they come.

`decode` does what Go's decoder and the API's required fields do between them: unknown fields are dropped and
reported, nulls vanish, wrong types are refused, and in a status absent required fields become zero values.
Must not know what values mean; that is `validation`.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from lab.embedded.apiserver.errors import Problem, required
from lab.embedded.apiserver.kinds import DEFINITIONS, KINDS, Kind

Definition = dict[str, Any]

_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_ZERO = {"string": "", "integer": 0, "boolean": False, "number": 0, "array": ()}
_INT32 = 2**31
_OPEN = "kubereach.lab.Custom"


@cache
def definitions() -> dict[str, Definition]:
    """All definitions, by name."""
    raw = Path(__file__).with_name("schema.json").read_bytes()
    loaded: dict[str, Definition] = msgspec.json.decode(raw)
    return loaded | {_OPEN: _open()}


def _open() -> Definition:
    """The definition of an object whose fields are not looked at."""
    texts = {name: {"type": "string"} for name in ("apiVersion", "kind")}
    inner = {name: {"type": "object"} for name in ("spec", "status")}
    return {
        "type": "object",
        "properties": {**texts, **inner, "metadata": {"$ref": f"#/definitions/{_META}.ObjectMeta"}},
    }


@cache
def _roots() -> dict[tuple[str, str], Definition]:
    openly = {(kind.group, kind.name): definitions()[_OPEN] for kind in KINDS if kind.custom or kind.key == DEFINITIONS}
    return openly | {
        (gvk["group"], gvk["kind"]): definition
        for name, definition in definitions().items()
        if name.startswith("io.k8s.api.")
        for gvk in definition.get("x-kubernetes-group-version-kind", ())
        if gvk["version"] == "v1"
    }


def definition_of(group: str, name: str) -> Definition:
    """The definition of a kind."""
    return _roots()[group, name]


def resolve(node: Definition) -> Definition:
    """Follow a reference, if it is one."""
    reference = node.get("$ref")
    return node if reference is None else definitions()[reference[len("#/definitions/") :]]


@dataclass(slots=True)
class Report:
    """What decoding found: `wrong` makes a 400, `unknown` too where the client is strict, `missing` a 422."""

    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[Problem] = field(default_factory=list)


def decode(kind: Kind, value: Any) -> tuple[Any, Report]:
    """Return the object with its known fields only, and what was found on the way."""
    return decode_as(definition_of(kind.group, kind.name), value)


def decode_as(definition: Definition, value: Any) -> tuple[Any, Report]:
    """The same, for a definition (e.g. of a Scale)."""
    report = Report()
    if not isinstance(value, dict):
        report.wrong.append(f"cannot unmarshal {_json_type(value)} into an object")
        return {}, report
    return _object(definition, value, "", report, in_status=False), report


def _decode(node: Definition, value: Any, path: str, report: Report, *, in_status: bool) -> Any:
    definition = resolve(node)
    kind = definition.get("type", "object")
    if kind == "object":
        if not isinstance(value, dict):
            return _mismatch(value, path, "object", report)
        return _object(definition, value, path, report, in_status=in_status)
    if kind == "array":
        if not isinstance(value, list):
            return _mismatch(value, path, "array", report)
        item = definition["items"]
        return [
            _decode(item, entry, f"{path}[{index}]", report, in_status=in_status)
            for index, entry in enumerate(value)
            if entry is not None
        ]
    return _scalar(node, definition, value, path, report)


def _object(definition: Definition, value: dict[str, Any], path: str, report: Report, *, in_status: bool) -> Any:
    properties = definition.get("properties")
    if properties is None:
        return _map(definition, value, path, report, in_status=in_status)
    result = {}
    for name, entry in value.items():
        node = properties.get(name)
        where = f"{path}.{name}" if path else name
        if node is None:
            report.unknown.append(where)
        elif entry is not None:
            inside = in_status or (not path and name == "status")
            result[name] = _decode(node, entry, where, report, in_status=inside)
    for name in definition.get("required", ()):
        if name not in result:
            _absent(properties[name], name, path, result, report, in_status=in_status)
    return result


def _map(definition: Definition, value: dict[str, Any], path: str, report: Report, *, in_status: bool) -> Any:
    node = definition.get("additionalProperties")
    if node is None:
        return value
    empty = resolve(node).get("type") == "string"
    return {
        name: "" if entry is None else _decode(node, entry, f"{path}.{name}", report, in_status=in_status)
        for name, entry in value.items()
        if entry is not None or empty
    }


def _absent(node: Definition, name: str, path: str, result: dict[str, Any], report: Report, *, in_status: bool) -> None:
    definition = resolve(node)
    where = f"{path}.{name}" if path else name
    if not path:
        return  # metadata, spec: what they must hold is asked for within
    if not in_status:
        # Clients send what Go leaves out when it is zero; only what cannot be zero is missed.
        if definition.get("type") in ("boolean",):
            result[name] = False
        else:
            report.missing.append(required(where))
    elif definition.get("type", "object") == "object":
        result[name] = _object(definition, {}, where, report, in_status=True)
    elif definition.get("format") != "date-time":
        zero = _ZERO[definition["type"]]
        result[name] = list(zero) if isinstance(zero, tuple) else zero


def zero_status(kind: Kind) -> dict[str, Any]:
    """The status of a new object: its required counters at zero."""
    node = definition_of(kind.group, kind.name)["properties"]["status"]
    zero: dict[str, Any] = _object(resolve(node), {}, "status", Report(), in_status=True)
    return zero


def _scalar(node: Definition, definition: Definition, value: Any, path: str, report: Report) -> Any:
    kind, form = definition["type"], definition.get("format")
    reference = node.get("$ref", "")
    if reference.endswith(".Quantity") and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if form == "int-or-string" and isinstance(value, int) and not isinstance(value, bool):
        return value
    good = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
    }[kind]
    if not good:
        return _mismatch(value, path, form or kind, report)
    if form == "int32" and not -_INT32 <= value < _INT32:
        report.wrong.append(f"cannot unmarshal number {value} into field {path} of type int32")
    elif form == "date-time" and not _TIME.fullmatch(value):
        report.wrong.append(f'parsing time "{value}" of field {path}: not RFC 3339')
    elif form == "byte":
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            report.wrong.append(f"illegal base64 data in field {path}")
    return value


def _mismatch(value: Any, path: str, expected: str, report: Report) -> Any:
    report.wrong.append(f"cannot unmarshal {_json_type(value)} into field {path} of type {expected}")
    return value


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")
