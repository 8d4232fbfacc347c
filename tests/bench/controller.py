"""Figures of the controller: how fast it takes results in, plans, and tells the matrix. Never a gate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from controller.agent_link import AgentLink
from controller.agents import AgentRegistry
from controller.matrix.matrix import MatrixBook
from controller.plan.expectation import policy_model
from controller.plan.make import make_plans
from controller.plan.paths import ClusterPlan, PlanSettings
from model.clock import SystemClock
from model.probes import Observation
from model.protocol import Batch, Hello, decode_from_agent, encode
from model.words import MatrixKind, Outcome
from tests.controller.clusters import cluster

BATCH = 50
Found = TypeVar("Found")


def timed(work: Callable[[], Found]) -> tuple[float, Found]:
    """Seconds of processor time, and what came out."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def frames(plan: ClusterPlan, node: str, count: int) -> list[bytes]:
    """Batches as an agent sends them."""
    tasks = [t.id for t in plan.plans[node].tasks]
    now = int(time.time() * 1000)
    results = [Observation(tasks[i % len(tasks)], now + i, Outcome.OK, 60 + i % 40) for i in range(count)]
    return [
        encode(Batch(sequence=i // BATCH, observations=tuple(results[i : i + BATCH]))) for i in range(0, count, BATCH)
    ]


def ingest(nodes: int, each: int) -> float:
    """Results a second on one core, from the frame's octets to the matrix, acknowledgement included."""
    clock = SystemClock()
    state = cluster(nodes)
    plan = make_plans(state, policy_model(state), PlanSettings())
    matrix = MatrixBook(clock)
    matrix.set_plan(plan)
    agents = AgentRegistry(clock, matrix.ingest)
    spent_s, taken = 0.0, 0
    for node in plan.nodes:
        link = AgentLink(node)
        agents.attach(Hello(node=node, boot="b", version="v", at_ms=int(clock.wall() * 1000)), link)
        sent = frames(plan, node, each)

        def take(link: AgentLink = link, sent: list[bytes] = sent) -> None:
            for frame in sent:
                agents.receive(link, decode_from_agent(frame))
                while not link.frames.empty():
                    link.frames.get_nowait()

        spent_s += timed(take)[0]
        taken += each
    assert matrix.observations == taken, "not all were taken in"
    return taken / spent_s


def run() -> list[tuple[str, float, str]]:
    """Name, value, unit."""
    found = [("controller ingest", ingest(40, 5000), "results/s on one core")]
    for nodes in (480, 500, 5000):
        state = cluster(nodes)
        spent_s, policy = timed(lambda state=state: policy_model(state))  # type: ignore[misc]
        found.append((f"controller evaluator of {nodes} nodes", spent_s, "s"))
        spent_s, plan = timed(lambda state=state, policy=policy: make_plans(state, policy, PlanSettings(), epoch=2))  # type: ignore[misc]
        found.append((f"controller plan of {nodes} nodes", spent_s, "s"))
        found.append((f"controller paths of {nodes} nodes", float(len(plan.paths)), "paths"))
        if nodes > 1000:
            continue
        matrix = MatrixBook(SystemClock())
        spent_s, _ = timed(lambda matrix=matrix, plan=plan: matrix.set_plan(plan))  # type: ignore[misc]
        found.append((f"controller new matrix of {nodes} nodes", spent_s, "s"))
        spent_s, _ = timed(lambda matrix=matrix: msgspec.json.encode(matrix.matrix(MatrixKind.POD, {})))  # type: ignore[misc]
        found.append((f"controller matrix JSON of {nodes}² cells", spent_s, "s"))
        spent_s, _ = timed(lambda matrix=matrix: msgspec.json.encode(matrix.matrix(MatrixKind.NODE, {})))  # type: ignore[misc]
        found.append((f"controller node matrix JSON of {nodes}² cells", spent_s, "s"))
        spent_s, _ = timed(matrix.statuses)
        found.append((f"controller statuses of {nodes} nodes", spent_s, "s"))
    return found


if __name__ == "__main__":
    for name, value, unit in run():
        print(f"{name:50} {value:14.3f} {unit}")
