"""Values of nft expressions: what a packet has in a field, and whether that is in a literal, range, prefix or set.

A value is a number or a word. `Unknown` cannot be told from the packet as it is known; `Absent` means that the packet
has no such field, which ends the rule in the kernel, whatever the operator. Source: nft(8), libnftables-json(5).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from agent.host.netfilter.packet import PROTOCOL_NUMBERS, WITH_PORTS, Seen, network, number, spell
from agent.host.netfilter.world import World
from agent.host.netfilter.xt_matches import ICMP6_TYPES, ICMP_TYPES
from model.facts import RouteQuery


@dataclass(frozen=True, slots=True)
class Unknown:
    """Cannot be told; `name` is the expression."""

    name: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The packet has no such field."""


@dataclass(frozen=True, slots=True)
class Chance:
    """A number that chance picks from 0 to `below` - 1, plus `offset`."""

    below: int
    offset: int


@dataclass(frozen=True, slots=True)
class IcmpType:
    """A message type, whose names mean other numbers in ICMP than in ICMPv6."""

    protocol: str
    number: int


Value = int | str | bool | tuple[Any, ...] | Unknown | Absent | Chance | IcmpType
ABSENT: Final = Absent()
WORDS: Final[dict[str, int]] = {**PROTOCOL_NUMBERS, "true": 1, "false": 0}


def value_of(left: Any, packet: Seen, world: World) -> Value:
    """What the packet has where the expression looks."""
    if not isinstance(left, dict):
        return literal(left)
    kind, inner = next(iter(left.items()))
    if kind == "payload":
        return _payload(inner, packet)
    if kind == "meta":
        return _meta(inner["key"], packet)
    if kind == "ct":
        return _ct(inner, packet, world)
    if kind == "fib":
        return _fib(inner, packet, world)
    if kind == "concat":
        return tuple(value_of(part, packet, world) for part in inner)
    if kind in {"&", "|", "^", "<<", ">>"}:
        return _calculated(kind, [value_of(part, packet, world) for part in inner])
    if kind == "numgen":
        return Chance(inner.get("mod", 1), inner.get("offset", 0))
    if kind == "map":
        return Unknown("map")
    return literal(left) if kind in {"prefix", "range"} else Unknown(kind)


def literal(value: Any) -> Value:
    """A constant: an address as its number, everything else as nft prints it."""
    if isinstance(value, str):
        if value.startswith("0x"):
            return int(value, 16)
        if "." in value or ":" in value:
            try:
                return number(value)
            except ValueError:
                return value
    if isinstance(value, dict) and "concat" in value:
        return tuple(literal(part) for part in value["concat"])
    if isinstance(value, list):
        return tuple(literal(part) for part in value)
    if isinstance(value, dict) and "|" in value:
        return _calculated("|", [literal(part) for part in value["|"]])
    return value if isinstance(value, int | str) else Unknown("literal")


def _payload(inner: dict[str, Any], packet: Seen) -> Value:
    protocol, name = inner.get("protocol", ""), inner.get("field", "")
    if protocol in {"ip", "ip6"}:
        return _network_field(protocol, name, packet)
    if protocol in {*WITH_PORTS, "th"}:
        return _port_field(protocol, name, packet)
    if protocol in {"icmp", "icmpv6"}:
        if packet.protocol != protocol:
            return ABSENT
        if name == "type":
            return IcmpType(protocol, packet.icmp_type)
        return 0 if name == "code" and packet.icmp_type in {0, 8, 128, 129} else Unknown(f"{protocol} {name}")
    return ABSENT if protocol == "arp" else Unknown(f"{protocol or 'raw payload'} {name}".strip())


def _network_field(protocol: str, name: str, packet: Seen) -> Value:
    if packet.family != (4 if protocol == "ip" else 6):
        return ABSENT
    fixed: dict[str, Value] = {
        "saddr": packet.source,
        "daddr": packet.destination,
        "protocol": PROTOCOL_NUMBERS.get(packet.protocol, 255),
        "nexthdr": PROTOCOL_NUMBERS.get(packet.protocol, 255),
        "version": 4 if protocol == "ip" else 6,
    }
    return fixed.get(name, Unknown(f"{protocol} {name}"))


def _port_field(protocol: str, name: str, packet: Seen) -> Value:
    if packet.protocol not in WITH_PORTS:
        return Unknown(f"th {name}") if protocol == "th" else ABSENT
    if protocol not in {"th", packet.protocol}:
        return ABSENT
    if name == "sport":
        return packet.source_port
    if name == "dport":
        return packet.destination_port
    is_first = protocol == "tcp" and name == "flags" and packet.state == "new"
    return TCP_FLAGS["syn"] if is_first else Unknown(f"{protocol} {name}")


def _meta(key: str, packet: Seen) -> Value:
    if key == "mark":
        return Unknown("meta mark") if packet.mark is None else packet.mark
    fixed: dict[str, Value] = {
        "l4proto": PROTOCOL_NUMBERS.get(packet.protocol, 255),
        "nfproto": "ipv4" if packet.family == 4 else "ipv6",
        "protocol": "ip" if packet.family == 4 else "ip6",
        "iifname": packet.incoming,
        "iif": packet.incoming,
        "oifname": packet.outgoing,
        "oif": packet.outgoing,
        "pkttype": "unicast",
    }
    if key in {"ibrname", "obrname", "ibrport", "iiftype"} or key not in fixed:
        return Unknown(f"meta {key}")
    return fixed[key]


def _ct(inner: dict[str, Any], packet: Seen, world: World) -> Value:
    key, asked = inner["key"], world.asked
    if key == "state":
        return packet.state
    if packet.state == "untracked":
        return ABSENT
    if key == "mark":
        return Unknown("ct mark") if packet.ct_mark is None else packet.ct_mark
    if packet.state != "new":
        return Unknown(f"ct {key}")
    if key == "direction":
        return "original"
    if inner.get("dir") == "original" or key.startswith("original "):
        fixed: dict[str, Value] = {
            "saddr": asked.source, "ip saddr": asked.source, "ip6 saddr": asked.source,
            "daddr": asked.destination, "ip daddr": asked.destination, "ip6 daddr": asked.destination,
            "proto-src": asked.source_port, "proto-dst": asked.destination_port,
            "protocol": PROTOCOL_NUMBERS.get(asked.protocol, 255),
        }  # fmt: skip
        return fixed.get(key, Unknown(f"ct {key}"))
    return Unknown(f"ct {key}")


def _fib(inner: dict[str, Any], packet: Seen, world: World) -> Value:
    flags = inner.get("flags", [])
    flags = {flags} if isinstance(flags, str) else set(flags)
    is_source = "saddr" in flags
    address = packet.source if is_source else packet.destination
    device = packet.incoming if "iif" in flags else packet.outgoing if "oif" in flags else ""
    if inner.get("result") == "type":
        found = world.host.address_type(packet.family, address, device)
        if found == "unicast":
            answer = world.host.ask(RouteQuery(destination=spell(packet.family, address)))
            if answer.errno:
                return answer.type or Unknown("fib type of no route")
        return found
    if is_source and "iif" in flags and inner.get("result") in {"oif", "oifname", "check"}:
        found_route = world.host.reverse_path(packet, loose=False, with_mark="mark" in flags)
        # A missing route is 0 as an index and "" as a name; nft prints both as `missing`, or compares with 0.
        if inner["result"] == "check":
            return found_route
        return packet.incoming if found_route else 0
    return Unknown("fib")


def _calculated(operator: str, values: list[Value]) -> Value:
    for value in values:
        if isinstance(value, Absent | Unknown):
            return value
    values = [_flag_bits(value) for value in values]
    if not all(isinstance(value, int) for value in values) or not values:
        return Unknown(operator)
    result = int(values[0])  # type: ignore[arg-type]
    for value in values[1:]:
        other = int(value)  # type: ignore[arg-type]
        if operator == "&":
            result &= other
        elif operator == "|":
            result |= other
        elif operator == "^":
            result ^= other
        else:
            result = (result << other) & 0xFFFFFFFF if operator == "<<" else result >> other
    return result


def _flag_bits(value: Value) -> Value:
    """TCP flags in words as a number."""
    words = value if isinstance(value, tuple) else (value,)
    if words and all(isinstance(word, str) and word in TCP_FLAGS for word in words):
        return sum(TCP_FLAGS[word] for word in words)
    return value


def is_equal(value: Value, wanted: Any) -> bool | None:
    """Whether a packet's value is the literal, or in the range, prefix, or list of flags; None if not known."""
    if isinstance(value, Unknown | Chance):
        return None
    if isinstance(value, Absent):
        return False
    if isinstance(wanted, dict):
        return _is_in(value, wanted)
    if isinstance(value, tuple):
        return _all_equal(value, wanted if isinstance(wanted, list) else [wanted])
    if isinstance(value, IcmpType):
        found = wanted if isinstance(wanted, int) else ICMP_NAMES[value.protocol].get(wanted)
        return None if found is None else found == value.number
    if isinstance(wanted, bool):
        return bool(value) == wanted
    if isinstance(value, str):
        return _is_word(value, wanted)
    found = _number(wanted)
    return None if found is None else found == value


def _is_word(value: str, wanted: Any) -> bool | None:
    if isinstance(wanted, int):
        return False
    if not isinstance(wanted, str):
        return None
    if value == "unicast" and wanted == "host":
        return True
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def _is_in(value: Value, wanted: dict[str, Any]) -> bool | None:
    kind, inner = next(iter(wanted.items()))
    if kind == "elem":
        return is_equal(value, inner["val"])
    if kind == "set":
        return is_any(value, inner)
    if kind == "concat":
        return _all_equal(value, inner)
    if isinstance(value, IcmpType) and kind == "range":
        bounds = [part if isinstance(part, int) else ICMP_NAMES[value.protocol].get(part, -1) for part in inner]
        return None if -1 in bounds else bounds[0] <= value.number <= bounds[1]
    if not isinstance(value, int):
        return None
    if kind == "prefix":
        first, last, _ = network(f"{inner['addr']}/{inner['len']}")
        return first <= value <= last
    if kind == "range":
        low, high = (_number(part) for part in inner)
        return None if low is None or high is None else low <= value <= high
    found = literal(wanted)
    return found == value if isinstance(found, int) else None


def _all_equal(value: Value, wanted: list[Any]) -> bool | None:
    if not isinstance(value, tuple) or len(value) != len(wanted):
        return None
    answer: bool | None = True
    for part, its in zip(value, wanted, strict=True):
        one = is_equal(part, its)
        if one is False:
            return False
        if one is None:
            answer = None
    return answer


def is_any(value: Value, elements: list[Any]) -> bool | None:
    """Whether the value is among the elements."""
    answer: bool | None = False
    for element in elements:
        one = is_equal(value, element)
        if one:
            return True
        if one is None:
            answer = None
    return answer


def entries(value: Value, elements: list[Any]) -> Iterator[tuple[Any, bool, str]]:
    """What a map gives for a value: each result, whether it is sure, and the element's comment.

    All results, unsure, where chance picks.
    """
    if isinstance(value, Chance):
        for element in elements:
            yield element[1], value.below == 1, ""
        return
    catch_all = None
    for element in elements:
        key, result, comment = element[0], element[1], ""
        if isinstance(key, dict) and "elem" in key:
            comment = key["elem"].get("comment", "")
            key = key["elem"]["val"]
        if key == "*":
            catch_all = result
            continue
        one = is_equal(value, key)
        if one:
            yield result, True, comment
            return
        if one is None:
            yield result, False, comment
    if catch_all is not None:
        yield catch_all, True, ""


def _number(wanted: Any) -> int | None:
    value = _flag_bits(literal(wanted))
    if isinstance(value, int):
        return int(value)
    if not isinstance(value, str):
        return None
    if value not in WORDS:
        try:
            return socket.getprotobyname(value)
        except OSError:
            return None
    return WORDS[value]


TCP_FLAGS: Final = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
ICMP_NAMES: Final = {
    "icmp": ICMP_TYPES,
    "icmpv6": {
        **ICMP6_TYPES, "nd-router-solicit": 133, "nd-router-advert": 134, "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136, "nd-redirect": 137, "mld-listener-query": 130, "mld-listener-report": 131,
        "mld-listener-done": 132, "mld2-listener-report": 143,
    },
}  # fmt: skip
