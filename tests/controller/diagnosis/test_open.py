"""What gets through although policies forbid it is examined by trying: what may change while it is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from controller.agents import AgentRegistry, OrderError
from controller.diagnosis.engine import Diagnoser
from controller.diagnosis.flows import question_of
from controller.incident.book import IncidentBook
from controller.matrix.matrix import MatrixBook
from controller.plan.expectation import policy_model
from controller.plan.make import make_plans
from controller.plan.paths import PlanSettings
from model.probes import Attempt, ProbeOrder, ProbeResult
from model.words import MatrixKind, Outcome
from tests.controller.clusters import pod, with_pods
from tests.controller.test_matrix import StoppedClock
from tests.controller.test_policy_plan import DENY, HTTP, policy, shop

Answers = Callable[[str], tuple[Outcome, ...]]


class Agents:
    """Agents that answer a probe by its address, and nothing else."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def all(self) -> tuple[()]:
        """No agent is known."""
        return ()

    def get(self, _node: str) -> None:
        """Not this one either."""

    async def probe(self, _node: str, order: ProbeOrder, _limit_s: float) -> ProbeResult:
        """The scripted outcomes."""
        self.asked.append(order.address)
        outcomes = self.answers(order.address)
        return ProbeResult(attempts=tuple(Attempt(outcome=one) for one in outcomes))

    async def facts(self, *_: Any) -> OrderError:
        """No host is read."""
        return OrderError("silent", "not here")


OPEN, SHUT = (Outcome.OK, Outcome.OK), (Outcome.TIMEOUT, Outcome.TIMEOUT)
FIRST = "10.244.9.2"


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        pytest.param(lambda address: OPEN if address == FIRST else SHUT, ["policy.enforcement_stale"], id="one"),
        pytest.param(lambda _address: OPEN, ["policy.not_enforced"], id="all"),
        pytest.param(lambda _address: SHUT, [], id="mended in the meantime"),
        pytest.param(lambda _address: (Outcome.TIMEOUT, Outcome.OK), ["policy.not_enforced"], id="all, with losses"),
    ],
)
async def test_a_node_is_blamed_for_what_still_gets_through_after_others_were_stopped(
    answers: Answers, named: list[str]
) -> None:
    """Rules that were put back between two looks would make the first node look worse than its peers."""
    state = shop(policy("deny", DENY), pods=1)
    other = pod("shop", "web-c", "node-c", "10.244.9.40", container_ports=HTTP)
    state = replace(state, pods=with_pods(state, other))
    model = policy_model(state)
    plan = make_plans(state, model, PlanSettings())
    clock = StoppedClock()
    agents = Agents(answers)
    diagnoser = Diagnoser(
        cluster=lambda: state,
        plan=lambda: plan,
        matrix=MatrixBook(clock),
        agents=cast("AgentRegistry", agents),
        book=IncidentBook(clock),
        clock=clock,
        policy=lambda: model,
    )
    path = next(p for p in plan.paths.values() if p.kind is MatrixKind.POLICY and p.address == FIRST)
    question = question_of(path, state)
    assert question is not None
    case, findings = await diagnoser.diagnose(question, passes=True)
    assert [f.cause.code for f in findings] == named
    assert case.over is (named == [])
    assert agents.asked[-1] == FIRST or not case.over
    assert len(set(agents.asked)) > 1, "nothing else was tried"
