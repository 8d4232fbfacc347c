"""Has a marked burst sent from one end of a flow and watched for at every device of both ends' nodes.

The agents say when they watch; then the source's is given its cue, and when it has told, the others end too. Decides
nothing: what the sightings mean is for `way` to say.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

from controller.agents import AgentInfo, AgentRegistry, OrderError, Prompt
from controller.diagnosis.flows import Question
from controller.diagnosis.trace import Trace
from model.clock import Clock
from model.probes import Vantage
from model.trace import MAX_KEPT, MAX_PACKETS, Burst, Mark, Traced, TraceOrder

ARMED_S = 5.0
QUIET_S = 1.5
WAIT_MS = 800
REPEAT_MS = 1000
TAIL_S = 2.0
LONGEST_MS = 60_000
COUNT = 5
INTERVAL_MS = 20
MANY = 20
MOST_NODES = 6
MOST_WATCHED = 8


def watched_of(question: Question) -> dict[str, tuple[Vantage, ...]]:
    """The namespaces that a flow may lead through, by node: the source first, each node's host, the ends' pods."""
    found: dict[str, list[Vantage]] = {}
    places = [question.flow.source, question.flow.destination, *(b.destination for b in question.backends)]
    for place in places:
        if not place.node or (place.node not in found and len(found) >= MOST_NODES):
            continue
        known = found.setdefault(place.node, [])
        for vantage in (place.vantage, Vantage()):
            if vantage not in known and len(known) < MOST_WATCHED:
                known.append(vantage)
    return {node: tuple(vantages) for node, vantages in found.items()}


def mark_of(question: Question) -> Mark:
    """How the burst of a flow is recognised."""
    flow = question.flow
    asks_dns = flow.protocol == "udp" and (flow.port == 53 or any(b.port == 53 for b in question.backends))
    return Mark(
        family=flow.family,
        protocol=flow.protocol,
        token=secrets.randbits(32),
        ports=tuple(dict.fromkeys(p for p in (flow.port, *(b.port for b in question.backends)) if p)),
        dns=asks_dns,
    )


class Tracer:
    """Carries out traces; each is its own."""

    def __init__(self, agents: AgentRegistry, clock: Clock) -> None:
        self._agents = agents
        self._clock = clock

    async def trace(
        self, question: Question, *, count: int = COUNT, interval_ms: int = INTERVAL_MS, size: int = 0, keep: int = 0
    ) -> Trace | None:
        """A trace of the flow; None where there is no address to send to, or no node to send from."""
        flow = question.flow
        if not flow.source.node or not flow.destination.address:
            return None
        watched, mark = watched_of(question), mark_of(question)
        burst = Burst(
            destination=flow.destination.address,
            port=flow.port,
            count=max(1, min(count, MAX_PACKETS, LONGEST_MS // max(1, interval_ms))),
            interval_ms=max(1, interval_ms),
            size=size,
            repeat_ms=REPEAT_MS if count >= MANY and mark.protocol == "tcp" else 0,
            wait_ms=WAIT_MS,
        )
        lasts_ms = burst.count * burst.interval_ms + burst.wait_ms + burst.repeat_ms
        orders = {
            node: TraceOrder(
                vantages=vantages,
                mark=mark,
                limit_ms=int(ARMED_S * 1000) + lasts_ms,
                burst=burst if node == flow.source.node else None,
                keep=min(keep, MAX_KEPT) // len(watched),
            )
            for node, vantages in watched.items()
        }
        told, deaf = await self._carry_out(flow.source.node, orders, lasts_ms / 1000)
        return Trace(flow=flow, count=burst.count, watched=watched, told=told, deaf=deaf)

    async def _carry_out(
        self, source: str, orders: Mapping[str, TraceOrder], lasts_s: float
    ) -> tuple[dict[str, Traced], dict[str, str]]:
        armed: dict[str, asyncio.Future[Prompt]] = {node: asyncio.get_running_loop().create_future() for node in orders}

        def on_armed(node: str, prompt: Prompt) -> None:
            if not armed[node].done():
                armed[node].set_result(prompt)

        limit_s = ARMED_S + lasts_s + TAIL_S
        running = {
            node: asyncio.create_task(
                self._agents.trace(node, order, limit_s, lambda prompt, node=node: on_armed(node, prompt))  # type: ignore[misc]
            )
            for node, order in orders.items()
        }
        deaf: dict[str, str] = {}
        try:
            limits = {node: ARMED_S if node == source or self._speaks(node) else QUIET_S for node in orders}
            await asyncio.gather(*(_until_armed(armed[node], running[node], limits[node]) for node in orders))
            for node in [n for n, task in running.items() if not armed[n].done() and not task.done()]:
                running.pop(node).cancel()
                deaf[node] = f"the agent of {node} did not say in time that it watches"
            if source in running:
                if armed[source].done():
                    armed[source].result()("send")
                await running[source]
            for node, ready in armed.items():
                if node != source and ready.done():
                    ready.result()("end")
            answers = {node: await task for node, task in running.items()}
        finally:
            for task in running.values():
                task.cancel()
        told = {node: answer for node, answer in answers.items() if isinstance(answer, Traced)}
        deaf |= {node: str(answer) for node, answer in answers.items() if isinstance(answer, OrderError)}
        return told, deaf

    def _speaks(self, node: str) -> bool:
        return has_spoken(self._agents.get(node), self._clock.wall())


def has_spoken(agent: AgentInfo | None, now_s: float, within_s: float = QUIET_S) -> bool:
    """Whether an agent is connected and has said something just now; one that has not is not waited for so long."""
    return agent is not None and agent.connected and now_s - (agent.last_seen or 0.0) < within_s


async def _until_armed(
    armed: asyncio.Future[Prompt], running: asyncio.Task[Traced | OrderError], limit_s: float
) -> None:
    """Wait until an agent watches, or has said that it cannot."""
    await asyncio.wait((armed, running), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
