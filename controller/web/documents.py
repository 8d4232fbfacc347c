"""The API's own documents, beside those of `model.diagnosis`. Pure data; fields are only ever added."""

from __future__ import annotations

import msgspec

from controller.agents import AgentInfo
from controller.cluster.state import ClusterState, Node
from controller.matrix.paths import PathStatus
from controller.plan.paths import ClusterPlan
from model.clock import rfc3339
from model.diagnosis import Cell, Expectation
from model.words import CellState, Outcome, Verdict


class Error(msgspec.Struct, frozen=True):
    """What every refusal says: what is wrong, and the way out where there is one."""

    error: str
    hint: str = ""


class AgentDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. `state`: reporting, silent (seen before, not now), ended (it said goodbye), never (not seen yet).

    `plan_in_force`: it works on the newest plan.
    """

    state: str
    via: str = ""
    version: str = ""
    age_s: float | None = None
    silent_since: str | None = None
    late_ms: int = 0
    dropped: int = 0
    outbox: int = 0
    rss_kib: int = 0
    cpu_ms: int = 0
    plan_in_force: bool = False
    vantage_errors: dict[str, str] = {}


class NodeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A node as Kubernetes tells of it, and its agent."""

    name: str
    zone: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    ready: bool | None
    ready_reason: str
    unschedulable: bool
    endpoint: str
    endpoint_ready: bool
    agent: AgentDocument


class ClusterDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster. `stale_since`: since when the API does not answer."""

    at: str
    synced: bool
    stale_since: str | None
    revision: int
    nodes: tuple[NodeDocument, ...]
    paths: int


class PathDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One path of a cell, in detail."""

    id: str
    kind: str
    source: str
    vantage: str
    destination: str
    target: str
    network: str
    method: str
    family: int
    address: str
    port: int
    name: str
    over_tcp: bool
    interval_s: float
    state: CellState
    verdict: Verdict
    expectation: Expectation
    loss: float
    rtt_us: int
    age_s: float | None
    outcome: Outcome | None
    detail: str
    consecutive: int
    observations: int
    late_ms: int
    since: str


class Paths(msgspec.Struct, frozen=True):
    """The paths of a cell; `unsampled` says why there is none, where that is known."""

    paths: tuple[PathDocument, ...]
    unsampled: str = ""


class CellChange(Cell, frozen=True, kw_only=True):
    """A cell of the event stream: with the matrix that it belongs to."""

    kind: str


def agent_document(info: AgentInfo | None, plan_digest: str, now: float) -> AgentDocument:
    """What is known of an agent."""
    if info is None:
        return AgentDocument(state="never")
    status = info.status
    return AgentDocument(
        state="reporting" if info.connected else "ended" if info.said_goodbye else "silent",
        via=info.via,
        version=info.version,
        age_s=None if info.last_seen is None else round(max(0.0, now - info.last_seen), 3),
        silent_since=None if info.silent_since is None else rfc3339(info.silent_since),
        late_ms=info.late_ms,
        dropped=info.dropped,
        outbox=status.outbox if status else 0,
        rss_kib=status.rss_kib if status else 0,
        cpu_ms=status.cpu_ms if status else 0,
        plan_in_force=bool(plan_digest) and info.plan == plan_digest,
        vantage_errors=status.vantage_errors if status else {},
    )


def node_document(
    node: Node, cluster: ClusterState, plan: ClusterPlan, info: AgentInfo | None, now: float
) -> NodeDocument:
    """What is known of a node."""
    endpoint = cluster.endpoint_pods.get(node.name)
    own = plan.plans.get(node.name)
    return NodeDocument(
        name=node.name,
        zone=node.zone,
        addresses=node.addresses,
        pod_cidrs=node.pod_cidrs,
        ready=node.ready,
        ready_reason=node.ready_reason,
        unschedulable=node.unschedulable,
        endpoint=endpoint.key if endpoint else "",
        endpoint_ready=endpoint is not None and endpoint.ready,
        agent=agent_document(info, own.digest if own else "", now),
    )


def path_document(status: PathStatus, now: float) -> PathDocument:
    """A path for people."""
    path = status.path
    target = f"{path.target_namespace}/{path.target_name}" if path.target_namespace else path.target_name
    return PathDocument(
        id=path.id,
        kind=path.kind.value,
        source=path.source_node,
        vantage=str(path.vantage),
        destination=path.destination,
        target=f"{path.target_kind} {target}",
        network=path.network.value,
        method=path.method.value,
        family=path.family,
        address=path.address,
        port=path.port,
        name=path.task.name,
        over_tcp=path.task.over_tcp,
        interval_s=path.interval_s,
        state=status.state,
        verdict=status.verdict,
        expectation=path.expected,
        loss=round(status.loss, 3),
        rtt_us=status.rtt_us,
        age_s=None if status.last_at is None else round(max(0.0, now - status.last_at), 3),
        outcome=status.last_outcome,
        detail=status.detail,
        consecutive=status.consecutive,
        observations=status.observations,
        late_ms=status.late_ms,
        since=rfc3339(status.since),
    )
