"""A real Kubernetes of three nodes with kubereach installed in it: what it costs there, and how soon faults are named.

The five faults are those of which `peers.md` tells what other tools made of them, on a cluster of the same kind. Costs
are those of the pods' control groups, and of their processes; of agents and endpoints the largest.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

from lab.kubernetes import cgroups
from lab.spec import LabSpec
from tests.bench import groups
from tests.bench.lab import Figures, Times, once, summary
from tests.bench.processes import memory_kib
from tests.e2e.installed import Installed

RUNS: Final = 3
FAULTS: Final = (
    "node.firewall_drop",
    "cni.vtep_missing",
    "node.ip_forward_off",
    "service.no_endpoints",
    "dns.all_down",
)
IDLE_S: Final = 30.0
HEALTHY_S: Final = 90.0


def run() -> Figures:
    """Figures as name, value, unit. Makes a cluster of three nodes and takes it away."""
    began = time.monotonic()
    lab = Installed(LabSpec(f"k{os.getpid()}", nodes=3, control_plane="kubernetes"), "kustomize")
    try:
        figures = [("Kubernetes of 3 nodes: up, with kubereach", time.monotonic() - began, "s")]
        lab.wait_healthy(HEALTHY_S)
        time.sleep(IDLE_S)
        figures += _costs(lab)
        taken: dict[str, list[Times]] = {code: [once(lab, code) for _ in range(RUNS)] for code in FAULTS}
    finally:
        lab.down()
    return figures + [(f"Kubernetes, {name}", value, unit) for name, value, unit in summary(taken)]


def _costs(lab: Installed) -> Figures:
    """Memory and processor of each component's pods while nothing is wrong."""
    pods: dict[str, list[Path]] = {}
    for item in json.loads(lab.kubectl("get", "pods", "-n", "kubereach", "-o", "json"))["items"]:
        group = cgroups.pod_group(lab.spec.name, item["spec"]["nodeName"], item["metadata"]["uid"])
        assert group is not None
        pods.setdefault(item["metadata"]["labels"]["app.kubernetes.io/component"], []).append(group)
    before = {group: groups.cpu_s(group) for found in pods.values() for group in found}
    began = time.monotonic()
    time.sleep(IDLE_S)
    passed = time.monotonic() - began
    used = {group: (groups.cpu_s(group) - was) / passed * 100 for group, was in before.items()}
    figures: Figures = []
    for component, found in sorted(pods.items()):
        name = f"Kubernetes: {component}"
        ours = [pid for group in found for pid in _processes(group)]
        figures += [
            (f"{name}, control group", max(groups.memory_mib(group) for group in found), "MiB"),
            (f"{name}, anonymous memory", max(groups.anonymous_mib(group) for group in found), "MiB"),
            (f"{name}, RSS", max(memory_kib(pid, "Rss") for pid in ours) / 1024, "MiB"),
            (f"{name}, PSS", max(memory_kib(pid, "Pss") for pid in ours) / 1024, "MiB"),
            (f"{name}, CPU", max(used[group] for group in found), "% of a core"),
        ]
    return figures


def _processes(group: Path) -> list[int]:
    """Process ids of kubereach itself in a pod's group, without the sandbox."""
    found = []
    for pid in cgroups.pids_below(group):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(word.endswith(b"/kubereach") for word in words):
            found.append(pid)
    return found
