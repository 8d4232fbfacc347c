"""The body of a probe request, and what can be said of it without looking at the cluster."""

from __future__ import annotations

import msgspec

from model.words import Method

PROTOCOLS = {"tcp": Method.TCP, "udp": Method.UDP, "icmp": Method.ICMP, "http": Method.HTTP, "dns": Method.DNS}


class ProbeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/v1/probe`. Fields left out are chosen by the target."""

    source: str
    destination: str
    protocol: str | None = None
    port: int | None = None
    family: int | None = None
    count: int = 3
    size: int = 0
    interval_ms: int = 100
    timeout_ms: int = 1000
    trace: bool | None = None
    capture: bool = False


class TargetError(ValueError):
    """A request that cannot be carried out; the text names the input, `hint` the way out."""

    def __init__(self, text: str, hint: str = "", *, missing: bool = False) -> None:
        super().__init__(text)
        self.hint = hint
        self.missing = missing


def check(request: ProbeRequest) -> None:
    """Refuse numbers and words that no probe can have. Raises TargetError that names them."""
    if request.protocol is not None and request.protocol not in PROTOCOLS:
        raise TargetError(f"protocol {request.protocol!r} is not known", f"one of {', '.join(PROTOCOLS)}")
    if request.port is not None and not 1 <= request.port <= 65535:
        raise TargetError(f"port {request.port} is not in 1…65535")
    if request.family not in {None, 4, 6}:
        raise TargetError(f"family {request.family} is neither 4 nor 6")
    limits = (
        ("count", request.count, 1, 1000),
        ("size", request.size, 0, 65000),
        ("interval_ms", request.interval_ms, 5, 10_000),
        ("timeout_ms", request.timeout_ms, 10, 10_000),
    )
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise TargetError(f"{name} {value} is not in {low}…{high}")
