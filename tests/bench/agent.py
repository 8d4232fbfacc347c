"""What the agent costs: memory with 500 peers, CPU at 3 and 16 probes a second, CPU a probe in a burst beside fping."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.engine import Engine
from agent.netns import enter
from lab import netns
from model.probes import Observation, Task
from model.words import Method, Outcome
from tests.agent.bed import agent, controller, ip, network, plan_of, until
from tests.bench.processes import cpu_s, memory_kib

PEERS = 500
BURST = 4000
_MEASURE_S = 15.0

Figures = list[tuple[str, float, str]]


def run() -> Figures:
    """Measure; returns name, figure and unit."""
    return [*asyncio.run(_resident()), *_burst()]


def _tasks(count: int, interval_ms: int, method: Method = Method.UDP) -> list[Task]:
    return [
        Task(
            id=f"{n:012x}",
            vantage=0,
            method=method,
            family=4,
            address=f"10.88.{n // 250}.{n % 250 + 1}",
            port=8701,
            interval_ms=interval_ms,
            timeout_ms=500,
        )
        for n in range(count)
    ]


async def _resident() -> Figures:
    figures: Figures = []
    with network() as net, tempfile.TemporaryDirectory(prefix="kra-bench-") as folder:
        ctl, node, peers = net.add("ctl", 1), net.add("a", 2), net.add("peers", 3)
        ip(peers, "address", "add", "10.88.0.0/16", "dev", "lo")
        ip(node, "route", "add", "10.88.0.0/16", "via", "10.9.0.3")
        endpoint = subprocess.Popen(  # noqa: ASYNC220 - started before anything is measured
            netns.nsenter_argv(peers, [sys.executable, "-E", "-s", "-m", "agent.endpoint", "--port", "8701"])
        )
        try:
            async with controller(ctl, "10.9.0.1", Path(folder)) as fake:
                for rate in (16, 3):
                    fake.plan = plan_of(*_tasks(PEERS, round(PEERS / rate * 1000)), digest=str(rate))
                    async with agent(node, "a", "10.9.0.2", "10.9.0.1", Path(folder)) as running:
                        # Every task is probed once soon after it is new; what follows is the steady rate.
                        await until(lambda: len({o.task for o in fake.observations()}) == PEERS, "first round", 60)
                        await asyncio.sleep(5)
                        before, count = cpu_s(running.pid), len(fake.observations())
                        started = time.monotonic()
                        await asyncio.sleep(_MEASURE_S)
                        used = cpu_s(running.pid) - before
                        took = time.monotonic() - started
                        probes = len(fake.observations()) - count
                        ok = sum(o.outcome is Outcome.OK for o in fake.observations())
                        figures += [
                            (f"agent RSS, {PEERS} peers, {rate}/s", memory_kib(running.pid, "Rss") / 1024, "MiB"),
                            (f"agent PSS, {PEERS} peers, {rate}/s", memory_kib(running.pid, "Pss") / 1024, "MiB"),
                            (f"agent CPU at {rate} probes/s", used / took * 100, "% of a core"),
                            (f"agent CPU a probe at {rate} probes/s", used / max(1, probes) * 1000, "ms"),
                            (f"answered at {rate} probes/s", ok / max(1, len(fake.observations())) * 100, "%"),
                        ]
                    fake.arrivals.clear()
        finally:
            endpoint.terminate()
            endpoint.wait()
    return figures


def _burst() -> Figures:
    """4,000 ICMP echoes at once: by the engine in a process of its own, and by fping, on the same addresses."""
    figures: Figures = []
    with network() as net:
        node, peers = net.add("a", 2), net.add("peers", 3)
        ip(peers, "address", "add", "10.88.0.0/16", "dev", "lo")
        ip(node, "route", "add", "10.88.0.0/16", "via", "10.9.0.3")
        tasks = _tasks(BURST, 100, Method.ICMP)
        cpu_us, answered = _in_child(node, tasks)
        figures.append((f"burst of {BURST}, icmp: CPU a probe", cpu_us, "µs"))
        figures.append((f"burst of {BURST}, icmp: answered", answered, "%"))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            netns.nsenter_argv(node, ["fping", "-q", "-i", "0.001", "-r", "0", "-c", "1", *(t.address for t in tasks)]),
            capture_output=True,
            check=False,
            timeout=60,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        answered = done.stderr.count(b"1/1/0%") / BURST * 100
        figures.append((f"burst of {BURST}, fping: CPU a probe", used / BURST * 1e6, "µs"))
        figures.append((f"burst of {BURST}, fping: answered", answered, "%"))
    return figures


def _in_child(namespace: str, tasks: list[Task]) -> tuple[float, float]:
    """CPU a probe in µs, and how many were answered in %, measured in a forked child in the namespace."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            enter(netns.path_of(namespace))
            used, answered = asyncio.run(_run_burst(tasks))
            os.write(write, f"{used} {answered}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        words = pipe.read().split()
    os.waitpid(pid, 0)
    return float(words[0]), float(words[1])


async def _run_burst(tasks: list[Task]) -> tuple[float, float]:
    seen: list[Observation] = []
    engine = Engine("bench", "/nowhere", 1e9, lambda observation, _changed: seen.append(observation))
    # All tasks are due at every tick, so every tick is a burst.
    engine.apply(plan_of(*tasks))
    await asyncio.sleep(0.5)
    before, count = time.process_time(), len(seen)
    await asyncio.sleep(1.5)
    used, probes = time.process_time() - before, len(seen) - count
    await engine.close()
    answered = sum(o.outcome is Outcome.OK for o in seen)
    return used / max(1, probes) * 1e6, answered / max(1, len(seen)) * 100


if __name__ == "__main__":
    for name, figure, unit in run():
        print(f"{name:48} {figure:10.2f} {unit}")
