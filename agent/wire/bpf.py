"""A small assembler for classic BPF (linux/filter.h), and the filter of the tap made with it.

Labels are names; jumps only go forward. The programs look at packets from the network header on (SOCK_DGRAM sockets).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

LD_W, LD_H, LD_B = 0x20, 0x28, 0x30
LD_H_X: Final = 0x48
LDX_HEADER_LENGTH: Final = 0xB1
JUMP_EQUAL: Final = 0x15
JUMP_ALWAYS: Final = 0x05
RETURN: Final = 0x06
AD_PROTOCOL: Final = 0xFFFFF000
ETHERTYPE_4, ETHERTYPE_6 = 0x0800, 0x86DD
UDP: Final = 17
TUNNELS: Final = (4, 41)
KEEP, PASS_BY = "keep", "pass by"
PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132}


class Line(NamedTuple):
    """An instruction; `then` and `otherwise` are labels to jump to, "" the next instruction."""

    code: int
    value: int = 0
    then: str = ""
    otherwise: str = ""
    label: str = ""


def assemble(lines: Sequence[Line]) -> bytes:
    """The program as an array of struct sock_filter. Raises KeyError for a label that is nowhere."""
    places = {line.label: at for at, line in enumerate(lines) if line.label}
    program = []
    for at, line in enumerate(lines):
        if line.code == JUMP_ALWAYS:
            program.append(struct.pack("=HBBI", line.code, 0, 0, places[line.then] - at - 1))
            continue
        jumps = [places[label] - at - 1 if label else 0 for label in (line.then, line.otherwise)]
        program.append(struct.pack("=HBBI", line.code, *jumps, line.value))
    return b"".join(program)


def flow_filter(
    family: int, source: str, destination: str, protocol: str, vxlan_ports: Sequence[int], snap: int
) -> bytes:
    """Keeps the flow's packets either way round, and every VXLAN or IP-in-IP packet, whose inside the tap looks at.

    An empty source is any.
    """
    lines = [Line(LD_W, AD_PROTOCOL), Line(JUMP_EQUAL, ETHERTYPE_6, "six")]
    lines += [Line(JUMP_EQUAL, ETHERTYPE_4, "", PASS_BY), Line(LD_B, 9)]
    lines += [Line(JUMP_EQUAL, number, KEEP) for number in TUNNELS]
    if family == 4:
        lines += [Line(JUMP_EQUAL, PROTOCOLS[protocol], "", "udp4")]
        lines += _pair(source, destination, 12, 16, "udp4", "v4")
    lines += [Line(LD_B, 9, label="udp4"), Line(JUMP_EQUAL, UDP, "", PASS_BY)]
    lines += [Line(LDX_HEADER_LENGTH, 0), Line(LD_H_X, 2)]
    lines += [Line(JUMP_EQUAL, port, KEEP) for port in vxlan_ports]
    lines += [Line(JUMP_ALWAYS, then=PASS_BY)]
    lines += [Line(LD_B, 6, label="six"), *(Line(JUMP_EQUAL, number, KEEP) for number in TUNNELS)]
    if family == 6:
        lines += [Line(JUMP_EQUAL, PROTOCOLS[protocol], "", "udp6")]
        lines += _pair(source, destination, 8, 24, "udp6", "v6")
    lines += [Line(LD_B, 6, label="udp6"), Line(JUMP_EQUAL, UDP, "", PASS_BY), Line(LD_H, 42)]
    lines += [Line(JUMP_EQUAL, port, KEEP) for port in vxlan_ports]
    lines += [Line(RETURN, 0, label=PASS_BY), Line(RETURN, snap, label=KEEP)]
    return assemble(lines)


def _pair(source: str, destination: str, at_source: int, at_destination: int, failed: str, name: str) -> list[Line]:
    """Keeps packets between two addresses, whichever way."""
    there = [*_is(source, at_source), *_is(destination, at_destination)]
    back = [*_is(destination, at_source), *_is(source, at_destination)]
    lines = [_compare(offset, value, f"{name} back") for offset, value in there]
    flat = [line for pair in lines for line in pair] + [Line(JUMP_ALWAYS, then=KEEP)]
    second = [line for offset, value in back for line in _compare(offset, value, failed)]
    second[0] = second[0]._replace(label=f"{name} back")
    return [*flat, *second, Line(JUMP_ALWAYS, then=KEEP)]


def _compare(offset: int, value: int, failed: str) -> list[Line]:
    return [Line(LD_W, offset), Line(JUMP_EQUAL, value, "", failed)]


def _is(address: str, offset: int) -> list[tuple[int, int]]:
    if not address:
        return []
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return [(offset + at, int.from_bytes(packed[at : at + 4], "big")) for at in range(0, len(packed), 4)]
