"""ipsets: reads `ipset save` and tells whether a packet is in a set.

Only the types that name addresses, networks, ports, devices and marks are judged; the others (MAC) are not: None.
Source: ipset(8).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from agent.host.netfilter.packet import PROTOCOL_NUMBERS, Seen, network
from agent.host.netfilter.rules import IpSet

ICMP_NAMES: Final = {"echo-request": (8, 128), "echo-reply": (0, 129)}


def parse(save: str) -> dict[str, IpSet]:
    """All sets of `ipset save`."""
    created: dict[str, tuple[str, tuple[str, ...]]] = {}
    elements: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for line in save.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "create":
            created[words[1]] = (words[2], tuple(words[3:]))
            elements[words[1]] = []
        elif len(words) >= 3 and words[0] == "add" and words[1] in elements:
            elements[words[1]].append((words[2], tuple(words[3:])))
    return {
        name: IpSet(name, kind, 6 if "inet6" in options else 4, options, tuple(elements[name]))
        for name, (kind, options) in created.items()
    }


def contains(sets: Mapping[str, IpSet], name: str, directions: tuple[str, ...], packet: Seen) -> bool | None:
    """Whether the packet is in the set; None if that cannot be judged."""
    found = sets.get(name)
    if found is None:
        return None
    storage, _, dimensions = found.kind.partition(":")
    if storage == "list":
        answers = [contains(sets, member, directions, packet) for member, _ in found.elements]
        return True if True in answers else (None if None in answers else False)
    kinds = tuple(dimensions.split(","))
    if any(kind not in {"ip", "net", "port", "iface", "mark"} for kind in kinds):
        return None
    if found.family != packet.family and any(kind in {"ip", "net"} for kind in kinds):
        return False
    values = tuple(_value(kind, directions[min(at, len(directions) - 1)], packet) for at, kind in enumerate(kinds))
    if any(value is None for value in values):
        return None
    return _is_element(found, kinds, values)


def _value(kind: str, direction: str, packet: Seen) -> object:
    is_source = direction == "src"
    if kind in {"ip", "net"}:
        return packet.source if is_source else packet.destination
    if kind == "port":
        number = PROTOCOL_NUMBERS.get(packet.protocol, -1)
        if packet.protocol in {"icmp", "icmpv6"}:
            return number, packet.icmp_type << 8
        return number, packet.source_port if is_source else packet.destination_port
    if kind == "iface":
        return packet.incoming if is_source else packet.outgoing
    return packet.mark


@lru_cache(maxsize=4096)
def _is_element(found: IpSet, kinds: tuple[str, ...], values: tuple[Any, ...]) -> bool:
    """The most specific element decides, since one marked `nomatch` takes out of a wider one."""
    best, is_in = -1, False
    for components, length, is_nomatch in _index(found, kinds):
        if length > best or (length == best and is_nomatch):
            for component, value in zip(components, values, strict=True):
                if isinstance(value, tuple):
                    if component[0] != value[0] or not component[1] <= value[1] <= component[2]:
                        break
                elif isinstance(value, str):
                    if component[0] != value:
                        break
                elif not component[0] <= value <= component[1]:
                    break
            else:
                best, is_in = length, not is_nomatch
    return is_in


@lru_cache(maxsize=512)
def _index(found: IpSet, kinds: tuple[str, ...]) -> list[tuple[list[tuple[Any, ...]], int, bool]]:
    """Elements as ranges, with their prefix length (how specific they are)."""
    elements = []
    for text, options in found.elements:
        length, components = 0, []
        for kind, part in zip(kinds, text.split(","), strict=False):
            component, bits = _component(found, kind, part)
            components.append(component)
            length += bits
        if len(components) == len(kinds):
            elements.append((components, length, "nomatch" in options))
    return elements


def _component(found: IpSet, kind: str, text: str) -> tuple[tuple[Any, ...], int]:
    if kind in {"ip", "net"}:
        first, last, bits = network(_with_mask(found, text))
        return (first, last), bits
    if kind == "port":
        return _port(found, text), 0
    if kind == "mark":
        return (int(text, 0), int(text, 0)), 0
    return (text.removeprefix("physdev:"),), 0


def _with_mask(found: IpSet, text: str) -> str:
    if "netmask" in found.options and "/" not in text and "-" not in text:
        return f"{text}/{found.options[found.options.index('netmask') + 1]}"
    return text


def _port(found: IpSet, text: str) -> tuple[Any, ...]:
    protocol, colon, ports = text.rpartition(":")
    number = PROTOCOL_NUMBERS.get(protocol, -1) if colon else PROTOCOL_NUMBERS["tcp"]
    if ports in ICMP_NAMES:
        return number, ICMP_NAMES[ports][found.family == 6] << 8, ICMP_NAMES[ports][found.family == 6] << 8
    if "/" in ports:
        kind, _, code = ports.partition("/")
        return number, (int(kind) << 8) + int(code), (int(kind) << 8) + int(code)
    first, _, last = ports.partition("-")
    if not first.isdigit():
        return -2, 0, 0
    return number, int(first), int(last or first)
