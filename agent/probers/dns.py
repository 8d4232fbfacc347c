"""DNS: one question to one server, over UDP or TCP; and the look-up of a name as a process of a namespace does it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator
from typing import Final

from agent.probers.dnswire import NXDOMAIN, Reply, WireError, decode_reply, encode_question
from agent.probers.drive import READ, Ground, Probe, Wait
from agent.probers.errors import of_errno
from agent.probers.tcp import abort, bind_port, connect, family_of
from agent.probers.udp import exchange, open_connected
from model.facts import Resolver
from model.probes import Attempt, ProbeOrder
from model.words import Method, Outcome

_MAX_STREAM: Final = 65535
_TRY_S: Final = 2.0


def verdict(reply: Reply) -> tuple[Outcome, str]:
    """Outcome and detail of a response code."""
    if reply.rcode == 0:
        return Outcome.OK, ""
    return (Outcome.NAME_NOT_FOUND if reply.rcode == NXDOMAIN else Outcome.SERVER_FAILURE), reply.rcode_name


def judge_reply(data: bytes, query: bytes) -> tuple[Outcome, str, tuple[str, ...]]:
    """Outcome, detail and records of what came for an answer."""
    try:
        reply = decode_reply(data, query)
    except WireError as error:
        return Outcome.WRONG_ANSWER, str(error), ()
    outcome, detail = verdict(reply)
    return outcome, detail, reply.records


def probe(ground: Ground, order: ProbeOrder, number: int) -> Probe:
    """One question for `name`/`record` to the server at `address`; without an address, to the namespace's own."""
    at_ms = time.time_ns() // 1_000_000
    if not order.address:
        return (yield from _ask_own_servers(ground, order, number))
    try:
        query = encode_question(int.from_bytes(os.urandom(2), "big"), order.name, order.record)
    except (WireError, UnicodeError) as error:
        return Attempt(outcome=Outcome.NOT_MEASURED, at_ms=at_ms, detail=str(error))
    deadline = time.monotonic() + order.timeout_ms / 1000
    if order.over_tcp:
        return (yield from _ask_over_tcp(ground, order, number, query, deadline))
    opened = open_connected(ground, order, number, socket.SOCK_DGRAM, 0)
    if isinstance(opened, Attempt):
        return opened
    try:
        return (yield from exchange(opened, query, lambda data: judge_reply(data, query), deadline))
    finally:
        opened.close()


def _ask_over_tcp(ground: Ground, order: ProbeOrder, number: int, query: bytes, deadline: float) -> Probe:
    at_ms = time.time_ns() // 1_000_000
    started = time.monotonic()
    try:
        sock = ground.socket(family_of(order.family), socket.SOCK_STREAM)
    except OSError as error:
        return Attempt(outcome=Outcome.NOT_MEASURED, at_ms=at_ms, detail=of_errno(error.errno or 0)[1])
    try:
        ports = order.source_ports
        bind_port(sock, order.family, ports[number % len(ports)] if ports else 0)
        done = yield from connect(sock, order.address, order.port, deadline)
        outcome, detail = done.outcome, done.detail
        answer: tuple[str, ...] = ()
        if outcome is Outcome.OK:
            sock.send(len(query).to_bytes(2, "big") + query)
            data = yield from _read_framed(sock, deadline)
            if data is None:
                outcome, detail = Outcome.TIMEOUT, "connected, but no answer"
            elif not data:
                outcome, detail = Outcome.RESET, "connection closed before the answer"
            else:
                outcome, detail, answer = judge_reply(data, query)
        total_us = max(1, round((time.monotonic() - started) * 1e6))
    except OSError as error:
        outcome, detail = of_errno(error.errno or 0)
        return Attempt(outcome=outcome, at_ms=at_ms, detail=detail)
    finally:
        abort(sock)
    return Attempt(
        outcome=outcome,
        rtt_us=total_us if outcome is Outcome.OK else 0,
        at_ms=at_ms,
        source_address=done.address,
        source_port=done.port,
        phases={"connect": done.rtt_us, "total": total_us} if done.outcome is Outcome.OK else {},
        answer=answer,
        detail=detail,
    )


def _read_framed(sock: socket.socket, deadline: float) -> Generator[Wait, bool, bytes | None]:
    """A message with its length before it: None where time ran out, empty where the far end closed."""
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        if not (yield Wait(sock.fileno(), READ, deadline)):
            return None
        try:
            part = sock.recv(_MAX_STREAM)
        except BlockingIOError:
            continue
        if not part:
            return b""
        data += part
    return data[2:]


def candidates(name: str, resolver: Resolver) -> list[str]:
    """The names a resolver tries in turn (resolv.conf(5): search, ndots)."""
    if name.endswith("."):
        return [name.rstrip(".")]
    ndots = 1
    for option in resolver.options:
        if option.startswith("ndots:") and option[6:].isdigit():
            ndots = int(option[6:])
    searched = [f"{name}.{suffix.strip('.')}" for suffix in resolver.search if suffix.strip(".")]
    return [name, *searched] if name.count(".") >= ndots else [*searched, name]


def _ask_own_servers(ground: Ground, order: ProbeOrder, number: int) -> Probe:
    """Ask the namespace's own servers, name after name and server after server, as a C library would."""
    resolver = ground.resolver()
    started = time.monotonic()
    end = started + order.timeout_ms / 1000
    last = Attempt(
        outcome=Outcome.NOT_MEASURED, at_ms=time.time_ns() // 1_000_000, detail="no name server in resolv.conf"
    )
    for name in candidates(order.name, resolver):
        for server in resolver.nameservers[:3]:
            left_s = end - time.monotonic()
            if left_s <= 0:
                return last
            asked = ProbeOrder(
                vantage=order.vantage,
                method=Method.DNS,
                family=6 if ":" in server else 4,
                address=server,
                port=order.port or 53,
                timeout_ms=max(1, round(min(_TRY_S, left_s) * 1000)),
                name=name,
                record=order.record,
                over_tcp=order.over_tcp,
                source_ports=order.source_ports,
            )
            last = yield from probe(ground, asked, number)
            # An empty answer (NOERROR without records) is no reason to stop before the list is done.
            if last.outcome is Outcome.OK and last.answer:
                return last
            if last.outcome in (Outcome.OK, Outcome.NAME_NOT_FOUND):
                break
    return last


def resolve(
    ground: Ground, name: str, order: ProbeOrder, deadline: float
) -> Generator[Wait, bool, tuple[str, Attempt]]:
    """The first address of a name in the order's family, "" if there is none, and the attempt that tells why."""
    question = ProbeOrder(
        vantage=order.vantage,
        method=Method.DNS,
        family=order.family,
        address="",
        timeout_ms=max(1, round((deadline - time.monotonic()) * 1000)),
        name=name,
        record="AAAA" if order.family == 6 else "A",
    )
    attempt = yield from _ask_own_servers(ground, question, 0)
    kind = question.record + " "
    addresses = [record[len(kind) :] for record in attempt.answer if record.startswith(kind)]
    return (addresses[0] if addresses else ""), attempt
