"""UDP echo: mark, run, number, time; the far end sends it back. Also the datagram probe that ICMP and DNS share."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from agent.probers.drive import READ, Ground, Probe, Wait
from agent.probers.errors import of_errno, prepare, read_error, stamp_ns
from agent.probers.tcp import bind_port, family_of
from model.ports import ENDPOINT_PORT, HOST_ECHO_PORT, UDP_MAGIC, UDP_REPLY
from model.probes import Attempt, ProbeOrder
from model.words import Outcome

# mark, run of the agent, number of the probe, wall clock at sending in nanoseconds
HEADER: Final = struct.Struct("!2s4sIQ")
MAX_PAYLOAD: Final = 65507
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_DONTFRAG: Final = 62
_PMTUDISC_DONT: Final = 0
# DF set, and the cached path MTU not heeded: the question is put to the wire, not to the cache.
_PMTUDISC_PROBE: Final = 3

# Only there kubereach itself answers; elsewhere whatever comes back proves that both ways are open.
_ECHO_PORTS: Final = frozenset({ENDPOINT_PORT, HOST_ECHO_PORT})
_DNS_PORT: Final = 53
# Behind the query's number: recursion desired, one question, for the name servers of the root (RFC 1035, 4.1). A name
# server stays silent when it is asked what it cannot read.
_DNS_QUESTION: Final = bytes.fromhex("010000010000000000000000020001")

Judge = Callable[[bytes], tuple[Outcome, str, tuple[str, ...]] | None]


def is_echo(payload: bytes) -> bool:
    """Whether a datagram is an answer to an echo: the mark turned small by ours, or left as it is by a plain echo."""
    return payload.startswith((UDP_REPLY, UDP_MAGIC))


def forbid_fragments(sock: socket.socket, family: int, dont_fragment: bool) -> None:
    """Set or clear the DF bit (IPv6: no fragment header)."""
    mode = _PMTUDISC_PROBE if dont_fragment else _PMTUDISC_DONT
    if family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, int(dont_fragment))
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)


def exchange(sock: socket.socket, payload: bytes, judge: Judge, deadline: float, source_port: int = 0) -> Probe:
    """Send on a connected datagram socket and wait for what `judge` takes for the answer; errors come at once."""
    sent_ns = time.time_ns()
    own = sock.getsockname()

    def attempt(outcome: Outcome, rtt_us: int = 0, detail: str = "", answer: tuple[str, ...] = ()) -> Attempt:
        return Attempt(
            outcome=outcome,
            rtt_us=rtt_us,
            at_ms=sent_ns // 1_000_000,
            source_address=str(own[0]),
            source_port=source_port or int(own[1]),
            answer=answer,
            detail=detail,
        )

    try:
        sock.send(payload)
    except OSError as error:
        outcome, detail = of_errno(error.errno or 0)
        return attempt(outcome, 0, detail)
    while True:
        if not (yield Wait(sock.fileno(), READ, deadline)):
            return attempt(Outcome.TIMEOUT)
        said = read_error(sock)
        if said is not None and said.detail:
            rtt_us = max(1, (time.time_ns() - sent_ns) // 1000) if said.outcome is Outcome.REFUSED else 0
            return attempt(said.outcome, rtt_us, said.detail)
        try:
            data, ancillary, _flags, _peer = sock.recvmsg(65535, 128)
        except BlockingIOError:
            continue
        except OSError as error:
            outcome, detail = of_errno(error.errno or 0)
            return attempt(outcome, 0, detail)
        judged = judge(data)
        if judged is not None:
            rtt_us = max(1, ((stamp_ns(ancillary) or time.time_ns()) - sent_ns) // 1000)
            return attempt(judged[0], rtt_us if judged[0] is Outcome.OK else 0, judged[1], judged[2])


def open_connected(ground: Ground, order: ProbeOrder, number: int, kind: int, protocol: int) -> socket.socket | Attempt:
    """A socket connected to the target, or the attempt that has failed already."""
    at_ms = time.time_ns() // 1_000_000
    port = order.source_ports[number % len(order.source_ports)] if order.source_ports else 0
    try:
        sock = ground.socket(family_of(order.family), kind, protocol)
    except OSError as error:
        return Attempt(outcome=Outcome.NOT_MEASURED, at_ms=at_ms, detail=of_errno(error.errno or 0)[1])
    try:
        prepare(sock, sock.family)
        if kind == socket.SOCK_DGRAM:
            bind_port(sock, order.family, port)
    except OSError as error:
        sock.close()
        return Attempt(outcome=Outcome.NOT_MEASURED, at_ms=at_ms, detail=f"bind: {of_errno(error.errno or 0)[1]}")
    try:
        sock.connect((order.address, order.port if kind == socket.SOCK_DGRAM else 0))
    except OSError as error:
        sock.close()
        outcome, detail = of_errno(error.errno or 0)
        return Attempt(outcome=outcome, at_ms=at_ms, detail=detail)
    return sock


def probe(ground: Ground, order: ProbeOrder, number: int) -> Probe:
    """One echo of `size` octets (at least the header's); from a port that is not kubereach's any answer is good."""
    opened = open_connected(ground, order, number, socket.SOCK_DGRAM, 0)
    if isinstance(opened, Attempt):
        return opened
    header = HEADER.pack(UDP_MAGIC, os.urandom(4), number, time.time_ns())
    if order.port == _DNS_PORT:
        header = UDP_MAGIC + _DNS_QUESTION
    payload = header + bytes(max(0, min(order.size, MAX_PAYLOAD) - len(header)))

    def judge(data: bytes) -> tuple[Outcome, str, tuple[str, ...]] | None:
        if order.port not in _ECHO_PORTS and data[: len(payload)] != payload:
            return Outcome.OK, f"the answer is no echo, but an answer ({len(data)} octets)", ()
        if not is_echo(data) or data[2 : HEADER.size] != payload[2 : HEADER.size]:
            return Outcome.WRONG_ANSWER, "the answer is no echo of the request", ()
        if len(data) != len(payload):
            return Outcome.WRONG_ANSWER, f"the answer has {len(data)} octets, not {len(payload)}", ()
        return Outcome.OK, "", ()

    try:
        forbid_fragments(opened, order.family, order.dont_fragment)
        return (yield from exchange(opened, payload, judge, time.monotonic() + order.timeout_ms / 1000))
    finally:
        opened.close()
