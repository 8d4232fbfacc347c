"""Processes of a network namespace: found by their namespace, never by their name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lab import netns


def pids_in(namespace: str) -> list[int]:
    """The processes whose network namespace this is; empty where there is no such namespace."""
    try:
        wanted = netns.inode(namespace)
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "ns/net").stat().st_ino == wanted:
                    found.append(int(entry.name))
    return sorted(found)


def signal_all(namespace: str, number: int) -> list[int]:
    """Send a signal to every process of a network namespace; the PIDs that got it."""
    reached = []
    for pid in pids_in(namespace):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            reached.append(pid)
    return reached
