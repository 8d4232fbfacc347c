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
    """Packets of the probe seen at one device of the way, in order. `reply` on the way back."""

    node: str
    device: str
    direction: str
    packets: int
    at_us: int = 0
    reply: bool = False
    namespace: str = ""
    outer: str = ""


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `kubereach probe A B`."""

    probe: dict[str, Any]
    outcome: Outcome
    expectation: Expectation
    verdict: Verdict
    causes: tuple[Cause, ...] = ()
    hops: tuple[Hop, ...] = ()
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
