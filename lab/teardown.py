"""Takes a lab away, whole, whatever died before: processes, then namespaces, then files.

A process belongs to the lab if it runs in one of its namespaces or control groups, or carries the lab's name in
KUBEREACH_LAB_MEMBER. All are facts of the kernel, so nothing depends on what a dead supervisor wrote down. Never kills
the caller.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Final

from lab import netns
from lab.kubernetes import cgroups
from lab.spec import MEMBER_VARIABLE, lab_directory, lab_names

KILL_DEADLINE_S: Final = 5.0


def namespaces_of(name: str) -> list[str]:
    """Return the lab's namespaces; one that begins with a longer lab's name belongs to that lab."""
    others = [other for other in lab_names() if other.startswith(f"{name}-")]
    return [one for one in netns.names(f"{name}-") if not any(one.startswith(f"{other}-") for other in others)]


def members(name: str, namespaces: list[str]) -> list[int]:
    """Return the pids of the lab's processes, the caller's own excepted."""
    inodes = set()
    for one in namespaces:
        with contextlib.suppress(OSError):
            inodes.add(netns.inode(one))
    # whatever a name stands for, the machine's own namespace is no lab's
    inodes.discard(Path("/proc/self/ns/net").stat().st_ino)
    wanted = f"{MEMBER_VARIABLE}={name}".encode()
    found = [pid for pid in cgroups.pids(name) if pid != os.getpid()]
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            base = Path(entry.path)
            if (base / "ns/net").stat().st_ino in inodes or wanted in (base / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def exists(name: str) -> bool:
    """Return whether anything of that lab is on this machine."""
    return lab_directory(name).exists() or bool(namespaces_of(name)) or bool(cgroups.subtrees(name))


def tear_down(name: str) -> list[str]:
    """Remove everything of the lab; return what could not be removed (nothing, if all is well)."""
    namespaces = namespaces_of(name)
    deadline = time.monotonic() + KILL_DEADLINE_S
    while (pids := members(name, namespaces)) and time.monotonic() < deadline:
        # the supervisor carries the name too, so nothing is started anew
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for one in namespaces_of(name):
        netns.delete(one)
    groups_gone = cgroups.remove(name)
    shutil.rmtree(lab_directory(name), ignore_errors=True)
    left = [f"process {pid}" for pid in members(name, namespaces)]
    left += [f"namespace {one}" for one in namespaces_of(name)]
    left += [] if groups_gone else [str(tree) for tree in cgroups.subtrees(name)]
    return left + ([str(lab_directory(name))] if lab_directory(name).exists() else [])
