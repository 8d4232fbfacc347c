"""Which paths a cause explains: a conjunction of constraints, as data, so that it can be kept with its incident.

A cause says what it breaks; whether those paths do fail is the matrix's word. Nothing here asks anybody.
"""

from __future__ import annotations

import msgspec

from controller.cluster.state import Pod, Service, ServicePort
from controller.diagnosis.case import Flow
from controller.plan.paths import Path
from model.words import MatrixKind, Method, Network


class Scope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Constraints that a path must all meet; an empty one holds for every path.

    `nodes`: the path begins or ends on one of them. `pairs`: it runs between the two nodes of one of them, either way.
    `sources`, `destinations`: it begins, ends there. A path to a Service or to the DNS address ends on every node that
    has a backend, since it may hit any of them. `crossing`: it leaves its node. `targets`: UIDs of pods or Services.
    `columns`: names of the matrix's columns.
    """

    nodes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    crossing: bool = False
    network: Network | None = None
    family: int | None = None
    method: Method | None = None
    port: int | None = None
    kinds: tuple[MatrixKind, ...] = ()
    targets: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def covers(self, path: Path) -> bool:
        """Whether this path meets every constraint."""
        ends = path.destination_nodes
        return (
            (not self.nodes or path.source_node in self.nodes or not ends.isdisjoint(self.nodes))
            and (not self.pairs or any(_between(path, pair) for pair in self.pairs))
            and (not self.sources or path.source_node in self.sources)
            and (not self.destinations or not ends.isdisjoint(self.destinations))
            and (not self.crossing or ends != {path.source_node})
            and (self.network is None or path.network is self.network)
            and (self.family is None or path.family == self.family)
            and (self.method is None or path.method is self.method)
            and (self.port is None or path.port == self.port)
            and (not self.kinds or path.kind in self.kinds)
            and (not self.targets or path.target_uid in self.targets)
            and (not self.columns or path.destination in self.columns)
            and (not self.paths or path.id in self.paths)
        )


def _between(path: Path, pair: tuple[str, str]) -> bool:
    one, other = pair
    return (path.source_node == one and other in path.destination_nodes) or (
        path.source_node == other and one in path.destination_nodes
    )


def around_pod(flow: Flow, pod: Pod) -> Scope:
    """What fails where a pod at an end of a flow is cut off, wholly or in part.

    The pods that probe are the endpoints: theirs takes every path of the node's pod network with it. Of another pod it
    is the paths to it, and those to the Service by which it was asked.
    """
    if pod.is_endpoint:
        return Scope(nodes=(pod.node,), network=Network.POD)
    if pod == flow.destination.pod and flow.service is not None:
        return Scope(columns=columns_of(flow.service, flow.service_port))
    return Scope(targets=(pod.uid,))


def columns_of(service: Service, port: ServicePort | None = None) -> tuple[str, ...]:
    """The columns of the matrix in which a Service, or one port of it, stands: both its address and its backends."""
    ports = service.ports if port is None else (port,)
    return tuple(f"{service.key}:{p.port}/{p.protocol.lower()}" for p in ports)
