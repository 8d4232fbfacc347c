"""Probes, plans and observations: the questions put on the wire, and their results.

Steady probing: the controller sends a `Plan`; the agent answers with `Observation`s, each naming the task by its id.
On demand: a `ProbeOrder` is answered by a `ProbeResult` with every attempt in it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from model.ports import (
    CONTROLLER_PLAIN_PORT,
    CONTROLLER_PORT,
    ENDPOINT_PORT,
    HOST_ECHO_PORT,
    RELAY_PORT,
    UDP_MAGIC,
)
from model.words import Method, Outcome

__all__ = [
    "CONTROLLER_PLAIN_PORT",
    "CONTROLLER_PORT",
    "EMPTY_PLAN",
    "ENDPOINT_PORT",
    "HOST_ECHO_PORT",
    "RELAY_PORT",
    "UDP_MAGIC",
    "Attempt",
    "Observation",
    "Plan",
    "ProbeOrder",
    "ProbeResult",
    "RelayPeer",
    "Task",
    "Vantage",
    "stable_id",
]


class Vantage(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A network namespace to probe from.

    `pod_uid` empty means the node's own host namespace. `addresses` are the pod's, by which (and by the UID in its
    cgroup path) the agent finds the namespace.
    """

    pod_uid: str = ""
    namespace: str = ""
    name: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def is_host(self) -> bool:
        """Whether this is the node's host namespace."""
        return self.pod_uid == ""

    def __str__(self) -> str:
        return "host" if self.is_host else f"pod/{self.namespace}/{self.name}"


class Task(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One steady probe of a plan: from `vantage` (an index into `Plan.vantages`) to `address`, every `interval_ms`.

    `udp` sends an echo to a kubereach endpoint or agent; `tcp` connects and closes; `icmp` is an echo request;
    `dns` asks for `name`/`record` at `address`:`port`, over TCP if `over_tcp`, and calls rcode 0 ok; `http` fetches
    `name` (a URL; connecting to `address` if that is given) and takes any status below 500 as reached.
    """

    id: str
    vantage: int
    method: Method
    family: int
    address: str
    port: int = 0
    interval_ms: int = 1000
    timeout_ms: int = 500
    name: str = ""
    record: str = ""
    over_tcp: bool = False


class RelayPeer(msgspec.Struct, frozen=True, array_like=True):
    """A neighbouring agent that passes the stream on: node name, its addresses, relay port."""

    node: str
    addresses: tuple[str, ...]
    port: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that one agent shall probe. `digest` names the content: equal plans have equal digests."""

    digest: str
    vantages: tuple[Vantage, ...]
    tasks: tuple[Task, ...]
    relays: tuple[RelayPeer, ...] = ()
    relay_clients: tuple[str, ...] = ()


# So many results of a path are what it is judged by, and what an agent asks for soon after a loss.
WINDOW: Final = 20
EMPTY_PLAN = Plan(digest="", vantages=(), tasks=())


def stable_id(*parts: object) -> str:
    """Twelve hexadecimal digits that stay the same for the same parts, over restarts and processes."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=6).hexdigest()


class Observation(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The result of one steady probe.

    `at_ms` is the agent's wall clock at sending, milliseconds since the epoch; `rtt_us` is 0 unless the outcome is ok
    (or refused: a refusal has a time too); `late_ms` is by how much the agent itself missed the probe's due time.
    """

    task: str
    at_ms: int
    outcome: Outcome
    rtt_us: int = 0
    late_ms: int = 0
    detail: str = ""


class ProbeOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A probe on demand: `count` attempts, `interval_ms` apart, each with its own source port.

    `size` is the payload in octets for udp and icmp; with `dont_fragment` the DF bit is set. For dns, `name` and
    `record` are the question; for http, `name` is the URL and `address` (optional) where to connect.
    `source_ports`, where given, are used in turn.
    """

    vantage: Vantage
    method: Method
    family: int
    address: str
    port: int = 0
    count: int = 3
    interval_ms: int = 100
    timeout_ms: int = 1000
    size: int = 0
    dont_fragment: bool = False
    name: str = ""
    record: str = ""
    over_tcp: bool = False
    source_ports: tuple[int, ...] = ()


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt: outcome, round-trip time, phases (name → µs: `dns`, `connect`, `tls`, `first_byte`, `total`)."""

    outcome: Outcome
    rtt_us: int = 0
    at_ms: int = 0
    source_address: str = ""
    source_port: int = 0
    phases: dict[str, int] = {}
    answer: tuple[str, ...] = ()
    status: int = 0
    detail: str = ""


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """All attempts of a probe on demand, in order. `error` says why nothing could be measured, else it is empty."""

    attempts: tuple[Attempt, ...] = ()
    error: str = ""

    @property
    def outcome(self) -> Outcome:
        """The outcome of most attempts; ok only if none failed, since a loss is what one asks about."""
        if not self.attempts:
            return Outcome.NOT_MEASURED
        failed = [a.outcome for a in self.attempts if a.outcome is not Outcome.OK]
        if not failed:
            return Outcome.OK
        return max(failed, key=failed.count)
