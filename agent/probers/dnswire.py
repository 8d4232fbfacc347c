"""DNS questions and answers on the wire (RFC 1035, 2782, 3596). Pure; a small part of DNS, for probes only."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

TYPES: Final = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33}
_NAMES: Final = {number: name for name, number in TYPES.items()}
_RCODES: Final = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH"}
_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
NXDOMAIN: Final = 3
MAX_ANSWERS: Final = 64


class WireError(ValueError):
    """A name that cannot be asked for, or a message that is no answer to the question; the text says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: response code, whether it was cut short, and the records as text ("A 10.0.0.1")."""

    rcode: int
    truncated: bool
    records: tuple[str, ...]

    @property
    def rcode_name(self) -> str:
        """The response code as tools print it."""
        return _RCODES.get(self.rcode, f"RCODE{self.rcode}") if self.rcode else "NOERROR"

    def addresses(self) -> tuple[str, ...]:
        """The addresses among the records."""
        return tuple(r.split(" ", 1)[1] for r in self.records if r.startswith(("A ", "AAAA ")))


def encode_name(name: str) -> bytes:
    """A domain name as labels. Raises WireError for labels over 63 or names over 255 octets."""
    out = bytearray()
    for label in name.rstrip(".").split("."):
        if not label and name.rstrip("."):
            raise WireError(f"{name!r} has an empty label")
        if not label:
            break
        raw = label.encode("ascii") if label.isascii() else label.encode("idna")
        if len(raw) > 63:
            raise WireError(f"{name!r} has a label of more than 63 octets")
        out += bytes((len(raw),)) + raw
    if len(out) > 254:
        raise WireError(f"{name!r} is longer than 255 octets")
    return bytes(out) + b"\0"


def encode_question(number: int, name: str, record: str) -> bytes:
    """A query with recursion desired. Raises WireError for a name or record type that cannot be asked for."""
    kind = TYPES.get(record.upper() or "A")
    if kind is None:
        raise WireError(f"record type {record!r} is not known")
    return _HEADER.pack(number, 0x0100, 1, 0, 0, 0) + encode_name(name) + struct.pack("!HH", kind, 1)


def decode_reply(data: bytes, query: bytes) -> Reply:
    """Read the answer to `query`. Raises WireError where it is none: wrong id, wrong question, cut off, no answer."""
    try:
        number, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
        if number != int.from_bytes(query[:2], "big"):
            raise WireError("the id is of another question")
        if not flags & 0x8000:
            raise WireError("it is no answer")
        offset = _HEADER.size
        if questions:
            name, offset = _name(data, offset)
            asked, _ = _name(query, _HEADER.size)
            if name.lower() != asked.lower() or data[offset : offset + 4] != query[-4:]:
                raise WireError(f"it answers another question: {name or '.'}")
            offset += 4
        elif not flags & 15:
            raise WireError("it repeats no question")
        records: list[str] = []
        for _ in range(min(answers, MAX_ANSWERS)):
            _owner, offset = _name(data, offset)
            kind, _class, _ttl, length = _RECORD.unpack_from(data, offset)
            offset += _RECORD.size
            if offset + length > len(data):
                # A truncated answer may end within a record; what came before holds.
                break
            records.append(_record(data, offset, length, kind))
            offset += length
    except (struct.error, IndexError, ValueError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"malformed: {error}") from None
    return Reply(flags & 15, bool(flags & 0x0200), tuple(records))


def _name(data: bytes, offset: int) -> tuple[str, int]:
    labels: list[str] = []
    end = -1
    for _ in range(128):
        length = data[offset]
        if length >= 0xC0:
            if end < 0:
                end = offset + 2
            offset = (length & 0x3F) << 8 | data[offset + 1]
            continue
        offset += 1
        if length == 0:
            return ".".join(labels), end if end >= 0 else offset
        labels.append(data[offset : offset + length].decode("latin-1"))
        offset += length
    raise WireError("a name points at itself")


def _record(data: bytes, offset: int, length: int, kind: int) -> str:
    body = data[offset : offset + length]
    name = _NAMES.get(kind, f"TYPE{kind}")
    if kind == TYPES["A"] and length == 4:
        return f"A {socket.inet_ntop(socket.AF_INET, body)}"
    if kind == TYPES["AAAA"] and length == 16:
        return f"AAAA {socket.inet_ntop(socket.AF_INET6, body)}"
    if name in ("CNAME", "NS", "PTR", "SOA"):
        return f"{name} {_name(data, offset)[0]}."
    if name == "MX":
        return f"MX {int.from_bytes(body[:2], 'big')} {_name(data, offset + 2)[0]}."
    if name == "SRV":
        priority, weight, port = struct.unpack_from("!HHH", body)
        return f"SRV {priority} {weight} {port} {_name(data, offset + 6)[0]}."
    if name == "TXT":
        parts: list[str] = []
        at = 0
        while at < length:
            parts.append(body[at + 1 : at + 1 + body[at]].decode("utf-8", "replace"))
            at += 1 + body[at]
        return "TXT " + "".join(parts)
    return f"{name} {body[:64].hex()}"
