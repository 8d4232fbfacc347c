"""What the kernel says of a process and of the machine (proc(5)): memory, processor time, how busy all are."""

from __future__ import annotations

import os
import time
from pathlib import Path


def cpu_s(pid: int) -> float:
    """Processor time of a process and of its children that were waited for, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def memory_kib(pid: int, kind: str) -> int:
    """`Rss` or `Pss` of a process in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1])
    return 0


def foreign_load(seconds: float = 2.0) -> float:
    """How much of the machine's processors others use now, in percent; nothing of ours may run meanwhile."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return 100.0 * (1 - idle / total) if total else 0.0


def _ticks() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
