"""What runs in a lab: the supervisor's own account, kept in state.json for `lab status` and `lab down`.

Written by the supervisor alone, whole or not at all. A pid is worth something only with its start time: pids are given
out again.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from lab.spec import lab_directory


class ProcessId(msgspec.Struct, frozen=True, array_like=True):
    """A process: pid and when it started (clock ticks since boot)."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Return whether that very process still runs."""
        return start_time(self.pid) == self.started


class LabState(msgspec.Struct, frozen=True):
    """One lab's state."""

    phase: str
    """starting, up, failed."""
    supervisor: ProcessId
    message: str = ""
    """What is being done, or why it failed; one line."""
    processes: dict[str, ProcessId] = {}
    """Service → process: apiserver, cluster, proxy, policy, outside, controller, agent/NODE."""
    url: str = ""
    kubeconfig: str = ""


def start_time(pid: int) -> int | None:
    """Return when the process started (proc(5), field 22), None where there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def this_process() -> ProcessId:
    """Return the calling process."""
    return ProcessId(os.getpid(), start_time(os.getpid()) or 0)


def save_state(lab: str, state: LabState) -> None:
    """Write state.json of a lab."""
    path = lab_directory(lab) / "state.json"
    partial = path.with_suffix(".json.new")
    partial.write_bytes(msgspec.json.encode(state))
    partial.replace(path)


def load_state(lab: str) -> LabState | None:
    """Return the last state written, None where there is none that can be read."""
    try:
        return msgspec.json.decode((lab_directory(lab) / "state.json").read_bytes(), type=LabState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
