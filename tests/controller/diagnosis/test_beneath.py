"""A Service whose pod is not ready: what cuts the pod off is named, since its own probes get no answer either."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from controller.agents import AgentRegistry, OrderError
from controller.cluster.state import ClusterState
from controller.diagnosis.case import Flow, Place
from controller.diagnosis.engine import Diagnoser
from controller.diagnosis.flows import Question, unready_behind
from controller.incident.book import IncidentBook
from controller.matrix.matrix import MatrixBook
from controller.plan.make import make_plans
from controller.plan.paths import PlanSettings
from model.facts import Facts, FactsOrder, Link
from model.probes import Attempt, ProbeOrder, ProbeResult
from model.words import Method, Outcome
from tests.controller.diagnosis import world
from tests.controller.test_matrix import StoppedClock

POD = world.pod_on("node-b")
OWN = Link(index=2, name="eth0", kind="veth", up=True, peer_index=20)
CABLE = Link(index=20, name="veth7", kind="veth", up=True, master="cni0", peer_index=2)


def unready(**changes: object) -> ClusterState:
    """The cluster with the one pod of the Service not ready."""
    state = world.cluster()
    pod = msgspec.structs.replace(POD, ready=False, **changes)  # type: ignore[arg-type]
    part = state.slices["shop/web-1"]
    end = next(e for e in part.endpoints if e.target_uid == POD.uid)
    slices = {"shop/web-1": msgspec.structs.replace(part, endpoints=(msgspec.structs.replace(end, ready=False),))}
    others = {uid: p for uid, p in state.pods.items() if p.labels.get("app") != "web"}
    asking = world.pod_on("node-a", "client", 7)
    return replace(state, slices=slices, pods={**others, pod.uid: pod, asking.uid: asking})


def flow() -> Flow:
    """From a client on node-a to the Service."""
    return Flow(
        source=world.place(world.pod_on("node-a", "client", 7)),
        destination=Place(address="10.96.3.7"),
        method=Method.TCP,
        family=4,
        port=80,
        service=world.SERVICE,
        service_port=world.SERVICE.ports[0],
        virtual_address="10.96.3.7",
    )


class Agents:
    """Agents that answer: every probe with one outcome, and node-b with a cable that is up or down."""

    def __init__(self, outcome: Outcome, *, cable_up: bool) -> None:
        self.outcome = outcome
        self.cable = msgspec.structs.replace(CABLE, up=cable_up)

    def all(self) -> tuple[()]:
        """No agent is known."""
        return ()

    def get(self, _node: str) -> None:
        """Not this one either."""

    async def probe(self, _node: str, order: ProbeOrder, _limit_s: float) -> ProbeResult:
        """The scripted outcome."""
        return ProbeResult(attempts=tuple(Attempt(outcome=self.outcome) for _ in range(order.count)))

    async def facts(self, node: str, order: FactsOrder, *_: Any) -> Facts:
        """Healthy hosts, and the pod's own device."""
        if not order.vantage.is_host:
            return Facts(links=(OWN,))
        host = world.healthy_facts(node)
        links = (*(host.links or ()), self.cable) if node == "node-b" else host.links
        return msgspec.structs.replace(host, links=links)

    async def trace(self, node: str, *_: Any) -> OrderError:
        """Nothing is traced."""
        return OrderError("silent", f"{node} does not trace")


async def diagnosed(state: ClusterState, agents: Agents) -> list[str]:
    """The codes that a look at the Service finds, best first."""
    clock = StoppedClock()
    clock.now = 1000.0
    plan = make_plans(state, None, PlanSettings())
    diagnoser = Diagnoser(
        cluster=lambda: state,
        plan=lambda: plan,
        matrix=MatrixBook(clock),
        agents=cast("AgentRegistry", agents),
        book=IncidentBook(clock),
        clock=clock,
    )
    _, findings = await diagnoser.diagnose(Question(flow()))
    return [f.cause.code for f in findings]


@pytest.mark.parametrize(
    ("outcome", "cable_up", "expected"),
    [
        pytest.param(Outcome.TIMEOUT, False, "cni.veth_down", id="its cable is down"),
        pytest.param(
            Outcome.TIMEOUT, True, "service.endpoints_not_ready", id="it does not answer, and nothing is wrong"
        ),
        pytest.param(Outcome.OK, False, "service.endpoints_not_ready", id="it answers: its cable is no reason"),
    ],
)
async def test_what_cuts_the_pod_off_is_named_in_its_stead(outcome: Outcome, cable_up: bool, expected: str) -> None:
    """Only where the pod itself does not answer, and only what is of the pod network."""
    assert await diagnosed(unready(), Agents(outcome, cable_up=cable_up)) == [expected]


@pytest.mark.parametrize(
    "changes", [{"phase": "Pending"}, {"waiting_reasons": ("CrashLoopBackOff",)}, {"deleting": True}]
)
def test_a_pod_that_does_not_run_is_not_asked(changes: dict[str, object]) -> None:
    """Its containers are the reason."""
    state = unready()
    assert unready_behind(flow(), state) is not None
    assert unready_behind(flow(), unready(**changes)) is None
    assert unready_behind(replace(flow(), virtual_address=""), state) is None
