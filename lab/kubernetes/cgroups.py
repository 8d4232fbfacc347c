"""Control groups of a lab's pods: one subtree a lab, in it one a node; everything in it belongs to the lab.

Kubelets make the pods' groups below. Where the machine has version 1 there is a subtree in each hierarchy; where it
has version 2 alone, one. Nothing outside of these subtrees is written.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
PREFIX: Final = "kubereach-"
REMOVE_DEADLINE_S: Final = 5.0


def group_of(lab: str, node: str) -> str:
    """The kubelet's `cgroupRoot` of a node."""
    return f"/{PREFIX}{lab}/{node}"


def _mounted(kind: str) -> list[Path]:
    lines = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(fields[1]) for fields in lines if fields[2] == kind]


def hierarchies() -> list[Path]:
    """Mount points of all version 1 hierarchies with a controller or a name, or of version 2 where it is alone."""
    return _mounted("cgroup") or _mounted("cgroup2")[:1]


def make(lab: str, node: str) -> None:
    """Make a node's subtree; raises OSError. A cpuset takes processes only once it names processors and memory."""
    for base in hierarchies():
        path = base / group_of(lab, node).lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        for group in (path.parent, path):
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (group / name).exists() and (base / name).exists():
                    (group / name).write_text((base / name).read_text())


def subtrees(lab: str) -> list[Path]:
    """The lab's subtrees that are there; beside version 1, runc makes groups in version 2 as well."""
    bases = _mounted("cgroup") + _mounted("cgroup2")
    return [path for base in bases if (path := base / f"{PREFIX}{lab}").is_dir()]


def pids(lab: str) -> set[int]:
    """All processes in the lab's groups."""
    return {pid for tree in subtrees(lab) for pid in pids_below(tree)}


def pids_below(tree: Path) -> list[int]:
    """All processes in a group and the groups below it; empty where it has gone."""
    found: list[int] = []
    for folder, _, _ in os.walk(tree):
        with suppress(OSError):
            found += [int(word) for word in (Path(folder) / "cgroup.procs").read_text().split()]
    return found


def pod_group(lab: str, node: str, uid: str) -> Path | None:
    """The group of a pod on a node (its quality of service is part of the path), None before it is made."""
    base = next((path for path in hierarchies() if path.name == "pids"), hierarchies()[0])
    pods = base / group_of(lab, node).lstrip("/") / "kubepods"
    for path in (pods / f"pod{uid}", pods / "burstable" / f"pod{uid}", pods / "besteffort" / f"pod{uid}"):
        if path.is_dir():
            return path
    return None


def remove(lab: str) -> bool:
    """Kill what is left in the lab's groups and remove them; return whether nothing of them is left."""
    end = time.monotonic() + REMOVE_DEADLINE_S
    while trees := subtrees(lab):
        for pid in pids(lab):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for tree in trees:
            for folder, _, _ in os.walk(tree, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        if time.monotonic() > end:
            return not subtrees(lab)
        if subtrees(lab):
            time.sleep(0.02)
    return True
