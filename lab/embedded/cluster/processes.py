"""Processes of pods: start one in a pod's namespaces, see it end, end it, find it again after a restart.

A process is known by pid and start time together (pids are given out again). It lives in the network namespace given
and in a mount namespace of its own, in which /etc/resolv.conf and /etc/hosts are the pod's; nothing under the machine's
/etc changes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from lab import netns

# Entered by `sh -c`: bind the two files, then become the command.
BIND_AND_EXEC: Final = 'mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


def pod_argv(namespace: str, resolv: Path, hosts: Path, argv: Sequence[str]) -> list[str]:
    """Return the command line that runs `argv` inside a pod: its network, its resolver files."""
    unshare = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", BIND_AND_EXEC, "pod"]
    return netns.nsenter_argv(namespace, [*unshare, str(resolv), str(hosts), *argv])


def start_time(pid: int) -> int | None:
    """Return when the process started (clock ticks since boot, proc(5) field 22), None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


class Process:
    """A running process, own child or not. `wait` may be called by one task at a time."""

    def __init__(self, pid: int, started: int, child: subprocess.Popen[bytes] | None) -> None:
        """Use `start` or `adopt`."""
        self.pid = pid
        self.started = started
        self._child = child

    @classmethod
    def start(cls, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
        """Start a program; OSError where that is not possible. Its output goes to `log`, which is begun anew."""
        with log.open("wb") as output:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        return cls(child.pid, start_time(child.pid) or 0, child)

    @classmethod
    def adopt(cls, pid: int, started: int) -> Process | None:
        """Return the process if it still runs and is the same one."""
        return cls(pid, started, None) if start_time(pid) == started else None

    async def wait(self) -> int | None:
        """Return its exit code once it has ended (negative: signal); None where it was no child of ours."""
        loop = asyncio.get_running_loop()
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return self._reap()
        ended = loop.create_future()
        loop.add_reader(handle, lambda: None if ended.done() else ended.set_result(None))
        try:
            if self._child is None and start_time(self.pid) != self.started:
                return None
            await ended
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        return self._reap()

    def _reap(self) -> int | None:
        return self._child.poll() if self._child is not None else None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and its session's group."""
        if start_time(self.pid) != self.started:
            return
        for send in (os.killpg, os.kill):
            try:
                send(self.pid, number)
            except (ProcessLookupError, PermissionError):
                continue


def listening(pid: int) -> set[tuple[str, int]]:
    """Return (protocol, port) of all listening TCP and bound UDP sockets in the namespace of a process."""
    found = set()
    for protocol, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        try:
            lines = Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]
        except OSError:  # the process is gone, or the kernel has no IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state:
                found.add((protocol[:3].upper(), int(fields[1].rpartition(":")[2], 16)))
    return found
