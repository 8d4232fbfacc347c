"""The plan of one node in the making, and what all parts of planning look at. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.cluster.state import ClusterState, Node, Pod, family_of
from controller.plan.paths import Path, PlanSettings, Unsampled
from controller.policy.model import PolicyModel
from model.diagnosis import Expectation
from model.probes import Task, Vantage, stable_id
from model.words import MatrixKind, Method, Network

HOST = Vantage()
TIMEOUT_MS = {Method.UDP: 500, Method.TCP: 1000, Method.ICMP: 1000, Method.DNS: 1000, Method.HTTP: 5000}


@dataclass(frozen=True, slots=True)
class Context:
    """What a plan is made from. `agents` are the nodes whose agent answers on its ports (None: all);
    `endpoints` the endpoint pods that can be probed from and to, by node.
    """

    cluster: ClusterState
    policy: PolicyModel | None
    settings: PlanSettings
    nodes: tuple[Node, ...]
    agents: frozenset[str] | None
    endpoints: dict[str, Pod]

    def answers(self, node: str) -> bool:
        """Whether the agent of this node should answer on its ports."""
        return self.agents is None or node in self.agents


@dataclass(frozen=True, slots=True)
class Target:
    """What a path leads to, but for how it asks."""

    kind: MatrixKind
    network: Network
    destination: str
    target_kind: str
    name: str = ""
    namespace: str = ""
    uid: str = ""
    nodes: frozenset[str] = frozenset()


@dataclass(slots=True)
class Draft:
    """The paths of one node so far."""

    node: str
    vantages: list[Vantage] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    unsampled: list[Unsampled] = field(default_factory=list)

    def add(
        self,
        vantage: Vantage,
        target: Target,
        expected: Expectation,
        method: Method,
        address: str,
        port: int,
        interval_s: float,
        *,
        name: str = "",
        record: str = "",
        over_tcp: bool = False,
        timeout_ms: int = 0,
        family: int = 0,
        vital: bool = False,
    ) -> None:
        """Adds a path; `family` where the address does not tell it, `vital` as in `Path`."""
        if vantage not in self.vantages:
            self.vantages.append(vantage)
        task = Task(
            id=stable_id(
                target.kind.value,
                self.node,
                vantage.pod_uid,
                target.destination,
                target.uid,
                method.value,
                family,
                address,
                port,
                name,
                over_tcp,
            ),
            vantage=self.vantages.index(vantage),
            method=method,
            family=family or family_of(address),
            address=address,
            port=port,
            interval_ms=round(interval_s * 1000),
            timeout_ms=timeout_ms or TIMEOUT_MS[method],
            name=name,
            record=record,
            over_tcp=over_tcp,
        )
        self.paths.append(
            Path(
                kind=target.kind,
                source_node=self.node,
                vantage=vantage,
                destination=target.destination,
                destination_nodes=target.nodes,
                network=target.network,
                target_kind=target.target_kind,
                target_namespace=target.namespace,
                target_name=target.name,
                target_uid=target.uid,
                expected=expected,
                vital=vital,
                task=task,
            )
        )


def vantage_of(pod: Pod) -> Vantage:
    """The pod's network namespace."""
    return Vantage(pod_uid=pod.uid, namespace=pod.namespace, name=pod.name, addresses=pod.addresses)


def spread(count: int, rate: float, shortest_s: float, longest_s: float) -> tuple[int, float]:
    """How many of `count` probes fit `rate` a second without waiting longer than `longest_s`, and their interval."""
    taken = min(count, int(rate * longest_s))
    return taken, max(shortest_s, taken / rate)


def by_family(addresses: tuple[str, ...]) -> dict[int, str]:
    """The first address of each family."""
    return {family_of(address): address for address in reversed(addresses)}
