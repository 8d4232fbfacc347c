"""The mark of a traced packet: how it is written into packets, found by a kernel filter, and read again.

UDP and ICMP carry the token in their payload, a DNS question in its name, TCP in the upper 20 bits of the sequence
number; the packet's own number stands beside it. None of them is changed by address translation or encapsulation, and
an ICMP error quotes all of them. Reads packets from their IP header on.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from agent.wire.bpf import Word, word_filter
from agent.wire.packet import Header, parse, spelled
from model.ports import UDP_MAGIC
from model.trace import MAX_PACKETS, Mark

UDP: Final = 17
TUNNELS: Final = (4, 41)
PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
REQUEST, REPLY, ERROR = "request", "reply", "error"
TOKEN_OF_TCP: Final = 0xFFFFF000
LEAST_SIZE: Final = 10
DNS_ZONE: Final = ("kubereach", "svc", "cluster", "local")
SYN, RST, ACK = 0x02, 0x04, 0x10
IPV4, IPV6, UDP_HEADER, VXLAN_HEADER, ETHERNET, ICMP_HEADER = 20, 40, 8, 8, 14, 8
PREFIXES: Final = (
    0,
    IPV4,
    IPV6,
    IPV4 + UDP_HEADER + VXLAN_HEADER + ETHERNET,
    IPV6 + UDP_HEADER + VXLAN_HEADER + ETHERNET,
)
ERRORS: Final = {
    4: {
        (3, 0): "net unreachable", (3, 1): "host unreachable", (3, 2): "protocol unreachable",
        (3, 3): "port unreachable", (3, 4): "fragmentation needed", (3, 9): "net prohibited",
        (3, 10): "host prohibited", (3, 13): "administratively prohibited", (11, 0): "time exceeded",
        (4, 0): "source quench", (12, 0): "parameter problem",
    },
    6: {
        (1, 0): "no route", (1, 1): "administratively prohibited", (1, 3): "address unreachable",
        (1, 4): "port unreachable", (1, 5): "source address refused", (1, 6): "route rejected",
        (2, 0): "packet too big", (3, 0): "time exceeded", (4, 0): "parameter problem",
    },
}  # fmt: skip
ERROR_TYPES: Final = {4: frozenset({3, 4, 11, 12}), 6: frozenset({1, 2, 3, 4})}
ICMP_OF: Final = {4: 1, 6: 58}
ECHO: Final = {(4, 8): REQUEST, (4, 0): REPLY, (6, 128): REQUEST, (6, 129): REPLY}


class Sighting(NamedTuple):
    """A packet of the burst: its way and number, ends as text, tunnel's ends, what an ICMP error says."""

    way: str
    number: int
    source: str
    destination: str
    outer: str = ""
    note: str = ""
    reset: bool = False


class _Read(NamedTuple):
    way: str
    number: int
    reset: bool = False


def payload(mark: Mark, number: int, size: int) -> bytes:
    """The payload of packet `number` of UDP and ICMP, `size` octets long or as long as the mark needs."""
    if mark.dns:
        labels = (f"{mark.token:08x}", *DNS_ZONE)
        name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
        return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)
    head = UDP_MAGIC + b"tr" + struct.pack("!IH", mark.token, number)
    return head + bytes(max(0, size - len(head)))


def sequence(mark: Mark, number: int) -> int:
    """The TCP sequence number of packet `number`."""
    return (mark.token & TOKEN_OF_TCP) | (number << 2)


def words(mark: Mark, *, headless: bool = False) -> tuple[Word, ...]:
    """Where the token may stand in a packet: plain, in an ICMP error, and both inside each kind of tunnel.

    `headless`: the packet begins behind its IP header, and is plain.
    """
    header = IPV4 if mark.family == 4 else IPV6
    places: tuple[int, ...]
    if mark.protocol == "tcp":
        places, mask, value = (4, 8), TOKEN_OF_TCP, mark.token & TOKEN_OF_TCP
    elif mark.dns:
        places, mask, value = (21,), 0xFFFFFFFF, int.from_bytes(f"{mark.token:08x}"[:4].encode(), "big")
    else:
        places, mask, value = (12,), 0xFFFFFFFF, mark.token
    quoted = header + ICMP_HEADER
    if headless:
        return tuple(Word(at, mask, value) for at in places)
    offsets = {p + e + header + at for p in PREFIXES for e in (0, quoted) for at in places}
    return tuple(Word(offset, mask, value) for offset in sorted(offsets))


def program(mark: Mark, snap: int, *, headless: bool = False) -> bytes:
    """The kernel filter that keeps the burst's packets and hardly any other; `headless` as for `words`."""
    return word_filter(words(mark, headless=headless), snap)


def read(mark: Mark, vxlan_ports: frozenset[int], data: bytes) -> Sighting | None:
    """What a packet is to the burst; None if it is another's."""
    header = parse(data)
    if header is None:
        return None
    found = _of_flow(mark, header, data)
    if found is not None:
        return found
    inner = _inside(header, data, vxlan_ports)
    within = parse(inner) if inner else None
    found = _of_flow(mark, within, inner) if within is not None else None
    if found is None:
        return None
    return found._replace(outer=f"{spelled(header.source)}>{spelled(header.destination)}")


def _inside(header: Header, data: bytes, vxlan_ports: frozenset[int]) -> bytes:
    if header.protocol in TUNNELS:
        return data[header.payload :]
    port = int.from_bytes(data[header.payload + 2 : header.payload + 4], "big")
    if header.protocol != UDP or port not in vxlan_ports:
        return b""
    frame = data[header.payload + UDP_HEADER + VXLAN_HEADER :]
    return frame[18:] if frame[12:14] == b"\x81\x00" else frame[14:]


def _of_flow(mark: Mark, header: Header, data: bytes) -> Sighting | None:
    segment = data[header.payload :]
    if header.protocol == ICMP_OF[header.family] and segment[:1] and segment[0] in ERROR_TYPES[header.family]:
        return _error(mark, header, segment)
    found = _segment(mark, header, segment)
    if found is None:
        return None
    source, destination = spelled(header.source), spelled(header.destination)
    if mark.protocol in {"tcp", "udp"}:
        ports = struct.unpack_from("!HH", segment)
        if found.way == REQUEST:
            destination = with_port(destination, ports[1])
        else:
            source = with_port(source, ports[0])
    return Sighting(found.way, found.number, source, destination, reset=found.reset)


def _error(mark: Mark, header: Header, segment: bytes) -> Sighting | None:
    """An ICMP error about a packet of the burst, or about an answer to it."""
    quoted = segment[ICMP_HEADER:]
    within = parse(quoted)
    found = _segment(mark, within, quoted[within.payload :]) if within is not None else None
    if within is None or found is None:
        return None
    what = ERRORS[header.family].get((segment[0], segment[1]), f"ICMP {segment[0]}/{segment[1]}")
    says = f"{what} from {spelled(header.source)}" + (" about the reply" if found.way == REPLY else "")
    return Sighting(ERROR, found.number, spelled(header.source), spelled(header.destination), note=says)


def _segment(mark: Mark, header: Header, segment: bytes) -> _Read | None:
    if header.protocol != PROTOCOLS[mark.protocol]:
        return None
    if mark.protocol == "tcp":
        return _tcp(mark, segment)
    if len(segment) < 8 + LEAST_SIZE:
        return None
    if mark.protocol == "udp":
        return _dns(mark, segment[8:]) if mark.dns else _udp(mark, segment)
    way = ECHO.get((header.family, segment[0]))
    number = _number(mark, segment[8:])
    return _Read(way, number) if way is not None and number else None


def _tcp(mark: Mark, segment: bytes) -> _Read | None:
    """A SYN of ours, or what acknowledges one; the kernel's own reset behind it is no part of the burst."""
    if len(segment) < 8:
        return None
    token = mark.token & TOKEN_OF_TCP
    sent = int.from_bytes(segment[4:8], "big")
    if len(segment) < 14:
        # Quoted by a router that quotes no more than eight octets (RFC 792).
        return _Read(REQUEST, (sent & ~TOKEN_OF_TCP) >> 2) if sent & TOKEN_OF_TCP == token and not sent & 3 else None
    acknowledged, flags = int.from_bytes(segment[8:12], "big") - 1, segment[13]
    if flags & SYN and not flags & ACK and sent & TOKEN_OF_TCP == token and not sent & 3:
        return _Read(REQUEST, (sent & ~TOKEN_OF_TCP) >> 2)
    if flags & ACK and flags & (SYN | RST) and acknowledged & TOKEN_OF_TCP == token and not acknowledged & 3:
        return _Read(REPLY, (acknowledged & ~TOKEN_OF_TCP) >> 2, bool(flags & RST))
    return None


def _udp(mark: Mark, segment: bytes) -> _Read | None:
    number = _number(mark, segment[8:])
    if not number:
        return None
    source, destination = struct.unpack_from("!HH", segment)
    if (source in mark.ports) is not (destination in mark.ports):
        return _Read(REPLY if source in mark.ports else REQUEST, number)
    return _Read(REQUEST if segment[8:10] == UDP_MAGIC else REPLY, number)


def _dns(mark: Mark, message: bytes) -> _Read | None:
    if message[13:21] != f"{mark.token:08x}".encode():
        return None
    number = int.from_bytes(message[:2], "big")
    return _Read(REPLY if message[2] & 0x80 else REQUEST, number) if 0 < number <= MAX_PACKETS else None


def _number(mark: Mark, content: bytes) -> int:
    """The number in a payload, 0 if it has not our mark."""
    if content[4:8] != struct.pack("!I", mark.token):
        return 0
    number = int.from_bytes(content[8:10], "big")
    return number if number <= MAX_PACKETS else 0


def with_port(address: str, port: int) -> str:
    """ADDRESS:PORT, with brackets where the address is IPv6."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def family_of(mark: Mark) -> socket.AddressFamily:
    """The socket family of the burst."""
    return socket.AF_INET if mark.family == 4 else socket.AF_INET6
