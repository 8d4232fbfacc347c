"""A real lab, broken and healed several times: how soon it is up, how soon a fault shows, is named and is cleared.

Times are the controller's own (first_sign_at, named_at, resolved_at), counted from the moment at which breaking or
healing began, so that what the switchboard itself takes counts against us. What is not detected counts as infinite.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from lab import switchboard
from lab.spec import LabSpec
from lab.state import load_state
from tests.bench.processes import cpu_s, memory_kib
from tests.lab.watched import Watched, matches

RUNS: Final = 3
FAULTS: Final = (
    "node.uplink_down",
    "node.ip_forward_off",
    "cni.vtep_missing",
    "fabric.blocked",
    "node.firewall_drop",
    "service.no_endpoints",
    "dns.replica_down",
)
PATIENCE_S: Final = 30.0
IDLE_S: Final = 20.0
_STEPS: Final = ("first sign", "named", "cleared")

Figures = list[tuple[str, float, str]]
Times = dict[str, float]


def run() -> Figures:
    """Figures as name, value, unit. Makes a lab of four nodes and takes it away."""
    began = time.monotonic()
    lab = Watched(LabSpec(f"b{os.getpid()}"))
    try:
        figures = [("lab of 4 nodes: up, with agents", time.monotonic() - began, "s")]
        lab.wait_healthy(90.0)
        figures.append(("lab of 4 nodes: whole matrix healthy", time.monotonic() - began, "s"))
        figures += _processes(lab)
        taken = {code: [once(lab, code) for _ in range(RUNS)] for code in FAULTS}
    finally:
        lab.down()
    return figures + [(f"lab, {name}", value, unit) for name, value, unit in summary(taken)]


def summary(taken: dict[str, list[Times]]) -> Figures:
    """Of each fault the median times, of all together median and worst."""
    figures: Figures = []
    for code, runs in taken.items():
        for step in _STEPS:
            figures.append((f"{code}: {step}, median", statistics.median(one[step] for one in runs), "s"))
    everything = [one for runs in taken.values() for one in runs]
    for step in _STEPS:
        times = [one[step] for one in everything]
        figures.append((f"all faults: {step}, median", statistics.median(times), "s"))
        figures.append((f"all faults: {step}, worst", max(times), "s"))
    return figures


def once(lab: Watched, code: str) -> Times:
    """Break, wait until the cause is named, heal, wait until it is cleared; seconds to each, infinite where never."""
    lab.wait_healthy(90.0)
    # Not in step with the agents' schedules.
    time.sleep(random.uniform(0.0, 1.0))
    kubeconfig = Path(lab.state.kubeconfig)
    found: Times = dict.fromkeys(_STEPS, math.inf)
    broken_at = time.time()
    made = asyncio.run(switchboard.break_it(lab.plan, kubeconfig, code)).expected[0]
    wanted = {"kind": made.kind, "node": made.node, "namespace": made.namespace, "name": made.name}

    def incident(state: str) -> Any:
        mine = (i for i in lab.get("/api/v1/incidents?state=" + state) if _since(i["opened_at"], broken_at) >= -1.0)
        return next((i for i in mine if matches(i, made.code, **wanted)), None)

    known = _patiently(lambda: incident("open"))
    if known is not None:
        found["first sign"] = _since(known["first_sign_at"], broken_at)
        found["named"] = _since(known["named_at"], broken_at)
    healed_at = time.time()
    asyncio.run(switchboard.heal(lab.plan, kubeconfig, code))
    if known is not None and (closed := _patiently(lambda: incident("resolved"))) is not None:
        found["cleared"] = _since(closed["resolved_at"], healed_at)
    return found


def _patiently(ask: Callable[[], Any]) -> Any:
    ends = time.monotonic() + PATIENCE_S
    while (answer := ask()) is None and time.monotonic() < ends:
        time.sleep(0.1)
    return answer


def _since(moment: str, began: float) -> float:
    return datetime.fromisoformat(moment).timestamp() - began


def _processes(lab: Watched) -> Figures:
    """Memory and processor of agents, controller and an endpoint while nothing is wrong; of agents the largest."""
    state = load_state(lab.spec.name)
    assert state is not None
    agents = [process.pid for name, process in state.processes.items() if name.startswith("agent/")]
    controller = state.processes["controller"].pid
    endpoint = _endpoint(lab)
    before = {pid: cpu_s(pid) for pid in (*agents, controller)}
    time.sleep(IDLE_S)
    used = {pid: (cpu_s(pid) - before[pid]) / IDLE_S * 100 for pid in before}
    return [
        ("lab: agent RSS, largest of 4", max(memory_kib(pid, "Rss") for pid in agents) / 1024, "MiB"),
        ("lab: agent PSS, largest of 4", max(memory_kib(pid, "Pss") for pid in agents) / 1024, "MiB"),
        ("lab: agent CPU, largest of 4", max(used[pid] for pid in agents), "% of a core"),
        ("lab: endpoint RSS", memory_kib(endpoint, "Rss") / 1024, "MiB"),
        ("lab: controller RSS", memory_kib(controller, "Rss") / 1024, "MiB"),
        ("lab: controller CPU", used[controller], "% of a core"),
    ]


def _endpoint(lab: Watched) -> int:
    """Process id of one endpoint pod."""
    boxes = [json.loads(path.read_text()) for path in (lab.plan.directory / "pods").glob("*/sandbox.json")]
    box = next(box for box in boxes if box["name"].startswith("kubereach-endpoint"))
    pid: int = next(iter(box["processes"].values()))[0]
    return pid
