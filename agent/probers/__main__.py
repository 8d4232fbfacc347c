"""The child for probes on demand: `python -m agent.probers [--netns PATH] [--ca FILE]`.

Reads one ProbeOrder as JSON from standard input, writes one ProbeResult as JSON to standard output. Must not outlive
the agent that started it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from agent import resolvconf
from agent.netns import OWN, NamespaceError, enter
from agent.probers import http
from agent.probers.drive import Probe, drive
from agent.probers.registry import PROBES
from model.facts import Resolver
from model.probes import ProbeOrder, ProbeResult
from model.words import Method, Outcome

_PR_SET_PDEATHSIG: Final = 1
_GRACE_S: Final = 0.5


class HereGround:
    """The namespace in which this process stands."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """See `Ground`."""
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        return sock

    def resolver(self) -> Resolver:
        """See `Ground`."""
        return self._resolver


def run(order: ProbeOrder, ground: HereGround, ca: str) -> ProbeResult:
    """Carry out all attempts; those that have not ended in time are left out."""
    if order.method is Method.HTTP:
        make: Callable[[int], Probe] = lambda number: _http(ground, order, number, ca)  # noqa: E731
    else:
        prober = PROBES[order.method]
        make = lambda number: prober(ground, order, number)  # noqa: E731
    interval_s = order.interval_ms / 1000
    # Starting waits where many run at once, hence the second timeout.
    give_up = time.monotonic() + interval_s * order.count + 2 * order.timeout_ms / 1000 + _GRACE_S
    return ProbeResult(attempts=tuple(drive(make, order.count, interval_s, give_up)))


def _http(ground: HereGround, order: ProbeOrder, number: int, ca: str) -> Probe:
    attempt = yield from http.probe(ground, order, number, ca)
    if attempt.outcome is Outcome.TLS_ERROR and "certificate" in attempt.detail:
        return (yield from http.describe_certificate(ground, attempt, order))
    return attempt


def main() -> int:
    """Read the order, enter the namespace, probe, answer. Returns 0; a faulty order is an answer with an error."""
    parser = argparse.ArgumentParser(prog="python -m agent.probers")
    parser.add_argument("--netns", default=OWN)
    parser.add_argument("--ca", default="")
    parser.add_argument("--parent", type=int, default=0)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if options.parent and os.getppid() != options.parent:
        return 1
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=ProbeOrder)
        needs_names = order.method in (Method.HTTP, Method.DNS) and not order.address
        resolver = resolvconf.or_empty(options.netns) if needs_names else Resolver()
        if options.netns != OWN:
            enter(options.netns)
        result = run(order, HereGround(resolver), options.ca)
    except (msgspec.DecodeError, NamespaceError) as error:
        result = ProbeResult(error=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(result))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
