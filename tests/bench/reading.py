"""What reading a crowded node's facts costs the probes that run there meanwhile: round trips, and the agent's lateness.

An agent probes from a node with 20,000 rules and 10,000 routes; quietly, then with one order for facts after another.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from lab import netns
from model.facts import FactsOrder
from model.probes import Observation
from model.protocol import Order
from model.words import Outcome
from tests.agent.bed import FakeController, agent, controller, ip, network, plan_of, udp, until
from tests.bench.processes import memory_kib

TASKS = 20
INTERVAL_MS = 200
MEASURE_S = 8.0
QUIET = "nobody reads"

Figures = list[tuple[str, float, str]]


async def measure(crowd: Callable[[str], None], orders: dict[str, FactsOrder]) -> Figures:
    """Figures as name, value, unit. `crowd` fills the node's namespace; `orders` by what they ask."""
    with network() as net, tempfile.TemporaryDirectory(prefix="kra-bench-") as folder:
        ctl, node, peer = net.add("ctl", 1), net.add("a", 2), net.add("b", 3)
        ip(peer, "address", "add", "10.88.0.0/24", "dev", "lo")
        ip(node, "route", "add", "10.88.0.0/24", "via", "10.9.0.3")
        await asyncio.to_thread(crowd, node)
        endpoint = subprocess.Popen(  # noqa: ASYNC220 - started before anything is measured
            netns.nsenter_argv(peer, [sys.executable, "-E", "-s", "-m", "agent.endpoint", "--port", "8701"])
        )
        try:
            async with controller(ctl, "10.9.0.1", Path(folder)) as fake:
                fake.plan = plan_of(
                    *(udp(f"{at:012x}", f"10.88.0.{at + 1}", interval_ms=INTERVAL_MS) for at in range(TASKS))
                )
                more = ("--rate-limit", str(2 * TASKS * 1000 / INTERVAL_MS))
                async with agent(node, "a", "10.9.0.2", "10.9.0.1", Path(folder), *more) as running:
                    await until(lambda: len({o.task for o in fake.observations()}) == TASKS, "first round", 30)
                    await asyncio.sleep(2)
                    figures = await _during(fake, QUIET, lambda: asyncio.sleep(0.1))
                    for name, order in orders.items():
                        figures += await _during(fake, f"{name} are read", _reader(fake, order))
                    await asyncio.sleep(4)
                    rss = memory_kib(running.pid, "Rss") / 1024
                    return [*figures, ("facts beside probing: RSS of the agent afterwards", rss, "MiB")]
        finally:
            endpoint.terminate()
            endpoint.wait()


def _reader(fake: FakeController, facts: FactsOrder) -> Callable[[], Awaitable[None]]:
    async def read() -> None:
        number = len(fake.answers) + 1
        answer = await fake.ask(Order(order=number, timeout_ms=20_000, facts=facts))
        if answer.facts is None or answer.facts.errors:
            raise RuntimeError(f"facts: {answer.error or answer.facts}")

    return read


async def _during(fake: FakeController, name: str, action: Callable[[], Awaitable[None]]) -> Figures:
    """Round trips while the action is done again and again."""
    first, statuses, began, times = len(fake.arrivals), len(fake.statuses), time.monotonic(), 0
    while time.monotonic() - began < MEASURE_S:
        await action()
        times += 1
    took = time.monotonic() - began
    # The last status tells of the time up to it.
    await until(lambda: len(fake.statuses) > statuses + 1, "a status")
    seen: list[Observation] = [one for _, one in fake.arrivals[first:]]
    trips = sorted(one.rtt_us for one in seen if one.outcome is Outcome.OK)
    lost = sum(one.outcome is not Outcome.OK for one in seen)
    late_ms = max(status.late_ms for status in fake.statuses[statuses:])
    head = f"facts beside probing: {name}"
    return [
        *([] if name == QUIET else [(f"{head}, readings a second", times / took, "1/s")]),
        (f"{head}, median RTT", statistics.median(trips), "µs"),
        (f"{head}, 99th percentile of RTT", trips[int(len(trips) * 0.99)], "µs"),
        (f"{head}, worst lateness of a probe", late_ms, "ms"),
        (f"{head}, probes without answer", lost / max(1, len(seen)) * 100, "%"),
    ]
