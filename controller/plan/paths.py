"""What a plan is made of: a path is one steady probe with all that the controller knows of it.

Pure data. `controller.plan.make` makes it, the matrix keeps what was observed of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from model.diagnosis import Expectation
from model.probes import Plan, Task, Vantage
from model.words import MatrixKind, Method, Network


class Path(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One steady probe: who asks what, from where, over which network, and what is expected.

    `id` is `task.id`. `destination` is the matrix column: a node name; "namespace/service:port/protocol"; for DNS the
    replica "namespace/pod", the Service "namespace/service", or an outside name; the egress target's URL.
    `destination_nodes` are those of the target: of a Service all nodes of its ready backends. `target_kind` is Node,
    Pod, Service, Backend, DNSReplica, DNSService or Egress. `vital`: what asks cannot do without it, so that a denial
    by policy is a mistake in the policy rather than its purpose.
    """

    kind: MatrixKind
    source_node: str
    vantage: Vantage
    destination: str
    destination_nodes: frozenset[str]
    network: Network
    target_kind: str
    target_namespace: str = ""
    target_name: str = ""
    target_uid: str = ""
    expected: Expectation
    vital: bool = False
    task: Task

    @property
    def id(self) -> str:
        """The task's id, stable over restarts."""
        return self.task.id

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.task.family

    @property
    def method(self) -> Method:
        """How it asks."""
        return self.task.method

    @property
    def address(self) -> str:
        """Where it asks."""
        return self.task.address

    @property
    def port(self) -> int:
        """The port, 0 if the method has none."""
        return self.task.port

    @property
    def interval_s(self) -> float:
        """Seconds from probe to probe."""
        return self.task.interval_ms / 1000

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.source_node}/{self.vantage} {self.method.value} {self.destination} ({self.address}{port})"


class Unsampled(msgspec.Struct, frozen=True, gc=False):
    """A cell that no path measures, and why."""

    kind: MatrixKind
    source: str
    destination: str
    reason: str


class EgressTarget(msgspec.Struct, frozen=True):
    """A configured target outside: its URL and, where the name need not be asked for, its addresses."""

    url: str
    host: str
    port: int
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What the user chose. Rates are probes a second of one agent; `key` seeds the order of the nodes."""

    namespace: str = "kubereach"
    cluster_domain: str = "cluster.local"
    egress_targets: tuple[EgressTarget, ...] = ()
    node_rate: float = 16.0
    key: str = "kubereach"


@dataclass(frozen=True)
class ClusterPlan:
    """Everything that is probed: paths by id, each agent's plan by node name, and the cells left out.

    `nodes` are the rows, in order of name. `epoch` counts the steps of the sampled plan of a big cluster (0 else).
    `rotates`: not everything has its place in this plan, so that another is due at the next epoch.
    """

    revision: int = 0
    epoch: int = 0
    nodes: tuple[str, ...] = ()
    paths: Mapping[str, Path] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    unsampled: tuple[Unsampled, ...] = ()
    rotates: bool = False

    @cached_property
    def columns(self) -> Mapping[MatrixKind, tuple[str, ...]]:
        """Destinations of each kind, in order."""
        found: dict[MatrixKind, set[str]] = {}
        for path in self.paths.values():
            found.setdefault(path.kind, set()).add(path.destination)
        for cell in self.unsampled:
            found.setdefault(cell.kind, set()).add(cell.destination)
        return {kind: tuple(sorted(names)) for kind, names in found.items()}


EMPTY_CLUSTER_PLAN = ClusterPlan()
