"""Prometheus' text format. Never a series per pair: what grows is bounded by kinds, states and nodes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from controller.web.services import Services
from model.words import CellState, IncidentState

NODES_SHOWN = 5_000


class _Collector:
    """Reads everything at the time of the scrape, so that nothing is counted twice."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        yield from _matrix(self._services)
        yield from _agents(self._services)
        yield from _cluster(self._services)
        yield from _self(self._services)


def _matrix(services: Services) -> Iterator[Metric]:
    states = GaugeMetricFamily("kubereach_paths", "Paths of the plan by state.", labels=["state"])
    for state in CellState:
        states.add_metric([state.value], services.matrix.states[state])
    yield states
    yield _counter("kubereach_observations", "Results taken in.", services.matrix.observations)
    yield _counter("kubereach_observations_stray", "Results of paths that are not planned.", services.matrix.strangers)
    open_ = services.book.list(IncidentState.OPEN)
    incidents = GaugeMetricFamily("kubereach_incidents_open", "Open incidents by cause.", labels=["code"])
    for code in sorted({i.causes[0].code for i in open_ if i.causes}):
        incidents.add_metric([code], sum(1 for i in open_ if i.causes and i.causes[0].code == code))
    yield incidents
    sweep = services.sweep.state()
    yield _gauge("kubereach_sweep_paths_covered", "Paths observed since the sweep began.", sweep.covered)


def _agents(services: Services) -> Iterator[Metric]:
    agents = services.agents.all()
    connected = GaugeMetricFamily("kubereach_agent_connected", "Whether the node's agent reports.", labels=["node"])
    late = GaugeMetricFamily("kubereach_agent_late_seconds", "By how much an agent missed its times.", labels=["node"])
    lost = CounterMetricFamily("kubereach_agent_dropped", "Results lost to a full outbox.", labels=["node"])
    memory = GaugeMetricFamily("kubereach_agent_resident_bytes", "Resident memory of an agent.", labels=["node"])
    for agent in agents[:NODES_SHOWN]:
        connected.add_metric([agent.node], int(agent.connected))
        late.add_metric([agent.node], agent.late_ms / 1000)
        lost.add_metric([agent.node], agent.dropped)
        memory.add_metric([agent.node], agent.status.rss_kib * 1024 if agent.status else 0)
    yield from (connected, late, lost, memory)
    relayed = sum(1 for a in agents if a.connected and a.via)
    yield _gauge("kubereach_agents_relayed", "Agents that report through a neighbour.", relayed)
    yield _counter("kubereach_batches", "Batches of results received.", services.agents.batches)
    yield _gauge("kubereach_batches_missing", "Batches that were numbered and have not come.", services.agents.missing)
    yield _counter("kubereach_batches_repeated", "Batches that were taken before.", services.agents.repeated)


def _cluster(services: Services) -> Iterator[Metric]:
    state = services.watch.snapshot()
    yield _gauge("kubereach_nodes", "Nodes of the cluster.", len(state.nodes))
    yield _gauge("kubereach_cluster_synced", "Whether the cluster was read once.", int(state.synced))
    yield _gauge("kubereach_cluster_stale", "Whether the Kubernetes API is silent.", int(state.stale_since is not None))
    yield _counter("kubereach_lists", "Lists asked of the Kubernetes API.", services.watch.lists)
    yield _counter("kubereach_objects_unreadable", "Objects that were left out.", services.watch.store.unreadable)
    yield _gauge("kubereach_plan_seconds", "How long the last plan took to make.", services.planner.took_s)
    yield _counter("kubereach_plans", "Plans made.", services.planner.plans)


def _self(services: Services) -> Iterator[Metric]:
    counts = services.counts
    yield _gauge("kubereach_loop_lag_seconds", "Greatest lateness of the controller's own loop.", counts.lag_s)
    yield _counter("kubereach_frames", "Frames received from agents.", counts.frames)
    yield _counter("kubereach_frames_refused", "Connections closed for what they sent.", counts.garbage)
    yield _gauge("kubereach_streams", "Open event streams.", services.hub.readers)
    yield _counter("kubereach_streams_dropped", "Streams dropped since they did not keep up.", services.hub.dropped)
    requests = CounterMetricFamily("kubereach_requests", "Requests by route and status.", labels=["route", "status"])
    for (route, status), count in sorted(counts.requests.items()):
        requests.add_metric([route, str(status)], count)
    yield requests


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def render(services: Services) -> bytes:
    """The metrics, now."""
    registry = CollectorRegistry()
    registry.register(_Collector(services))
    return bytes(generate_latest(registry))
