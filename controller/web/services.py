"""What the handlers work on: everything of one running controller, put together by `controller.app`. Data alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from controller.agents import AgentRegistry
from controller.auth import Authenticator
from controller.cluster.watch import ClusterWatch
from controller.diagnosis.on_demand import OnDemand
from controller.facts.keeper import FactsKeeper
from controller.incident.book import IncidentBook
from controller.matrix.matrix import MatrixBook
from controller.planner import Planner
from controller.sweep import Sweep
from controller.web.stream import EventHub
from model.clock import Clock


@dataclass(slots=True)
class Counts:
    """What happened at the door, for the metrics."""

    frames: int = 0
    garbage: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    requests: dict[tuple[str, int], int] = field(default_factory=dict)
    probing: int = 0
    reading: int = 0
    lag_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a controller. `alive` tells whether its loop still turns."""

    clock: Clock
    watch: ClusterWatch
    planner: Planner
    matrix: MatrixBook
    agents: AgentRegistry
    book: IncidentBook
    on_demand: OnDemand
    sweep: Sweep
    hub: EventHub
    facts: FactsKeeper
    auth: Authenticator
    alive: Callable[[], bool]
    counts: Counts = field(default_factory=Counts)


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
