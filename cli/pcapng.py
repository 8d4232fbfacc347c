"""Writes the packets of a trace as a pcapng file: an interface for each device, a comment on each packet.

Format: draft-ietf-opsawg-pcapng. The link layer is Linux' cooked one (LINKTYPE_LINUX_SLL), which tells the direction,
and fits a device of any kind. (LINKTYPE_RAW would do as well, but libpcap refuses it for more than one interface.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from model.diagnosis import Captured
from model.trace import SNAP

LINKTYPE_LINUX_SLL: Final = 113
COOKED: Final = struct.Struct("!HHH8sH")
ARPHRD_ETHER: Final = 1
TO_US, OUTGOING = 0, 4
ETHERTYPES: Final = {4: 0x0800, 6: 0x86DD}
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER: Final = 0x1A2B3C4D
COMMENT, IF_NAME, IF_DESCRIPTION, IF_TSRESOL, EPB_FLAGS, SHB_USERAPPL = 1, 2, 3, 9, 2, 4
NANOSECONDS: Final = 9
INBOUND, OUTBOUND = 1, 2


def write(path: Path, packets: Iterable[Captured], title: str) -> int:
    """Writes the file; how many packets it holds. Raises OSError."""
    count = 0
    with path.open("wb") as file:
        _block(file, SECTION, struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1), (COMMENT, title), (SHB_USERAPPL, "kubereach"))
        interfaces: dict[tuple[str, str, str], int] = {}
        for packet in packets:
            key = (packet.node, packet.namespace, packet.device)
            if key not in interfaces:
                interfaces[key] = len(interfaces)
                _interface(file, *key)
            _packet(file, interfaces[key], packet)
            count += 1
    return count


def _interface(file: BinaryIO, node: str, namespace: str, device: str) -> None:
    name = f"{node} {namespace} {device}" if namespace else f"{node} {device}"
    where = f"{device} of pod {namespace} on {node}" if namespace else f"{device} of host {node}"
    body = struct.pack("<HHI", LINKTYPE_LINUX_SLL, 0, SNAP + COOKED.size)
    _block(file, INTERFACE, body, (IF_NAME, name), (IF_DESCRIPTION, where), (IF_TSRESOL, bytes([NANOSECONDS])))


def _packet(file: BinaryIO, interface: int, packet: Captured) -> None:
    high, low = packet.at_ns >> 32, packet.at_ns & 0xFFFFFFFF
    is_out = packet.direction == "out"
    ethertype = ETHERTYPES.get(packet.data[0] >> 4, 0) if packet.data else 0
    data = COOKED.pack(OUTGOING if is_out else TO_US, ARPHRD_ETHER, 0, bytes(8), ethertype) + packet.data
    body = struct.pack("<IIIII", interface, high, low, len(data), packet.length + COOKED.size)
    body += data + bytes(-len(data) % 4)
    flags = struct.pack("<I", OUTBOUND if is_out else INBOUND)
    where = f"pod {packet.namespace} on {packet.node}" if packet.namespace else packet.node
    says = f"{packet.way} {packet.number}, {packet.direction} {packet.device} of {where}"
    _block(file, PACKET, body, (EPB_FLAGS, flags), (COMMENT, says))


def _block(file: BinaryIO, kind: int, body: bytes, *options: tuple[int, str | bytes]) -> None:
    for code, value in options:
        data = value.encode() if isinstance(value, str) else value
        body += struct.pack("<HH", code, len(data)) + data + bytes(-len(data) % 4)
    body += struct.pack("<HH", 0, 0)
    length = 12 + len(body)
    file.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))
