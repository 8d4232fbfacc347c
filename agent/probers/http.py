"""HTTP and HTTPS: one GET, no redirects followed, with the time of every phase; certificates are verified."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from agent.probers.dns import resolve
from agent.probers.drive import READ, WRITE, Ground, Probe, Wait
from agent.probers.errors import of_errno
from agent.probers.tcp import abort, bind_port, connect, family_of
from model.probes import Attempt, ProbeOrder
from model.words import Outcome

_MAX_HEAD: Final = 16384
_contexts: Final[dict[str, ssl.SSLContext]] = {}


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in parts."""

    tls: bool
    host: str
    port: int
    target: str
    authority: str


class _Failed(Exception):  # noqa: N818 - ends one attempt with an outcome; never leaves this module
    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def _fail(outcome: Outcome, detail: str) -> NoReturn:
    raise _Failed(outcome, detail)


def parse_url(url: str) -> Url:
    """Split an http or https URL. Raises ValueError."""
    scheme, mark, rest = url.partition("://")
    if mark != "://" or scheme.lower() not in ("http", "https"):
        raise ValueError(f"{url!r} is no http or https URL")
    cut = min((rest.find(c) for c in "/?#" if c in rest), default=len(rest))
    authority, target = rest[:cut].rpartition("@")[2], rest[cut:].partition("#")[0]
    tls = scheme.lower() == "https"
    host, port = authority, ""
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in authority:
        host, _, port = authority.partition(":")
    if not host or (port and not port.isdigit()) or any(ord(c) <= 32 for c in url):
        raise ValueError(f"{url!r} is no http or https URL")
    target = target if target.startswith("/") else "/" + target
    return Url(tls, host, int(port) if port else (443 if tls else 80), target, authority)


def trust(ca: str) -> ssl.SSLContext:
    """Verify against the system's authorities, read only as they are needed, and that of the cluster besides."""
    context = _contexts.get(ca)
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_default_verify_paths()
        if ca and Path(ca).exists():
            context.load_verify_locations(ca)
        _contexts[ca] = context
    return context


def probe(ground: Ground, order: ProbeOrder, number: int, ca: str = "") -> Probe:
    """GET the URL `name`, connecting to `address` if that is given; a status of 500 and more is `http_error`."""
    started = time.monotonic()
    at_ms = time.time_ns() // 1_000_000
    phases: dict[str, int] = {}
    own = ("", 0)
    status = 0
    sock: socket.socket | None = None
    try:
        url = parse_url(order.name)
        deadline = started + order.timeout_ms / 1000
        address = order.address or (yield from _look_up(ground, order, url, deadline))
        _mark(phases, "dns", started)
        sock = ground.socket(family_of(6 if ":" in address else 4), socket.SOCK_STREAM)
        ports = order.source_ports
        bind_port(sock, order.family, ports[number % len(ports)] if ports else 0)
        port = order.port or url.port
        done = yield from connect(sock, address, port, deadline)
        own = (done.address, done.port)
        if done.outcome is not Outcome.OK:
            _fail(done.outcome, f"connect to {address} port {port}: {done.detail or done.outcome.value}")
        phases["connect"] = done.rtt_us
        if url.tls:
            begun = time.monotonic()
            sock = yield from _handshake(sock, url, trust(ca), deadline)
            _mark(phases, "tls", begun)
        begun = time.monotonic()
        status = yield from _get(sock, url, deadline)
        _mark(phases, "first_byte", begun)
        outcome, detail = (Outcome.HTTP_ERROR, f"status {status}") if status >= 500 else (Outcome.OK, "")
    except _Failed as failed:
        outcome, detail = failed.outcome, failed.detail
    except ssl.SSLCertVerificationError as error:
        outcome, detail = Outcome.TLS_ERROR, f"certificate not valid: {error.verify_message}"
    except ssl.SSLError as error:
        outcome, detail = Outcome.TLS_ERROR, str(error.reason or error)
    except OSError as error:
        outcome, detail = of_errno(error.errno or 0)
    except ValueError as error:
        outcome, detail = Outcome.NOT_MEASURED, str(error)
    finally:
        if sock is not None:
            abort(sock)
    _mark(phases, "total", started)
    return Attempt(
        outcome=outcome,
        rtt_us=phases["total"] if outcome is Outcome.OK else 0,
        at_ms=at_ms,
        source_address=own[0],
        source_port=own[1],
        phases=phases,
        status=status,
        detail=detail,
    )


def _mark(phases: dict[str, int], phase: str, since: float) -> None:
    phases[phase] = max(1, round((time.monotonic() - since) * 1e6))


def _look_up(ground: Ground, order: ProbeOrder, url: Url, deadline: float) -> Generator[Wait, bool, str]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, url.host)
        except OSError:
            continue
        return url.host
    address, attempt = yield from resolve(ground, url.host, order, deadline)
    if not address:
        found_none = attempt.outcome is Outcome.OK
        outcome = Outcome.NAME_NOT_FOUND if found_none else attempt.outcome
        why = "no such record" if found_none else attempt.detail or attempt.outcome.value
        raise _Failed(outcome, f"look-up of {url.host}: {why}")
    return address


def _handshake(
    sock: socket.socket, url: Url, context: ssl.SSLContext, deadline: float
) -> Generator[Wait, bool, ssl.SSLSocket]:
    wrapped = context.wrap_socket(sock, server_hostname=url.host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                wrapped.do_handshake()
            except ssl.SSLWantReadError:
                events = READ
            except ssl.SSLWantWriteError:
                events = WRITE
            else:
                return wrapped
            if not (yield Wait(wrapped.fileno(), events, deadline)):
                _fail(Outcome.TIMEOUT, "connected, but no TLS handshake")
    except BaseException:
        abort(wrapped)
        raise


def _get(sock: socket.socket, url: Url, deadline: float) -> Generator[Wait, bool, int]:
    """Send the request and wait for the status line; returns the status."""
    request = (
        f"GET {url.target} HTTP/1.1\r\nHost: {url.authority}\r\nUser-Agent: kubereach\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    sock.send(request.encode("utf-8"))
    head = b""
    while b"\r\n" not in head and len(head) < _MAX_HEAD:
        try:
            part = sock.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            if not (yield Wait(sock.fileno(), READ, deadline)):
                raise _Failed(Outcome.TIMEOUT, "connected, but no answer to the request") from None
            continue
        if not part:
            raise _Failed(Outcome.RESET, "connection closed before the answer")
        head += part
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise _Failed(Outcome.WRONG_ANSWER, "the answer is no HTTP")
    return int(words[1])


def describe_certificate(ground: Ground, attempt: Attempt, order: ProbeOrder) -> Probe:
    """Fetch the certificate that was refused, without trust in it, and add its names and dates to the attempt.

    For the child of probes on demand only: it loads the `cryptography` package.
    """
    from cryptography import x509  # noqa: PLC0415

    sock: socket.socket | None = None
    detail = attempt.detail
    try:
        url = parse_url(order.name)
        deadline = time.monotonic() + order.timeout_ms / 1000
        address = order.address or (yield from _look_up(ground, order, url, deadline))
        sock = ground.socket(family_of(6 if ":" in address else 4), socket.SOCK_STREAM)
        done = yield from connect(sock, address, order.port or url.port, deadline)
        if done.outcome is Outcome.OK:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = yield from _handshake(sock, url, context, deadline)
            raw = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
            if raw:
                certificate = x509.load_der_x509_certificate(raw)
                detail += (
                    f"; subject {certificate.subject.rfc4514_string()}"
                    f"; issuer {certificate.issuer.rfc4514_string()}"
                    f"; not after {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
                )
    except (_Failed, OSError, ValueError):
        # The certificate is additional evidence; the attempt stands without it.
        return attempt
    finally:
        if sock is not None:
            abort(sock)
    return Attempt(
        outcome=attempt.outcome,
        rtt_us=attempt.rtt_us,
        at_ms=attempt.at_ms,
        source_address=attempt.source_address,
        source_port=attempt.source_port,
        phases=attempt.phases,
        detail=detail,
    )
