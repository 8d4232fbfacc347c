"""TCP: connect, and close with a reset, so that no TIME_WAIT is left on either side."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from agent.probers.drive import WRITE, Ground, Probe, Wait
from agent.probers.errors import ask_for_errors, of_errno, read_error
from model.probes import Attempt, ProbeOrder
from model.words import Outcome

_ABORT: Final = struct.pack("ii", 1, 0)
# struct tcp_info of linux/tcp.h: tcpi_rtt, microseconds, measured by the kernel from SYN to SYN-ACK.
_TCPI_RTT: Final = struct.Struct("=I")
_TCPI_RTT_OFFSET: Final = 68


@dataclass(frozen=True, slots=True)
class Connected:
    """What became of a connect: the outcome, how long it took, and our own end."""

    outcome: Outcome
    rtt_us: int = 0
    detail: str = ""
    address: str = ""
    port: int = 0


def abort(sock: socket.socket) -> None:
    """Close a connection with a reset; a socket that TLS has taken over is closed there."""
    if sock.fileno() < 0:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    finally:
        sock.close()


def family_of(family: int) -> int:
    """AF_INET or AF_INET6 for 4 or 6."""
    return socket.AF_INET6 if family == 6 else socket.AF_INET


def connect(sock: socket.socket, address: str, port: int, deadline: float) -> Generator[Wait, bool, Connected]:
    """Connect a non-blocking socket, which stays the caller's to close. Part of a probe (`yield from`)."""
    ask_for_errors(sock, sock.family)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    started = time.monotonic()
    number = _connect_now(sock, address, port)
    if number == errno.EINPROGRESS:
        if not (yield Wait(sock.fileno(), WRITE, deadline)):
            return Connected(Outcome.TIMEOUT, 0, "", *_own_end(sock))
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    took_us = max(1, round((time.monotonic() - started) * 1e6))
    own = _own_end(sock)
    if number == 0:
        return Connected(Outcome.OK, _kernel_rtt_us(sock, took_us), "", *own)
    outcome, detail = of_errno(number)
    said = read_error(sock)
    if said is not None and said.detail:
        outcome, detail = said.outcome, said.detail
    return Connected(outcome, took_us if outcome is Outcome.REFUSED else 0, detail, *own)


def _connect_now(sock: socket.socket, address: str, port: int) -> int:
    try:
        return sock.connect_ex((address, port))
    except OSError as error:
        return error.errno or errno.EIO


def _own_end(sock: socket.socket) -> tuple[str, int]:
    try:
        name = sock.getsockname()
    except OSError:
        return "", 0
    return str(name[0]), int(name[1])


def _kernel_rtt_us(sock: socket.socket, took_us: int) -> int:
    """The kernel's own measure where it has one: ours also contains our own waiting."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except OSError:
        return took_us
    if len(info) < _TCPI_RTT_OFFSET + _TCPI_RTT.size:
        return took_us
    measured = int(_TCPI_RTT.unpack_from(info, _TCPI_RTT_OFFSET)[0])
    return min(measured, took_us) if measured else took_us


def bind_port(sock: socket.socket, family: int, port: int) -> None:
    """Take a given source port (0: any). Raises OSError where it is taken."""
    if port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::" if family == 6 else "0.0.0.0", port))


def probe(ground: Ground, order: ProbeOrder, number: int) -> Probe:
    """One connect; its time is that from SYN to SYN-ACK."""
    deadline = time.monotonic() + order.timeout_ms / 1000
    at_ms = time.time_ns() // 1_000_000
    try:
        sock = ground.socket(family_of(order.family), socket.SOCK_STREAM)
    except OSError as error:
        return Attempt(outcome=Outcome.NOT_MEASURED, at_ms=at_ms, detail=of_errno(error.errno or 0)[1])
    try:
        try:
            bind_port(
                sock, order.family, order.source_ports[number % len(order.source_ports)] if order.source_ports else 0
            )
        except OSError as error:
            return Attempt(outcome=Outcome.NOT_MEASURED, at_ms=at_ms, detail=f"bind: {of_errno(error.errno or 0)[1]}")
        done = yield from connect(sock, order.address, order.port, deadline)
    finally:
        abort(sock)
    return Attempt(
        outcome=done.outcome,
        rtt_us=done.rtt_us,
        at_ms=at_ms,
        source_address=done.address,
        source_port=done.port,
        phases={"connect": done.rtt_us} if done.outcome is Outcome.OK else {},
        detail=done.detail,
    )
