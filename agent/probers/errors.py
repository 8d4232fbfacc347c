"""What an errno or an ICMP error says about a probe. Decides only; sockets belong to the callers.

Sources: RFC 792, RFC 4443, linux/errqueue.h, net/ipv4/icmp.c (icmp_err_convert), ip(7).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final

from model.words import Outcome

IP_RECVERR: Final = 11
IPV6_RECVERR: Final = 25
SO_TIMESTAMPNS: Final = 35
MSG_ERRQUEUE: Final = 0x2000
_ORIGIN_LOCAL: Final = 1
_ORIGIN_ICMP: Final = 2
_ORIGIN_ICMP6: Final = 3
_EXTENDED: Final = struct.Struct("=IBBBBII")
_STAMP: Final = struct.Struct("=qq")

_OUTCOMES: Final[dict[int, Outcome]] = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ECONNRESET: Outcome.RESET,
    errno.EPIPE: Outcome.RESET,
    errno.ETIMEDOUT: Outcome.TIMEOUT,
    errno.EMSGSIZE: Outcome.TOO_BIG,
    errno.EHOSTUNREACH: Outcome.UNREACHABLE,
    errno.ENETUNREACH: Outcome.UNREACHABLE,
    errno.EHOSTDOWN: Outcome.UNREACHABLE,
    errno.ENETDOWN: Outcome.UNREACHABLE,
    errno.ENONET: Outcome.UNREACHABLE,
    errno.EPROTO: Outcome.UNREACHABLE,
    errno.ENOPROTOOPT: Outcome.UNREACHABLE,
    # A netfilter drop in OUTPUT, or a full conntrack table.
    errno.EPERM: Outcome.UNREACHABLE,
    # A prohibit route, or an ICMP "administratively prohibited".
    errno.EACCES: Outcome.UNREACHABLE,
    # A blackhole route.
    errno.EINVAL: Outcome.UNREACHABLE,
    # A full neighbour table.
    errno.ENOBUFS: Outcome.UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class NetworkError:
    """One entry of a socket's error queue: what the probe came to, in words, and whose packet it was about.

    `payload` is what the error quotes of the probe behind its transport header (of a raw socket: with it), perhaps
    nothing; `destination` is where the probe was sent. `mtu` is set where the packet was too big.
    """

    outcome: Outcome
    detail: str
    payload: bytes
    destination: str
    port: int
    mtu: int = 0


def of_errno(number: int) -> tuple[Outcome, str]:
    """Outcome and detail of a system call that failed."""
    name = errno.errorcode.get(number, str(number))
    return _OUTCOMES.get(number, Outcome.NOT_MEASURED), name


def prepare(sock: socket.socket, family: int) -> None:
    """Ask the kernel for receive time stamps and for ICMP errors with their origin."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    ask_for_errors(sock, family)


def ask_for_errors(sock: socket.socket, family: int) -> None:
    """Ask the kernel to keep ICMP errors with their origin for `read_error`."""
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def stamp_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When the kernel received a datagram, nanoseconds since the epoch, 0 if it did not say."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = _STAMP.unpack_from(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0


def read_error(sock: socket.socket) -> NetworkError | None:
    """Take one entry from the error queue, None where it is empty."""
    try:
        payload, ancillary, _flags, name = sock.recvmsg(256, 256, MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except OSError:
        return None
    destination, port = (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 else ("", 0)
    for level, kind, data in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
            return _parse(data, payload, destination.partition("%")[0], port)
    # Something else stands in the queue, which no option of ours asked for: it says nothing.
    return NetworkError(Outcome.NOT_MEASURED, "", payload, destination, port)


def _parse(data: bytes, payload: bytes, destination: str, port: int) -> NetworkError:
    number, origin, kind, code, _pad, info, _data = _EXTENDED.unpack_from(data)
    offender = _offender(data[_EXTENDED.size :])
    outcome, name = of_errno(number)
    if origin == _ORIGIN_LOCAL:
        return NetworkError(outcome, name, payload, destination, port, info)
    six = origin == _ORIGIN_ICMP6
    detail = f"{'icmpv6' if six else 'icmp'} {kind}/{code} from {offender or 'unknown'}"
    too_big = (kind == 2 and six) or (kind == 3 and code == 4 and not six)
    if too_big:
        return NetworkError(Outcome.TOO_BIG, f"{detail} mtu {info}", payload, destination, port, info)
    port_unreachable = (kind, code) == ((1, 4) if six else (3, 3))
    said = Outcome.REFUSED if port_unreachable else Outcome.UNREACHABLE
    return NetworkError(said, detail, payload, destination, port)


def _offender(data: bytes) -> str:
    if len(data) < 8:
        return ""
    family = int.from_bytes(data[:2], sys.byteorder)
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, data[4:8])
    if family == socket.AF_INET6 and len(data) >= 24:
        return socket.inet_ntop(socket.AF_INET6, data[8:24])
    return ""
