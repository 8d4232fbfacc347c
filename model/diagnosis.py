"""Diagnoses as they leave the controller: causes with object, evidence and mend; probe reports; incidents.

These are the JSON contracts of the command line and the API (`docs/contracts.md`); fields are only ever added.
"""

from __future__ import annotations

from typing import Any

import msgspec

from model.words import CellState, IncidentState, Outcome, Verdict


class Object(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The thing to mend, named as the user's own tools name it.

    `kind` is a Kubernetes kind (Service, Node, Pod, NetworkPolicy) or iptables-rule, nft-rule, device, sysctl, route,
    neighbour, fdb, cidr, path. `node` where it lies on one; `namespace` for Kubernetes objects that have one.
    """

    kind: str
    name: str
    node: str = ""
    namespace: str = ""
    text: str = ""

    def __str__(self) -> str:
        where = f" on {self.node}" if self.node and self.kind != "Node" else ""
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {name}{where}"


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured fact and what it says. `before`, `after` for what moved; `value` for what was read."""

    fact: str
    says: str
    node: str = ""
    before: int | None = None
    after: int | None = None
    value: str = ""


class Cause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of the catalogue, found: code, confidence 0…1, object, one sentence, evidence, mend."""

    code: str
    confidence: float
    object: Object
    summary: str
    evidence: tuple[Evidence, ...] = ()
    fix: str = ""
    suppresses: tuple[str, ...] = ()


class Expectation(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What NetworkPolicy and Services say; `allowed` None means that they leave it open."""

    allowed: bool | None
    because: tuple[str, ...] = ()
    missing: str = ""


class Hop(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Packets of a trace seen at one device of the way, in order. `reply` on the way back.

    `namespace` is NAMESPACE/NAME of the pod, "" for the host; `device` "socket" is what the kernel handed up to a
    socket. `at_us` counts from when the same packet was first seen on this node: times of two nodes are not comparable.
    `packets` are all that were seen, `numbers` how many different ones; `lost` of them were seen nowhere behind this.
    `outer` is "a>b" in a tunnel, `translated` what changed since the hop before, `error` an ICMP error and its sender.
    """

    node: str
    device: str
    direction: str
    packets: int
    at_us: int = 0
    reply: bool = False
    namespace: str = ""
    outer: str = ""
    source: str = ""
    destination: str = ""
    numbers: int = 0
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    resets: int = 0
    translated: str = ""
    error: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where packets of a trace were seen last. `packets` of `of` ended there.

    `place`: sender (no device of the source took them), node (inside a host or pod: after `device`), between (left
    `between[0]`, never reached `between[1]`), destination (delivered there, nothing came back), outside (left the
    cluster), unwatched (the next node could not be watched). `error` is an ICMP error or errno that told of it;
    `rule` the rule that took the packets, and `kernel` what a rule trace said there, where one was made.
    """

    place: str
    says: str
    packets: int
    of: int
    node: str = ""
    namespace: str = ""
    device: str = ""
    direction: str = ""
    reply: bool = False
    between: tuple[str, ...] = ()
    error: str = ""
    rule: Object | None = None
    kernel: str = ""


class TraceSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A trace as a whole: packets sent, answered, rejected by an error, lost; and where most of them stopped.

    `repeated` were sent again for want of an answer (TCP); `duplicates`, `reordered` and `resets` are of the answers as
    the source saw them. `network_us`: time on the wire there and back, without that spent on either host. `missing`
    says what could not be watched.
    """

    sent: int
    answered: int
    rejected: int = 0
    lost: int = 0
    repeated: int = 0
    duplicates: int = 0
    reordered: int = 0
    resets: int = 0
    network_us: int = 0
    stop: Stop | None = None
    missing: tuple[str, ...] = ()


class Captured(msgspec.Struct, frozen=True, array_like=True):
    """A captured packet, for a capture file: where, which packet of the burst on which way, and its octets from the IP
    header on; `at_ns` is the wall clock of its node, `length` what was on the wire.
    """

    node: str
    namespace: str
    device: str
    direction: str
    way: str
    number: int
    at_ns: int
    length: int
    data: bytes


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `kubereach probe A B`."""

    probe: dict[str, Any]
    outcome: Outcome
    expectation: Expectation
    verdict: Verdict
    causes: tuple[Cause, ...] = ()
    hops: tuple[Hop, ...] = ()
    trace: TraceSummary | None = None
    capture: tuple[Captured, ...] = ()
    attempts: tuple[dict[str, Any], ...] = ()
    ruled_out: tuple[str, ...] = ()
    missing_evidence: tuple[str, ...] = ()
    took_ms: int = 0


class Cell(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One cell of a matrix. `loss` 0…1 over the window; `rtt_us` median of the window.

    `failing` are the paths that fail ("pod udp IPv4"); `age_s` is of the newest observation. `node_ready` is false
    where Kubernetes says that either end's node is not Ready.
    """

    source: str
    destination: str
    state: CellState
    verdict: Verdict
    loss: float = 0.0
    rtt_us: int = 0
    age_s: float | None = None
    paths: int = 0
    failing: tuple[str, ...] = ()
    node_ready: bool = True


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix of one kind at one moment. Cells come row by row."""

    kind: str
    at: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]


class CellRef(msgspec.Struct, frozen=True):
    """A cell that an incident concerns."""

    kind: str
    source: str
    destination: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A diagnosis with a lifetime. Times are RFC 3339 in UTC. `causes` is ordered, the first is the answer."""

    id: str
    state: IncidentState
    opened_at: str
    resolved_at: str | None
    title: str
    causes: tuple[Cause, ...]
    cells: tuple[CellRef, ...]
    cell_count: int = 0
    ruled_out: tuple[str, ...] = ()
    missing_evidence: tuple[str, ...] = ()
    first_sign_at: str = ""
    named_at: str = ""
