"""What a netlink message says has changed, in words. Keeps how devices were; opens nothing.

Left out is what nobody's packets hang on: link-local addresses, the kernel's own routes for addresses, and what comes
and goes with every pod's device by itself.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from model.journal import Change

NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS, NEW_ROUTE, DEL_ROUTE = 16, 17, 20, 21, 24, 25
NEW_NEIGHBOUR, DEL_NEIGHBOUR, NEW_RULE, DEL_RULE, NEW_NETCONF = 28, 29, 32, 33, 80
LOCAL_TABLE, MAIN_TABLE, CLONED, AF_BRIDGE, UNICAST = 255, 254, 0x200, 7, 1
UP, LOWER_UP = 1, 0x10000
ROUTE_TYPES: Final = {1: "", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
SETTINGS: Final = {2: "forwarding", 3: "rp_filter", 5: "proxy_arp", 6: "ignore_routes_with_linkdown"}
EVERYWHERE: Final = {-1: "all", -2: "default"}
# Setting a namespace's forwarding sets it for each device in turn; with IPv6 that is told before the setting itself.
FOLLOWS_MS: Final = 500
_ATTRIBUTE: Final = struct.Struct("=HH")


class Device(NamedTuple):
    """How a device was when it was last heard of."""

    name: str
    up: bool
    carrier: bool
    mtu: int
    master: int


class Words:
    """Turns messages into changes."""

    def __init__(self) -> None:
        self._devices: dict[int, Device] = {}
        self._forwarding_ms = 0

    def message(self, at_ms: int, kind: int, body: bytes, is_dump: bool) -> Change | None:
        """The change that an rtnetlink message tells of, None if it is none. `is_dump`: the answer to a question."""
        if kind in {NEW_LINK, DEL_LINK}:
            return self._link(at_ms, body, gone=kind == DEL_LINK, is_dump=is_dump)
        if kind in {NEW_ADDRESS, DEL_ADDRESS}:
            return self._address(at_ms, body, _what(kind))
        if kind in {NEW_ROUTE, DEL_ROUTE}:
            return self._route(at_ms, body, _what(kind))
        if kind in {NEW_NEIGHBOUR, DEL_NEIGHBOUR}:
            return self._neighbour(at_ms, body, _what(kind))
        if kind in {NEW_RULE, DEL_RULE}:
            return _rule(at_ms, body, _what(kind))
        if kind == NEW_NETCONF:
            return self._setting(at_ms, body)
        return None

    def generation(self, at_ms: int, _kind: int, body: bytes, _is_dump: bool) -> Change | None:
        """The change that a new generation of nftables' rules is, with the program that made it."""
        found = attributes(body[4:])
        program = found.get(3, b"").split(b"\0")[0].decode(errors="replace")
        pid = int.from_bytes(found.get(2, b""), "big")
        says = f"by {program} (process {pid})" if program else ""
        return Change(at_ms=at_ms, subject="packet filter", name="nftables", what="changed", says=says)

    def _name(self, index: int) -> str:
        known = self._devices.get(index)
        return known.name if known else str(index)

    def _link(self, at_ms: int, body: bytes, *, gone: bool, is_dump: bool) -> Change | None:
        family, _, _, index, flags, _ = struct.unpack_from("=BBHiII", body)
        if family == AF_BRIDGE:
            return None
        found = attributes(body[16:])
        name = found.get(3, b"").rstrip(b"\0").decode("ascii", "replace")
        before = self._devices.pop(index, None)
        if gone:
            return Change(at_ms=at_ms, subject="link", name=name, what="gone")
        now = Device(name, bool(flags & UP), bool(flags & LOWER_UP), _u32(found.get(4)), _u32(found.get(10)))
        self._devices[index] = now
        if is_dump:
            return None
        if before is None:
            return Change(at_ms=at_ms, subject="link", name=name, what="new")
        says = ", ".join(self._differences(before, now))
        return Change(at_ms=at_ms, subject="link", name=name, what="changed", says=says) if says else None

    def _differences(self, before: Device, now: Device) -> list[str]:
        words = []
        if before.name != now.name:
            words.append(f"was {before.name}")
        if before.up != now.up:
            words.append("up" if now.up else "down")
        elif before.carrier != now.carrier:
            words.append("carrier" if now.carrier else "no carrier")
        if before.mtu != now.mtu:
            words.append(f"mtu {before.mtu} to {now.mtu}")
        if before.master != now.master:
            words.append(f"master {self._name(now.master)}" if now.master else f"left {self._name(before.master)}")
        return words

    def _address(self, at_ms: int, body: bytes, what: str) -> Change | None:
        _, length, _, _, index = struct.unpack_from("=BBBBI", body)
        found = attributes(body[8:])
        text = _text(found.get(2) or found.get(1))
        if not text or text.startswith("fe80:"):
            return None
        says = f"dev {self._name(index)}"
        return Change(at_ms=at_ms, subject="address", name=f"{text}/{length}", what=what, says=says)

    def _route(self, at_ms: int, body: bytes, what: str) -> Change | None:
        family, length, _, _, table, _, _, kind, flags = struct.unpack_from("=BBBBBBBBI", body)
        found = attributes(body[12:])
        table = _u32(found.get(15)) or table
        if kind not in ROUTE_TYPES or flags & CLONED or table == LOCAL_TABLE:
            return None
        text = _text(found.get(1)) or ("::" if family == socket.AF_INET6 else "0.0.0.0")
        if text.startswith(("fe80:", "ff")):
            return None
        gateway = _text(found.get(5)) or _text(found.get(18, b"\0\0")[2:])
        words = (
            ROUTE_TYPES[kind],
            f"via {gateway}" if gateway else "",
            f"dev {self._name(_u32(found[4]))}" if 4 in found and kind == UNICAST else "",
            "with several next hops" if 9 in found else "",
            f"table {table}" if table != MAIN_TABLE else "",
        )
        says = " ".join(word for word in words if word)
        return Change(at_ms=at_ms, subject="route", name=f"{text}/{length}", what=what, says=says)

    def _neighbour(self, at_ms: int, body: bytes, what: str) -> Change | None:
        family, _, _, index, _, _, _ = struct.unpack_from("=BBHiHBB", body)
        found = attributes(body[12:])
        mac, device = found.get(2, b"").hex(":"), self._name(index)
        if family == AF_BRIDGE:
            end = _text(found.get(1))
            says = f"dst {end} dev {device}"
            # Without a far end it is a bridge's own: one for each pod.
            return Change(at_ms=at_ms, subject="fdb", name=mac, what=what, says=says) if end else None
        says = f"lladdr {mac} dev {device}" if mac else f"dev {device}"
        text = _text(found.get(1))
        if not text or text.startswith("ff"):
            return None
        return Change(at_ms=at_ms, subject="neighbour", name=text, what=what, says=says)

    def _setting(self, at_ms: int, body: bytes) -> Change | None:
        family = body[0]
        found = attributes(body[4:])
        told = [number for number in SETTINGS if number in found]
        if len(told) != 1 or 1 not in found:
            # All of them at once belong to a device that is new.
            return None
        index, name = struct.unpack("=i", found[1])[0], SETTINGS[told[0]]
        if name == "forwarding":
            if index == -1:
                self._forwarding_ms = at_ms
            elif family == socket.AF_INET6 or at_ms - self._forwarding_ms < FOLLOWS_MS:
                return None
        version = "ipv6" if family == socket.AF_INET6 else "ipv4"
        if version == "ipv6" and name == "proxy_arp":
            name = "proxy_ndp"
        where = EVERYWHERE.get(index) or self._name(index).translate(_DOTS)
        value = struct.unpack("=i", found[told[0]])[0]
        sysctl = f"net.{version}.conf.{where}.{name}"
        return Change(at_ms=at_ms, subject="sysctl", name=sysctl, what="changed", says=f"to {value}")


_DOTS: Final = str.maketrans(".", "/")


# Actions that end a packet (FR_ACT_* in linux/fib_rules.h).
_ENDING: Final = {6: "blackhole", 7: "unreachable", 8: "prohibit"}


def _rule(at_ms: int, body: bytes, what: str) -> Change:
    _, to_length, from_length, _, table, _, _, action, _ = struct.unpack_from("=BBBBBBBBI", body)
    found = attributes(body[12:])
    words = (
        f"from {_text(found[2])}/{from_length}" if 2 in found else "",
        f"to {_text(found[1])}/{to_length}" if 1 in found else "",
        f"fwmark {_u32(found[10]):#x}" if 10 in found else "",
        _ENDING.get(action) or f"table {_u32(found.get(15)) or table}",
    )
    says = " ".join(word for word in words if word)
    return Change(at_ms=at_ms, subject="rule", name=str(_u32(found.get(6))), what=what, says=says)


def attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by number, without the flag bits."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _what(kind: int) -> str:
    """Of a pair of message types the second one, which is odd, tells that something is gone."""
    return "gone" if kind & 1 else "new"


def _u32(value: bytes | None) -> int:
    return int(struct.unpack("=I", value[:4])[0]) if value and len(value) >= 4 else 0


def _text(value: bytes | None) -> str:
    if not value or len(value) not in {4, 16}:
        return ""
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)
