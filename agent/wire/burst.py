"""A burst of packets with a known source port, to be counted on their way: scapy builds them, a raw socket sends them.

Imported only in the child process that sends. The packets are the sender's own: they pass its OUTPUT rules and routes
like any other. What cannot be told apart from real traffic by its port carries the burst's name in its payload.
"""

from __future__ import annotations

import socket
import time
from typing import Final

from model.facts import Burst

MOST: Final = 1000
LONGEST_S: Final = 10.0
IPV6_HDRINCL: Final = 36
PAYLOAD: Final = b"kubereach burst "


def build(burst: Burst) -> list[bytes]:
    """The packets, from their IP header on, numbered in IP id, ICMP sequence or payload. Raises ValueError."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: PLC0415 - 150 ms and 55 MiB, for who sends only
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6  # noqa: PLC0415
    from scapy.packet import Raw  # noqa: PLC0415

    if not 0 < burst.count <= MOST:
        raise ValueError(f"burst: count {burst.count} is not between 1 and {MOST}")
    packets = []
    for number in range(1, burst.count + 1):
        if burst.family == 4:
            network = IP(src=burst.source, dst=burst.destination, id=number, flags="DF")
        else:
            network = IPv6(src=burst.source, dst=burst.destination, fl=number)
        if burst.protocol == "tcp":
            inner = TCP(sport=burst.source_port, dport=burst.port, flags="S", seq=number)
        elif burst.protocol == "udp":
            inner = UDP(sport=burst.source_port, dport=burst.port) / Raw(PAYLOAD + str(number).encode())
        elif burst.protocol == "icmp":
            inner = ICMP(type=8, id=burst.source_port, seq=number) / Raw(PAYLOAD)
        elif burst.protocol == "icmpv6":
            inner = ICMPv6EchoRequest(id=burst.source_port, seq=number, data=PAYLOAD)
        else:
            raise ValueError(f"burst: cannot build {burst.protocol!r}")
        packets.append(bytes(network / inner))
    return packets


def send(burst: Burst, packets: list[bytes]) -> int:
    """Sends them from this namespace, `interval_ms` apart; how many the kernel took. Raises OSError for none at all.

    What the kernel refuses (an OUTPUT rule, no route) is not counted.
    """
    family = socket.AF_INET if burst.family == 4 else socket.AF_INET6
    ends = time.monotonic() + LONGEST_S
    taken = 0
    refused: OSError | None = None
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sender:
        if family == socket.AF_INET6:
            sender.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        for number, packet in enumerate(packets):
            if time.monotonic() > ends:
                break
            if number and burst.interval_ms:
                time.sleep(burst.interval_ms / 1000)
            try:
                sender.sendto(packet, (burst.destination, 0))
                taken += 1
            except OSError as error:
                refused = error
    if refused is not None and not taken:
        raise refused
    return taken
