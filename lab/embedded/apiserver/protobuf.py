"""Reads the protobuf bodies that some kubectl commands send (create deployment, auth can-i); answers stay JSON.

The field numbers come from Kubernetes' generated.proto files (protobuf.json). Source of the envelope:
k8s.io/apimachinery/pkg/runtime/generated.proto, message Unknown. Raises ValueError for bytes that are none of it.
"""

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

MAGIC = b"k8s\x00"
_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
_PACKAGES = {
    "": "k8s.io.api.core.v1.",
    "rbac.authorization.k8s.io": "k8s.io.api.rbac.v1.",
}
_SIGN = 1 << 63
_DEEPEST = 64


@cache
def _messages() -> dict[str, dict[int, tuple[str, str, str]]]:
    raw = Path(__file__).with_name("protobuf.json").read_bytes()
    table = msgspec.json.decode(raw, type=dict[str, dict[int, str]])
    return {
        name: {number: tuple(text.split()) for number, text in fields.items()}  # type: ignore[misc]
        for name, fields in table.items()
    }


def decode(raw: bytes) -> dict[str, Any]:
    """Return the object in an envelope, with apiVersion and kind."""
    if not raw.startswith(MAGIC):
        raise ValueError("no protobuf of Kubernetes: the magic number is missing")
    envelope = dict(_wire(raw[len(MAGIC) :]))
    kinds = dict(_wire(_bytes(envelope.get(1, b""))))
    api_version, kind = _bytes(kinds.get(1, b"")).decode(), _bytes(kinds.get(2, b"")).decode()
    group = api_version.rpartition("/")[0]
    name = _PACKAGES.get(group, f"k8s.io.api.{group.partition('.')[0]}.v1.") + kind
    if kind == "DeleteOptions":
        name = f"{_META}DeleteOptions"
    if name not in _messages():
        raise ValueError(f"unknown kind {kind!r} of {api_version!r}")
    return {**_message(name, _bytes(envelope.get(2, b"")), 0), "apiVersion": api_version, "kind": kind}


def _wire(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number, and a number or bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        form = tag & 7
        if form == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(form)
        if form == 2:
            size, at = _varint(raw, at)
        if size is None or at + size > len(raw):
            raise ValueError("malformed protobuf")
        yield tag >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw) and shift < 70:
        value |= (raw[at] & 127) << shift
        at += 1
        if raw[at - 1] < 128:
            return value, at
        shift += 7
    raise ValueError("malformed protobuf: a number has no end")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("malformed protobuf: bytes expected")  # noqa: TRY004 - the client's fault, not a type's
    return value


def _message(name: str, raw: bytes, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    fields = _messages()[name]
    result: dict[str, Any] = {}
    for number, value in _wire(raw):
        if number not in fields:
            continue
        form, kind, field = fields[number]
        if form == "map":
            pair = dict(_wire(_bytes(value)))
            key = _bytes(pair.get(1, b"")).decode()
            result.setdefault(field, {})[key] = _value(kind, pair.get(2, b""), depth)
        elif form == "many":
            result.setdefault(field, []).append(_value(kind, value, depth))
        elif form == "inline":
            result.update(_message(kind, _bytes(value), depth + 1))
        else:
            result[field] = _value(kind, value, depth)
    return {name: value for name, value in result.items() if not _left_out(name, value)}


def _left_out(name: str, value: Any) -> bool:
    """Go writes the zero values of what was not set; a number of replicas alone can mean its zero."""
    return value is None or value == "" or (value == 0 and name != "replicas" and not isinstance(value, bool))


def _value(kind: str, value: int | bytes, depth: int) -> Any:
    if kind == "bool":
        return bool(value)
    if kind in ("int32", "int64", "uint32", "uint64"):
        number = 0 if isinstance(value, bytes) else value
        return number - (_SIGN << 1) if number >= _SIGN else number
    if kind == "double":
        return struct.unpack("<d", _bytes(value))[0]
    raw = _bytes(value)
    if kind == "string":
        return raw.decode()
    if kind == "bytes":
        return base64.b64encode(raw).decode()
    special = _SPECIAL.get(kind.rpartition(".")[2])
    return special(dict(_wire(raw))) if special is not None else _message(kind, raw, depth + 1)


def _time(fields: dict[int, int | bytes]) -> str | None:
    seconds = fields.get(1, 0)
    if not isinstance(seconds, int) or not 0 < seconds < _SIGN:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _int_or_string(fields: dict[int, int | bytes]) -> int | str:
    if fields.get(1):
        return _bytes(fields.get(3, b"")).decode()
    number = fields.get(2, 0)
    return number if isinstance(number, int) else 0


def _quantity(fields: dict[int, int | bytes]) -> str:
    return _bytes(fields.get(1, b"")).decode()


_SPECIAL = {"Time": _time, "MicroTime": _time, "IntOrString": _int_or_string, "Quantity": _quantity}
