"""Find a pod's network namespace on this node, and open sockets in it.

Must never leave a thread that goes on living in a foreign namespace: who enters does so in a thread that ends there.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from model.probes import Vantage

CLONE_NEWNET: Final = 0x40000000
OWN: Final = "/proc/self/ns/net"
MOUNTS: Final = "/proc/self/ns/mnt"
# Of the fields of /proc/PID/stat behind the name: when it started, in clock ticks since boot (proc_pid_stat(5)).
STARTED: Final = 19
_libc: Final = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


class NamespaceError(RuntimeError):
    """A vantage whose namespace cannot be found or entered; the text says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """A namespace: the file that stands for it, and the identity (device, inode) it had when it was found."""

    path: str
    identity: tuple[int, int]

    def still_there(self) -> bool:
        """Whether the file still stands for the same namespace."""
        return identity(self.path) == self.identity


def identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a namespace file, None where it is gone or may not be read."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def enter(path: str) -> None:
    """Move the calling thread into the namespace. Raises NamespaceError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError(f"cannot open {path}: {error.strerror}") from None
    try:
        if _libc.setns(handle, CLONE_NEWNET):
            raise NamespaceError(f"cannot enter {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(handle)


def call_in(path: str, function: Callable[[], T]) -> T:
    """Run `function` in the namespace, in a thread that ends there (about 0.1 ms); the host's own runs directly.

    Sockets that it opens belong to that namespace for good. Raises NamespaceError, or what `function` raises.
    """
    if path == OWN:
        return function()
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            enter(path)
            results.append(function())
        except BaseException as error:  # handed on to the caller, whole
            failures.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def find_quickly(vantage: Vantage, directory: str) -> Found | None:
    """The host's namespace, or the file in `directory` that bears the pod's UID; None where there is none."""
    path = OWN if vantage.is_host else f"{directory}/{vantage.pod_uid}"
    known = identity(path)
    return Found(path, known) if known else None


def find(vantages: Iterable[Vantage], directory: str) -> dict[Vantage, Found]:
    """Look for many pods at once, by file name, then by cgroup, then by address. Takes milliseconds to 100 ms."""
    found: dict[Vantage, Found] = {}
    missing: list[Vantage] = []
    for vantage in vantages:
        known = find_quickly(vantage, directory)
        if known:
            found[vantage] = known
        else:
            missing.append(vantage)
    if missing:
        _find_by_cgroup(missing, found)
    missing = [vantage for vantage in missing if vantage not in found]
    if missing:
        _find_by_address(missing, directory, found)
    return found


def _find_by_cgroup(missing: list[Vantage], found: dict[Vantage, Found]) -> None:
    by_uid = {vantage.pod_uid: vantage for vantage in missing}
    own = identity(OWN)
    for pid in _processes():
        try:
            text = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        if "pod" not in text:
            continue
        # The systemd driver of the kubelet writes the UID's dashes as underscores.
        text = text.replace("_", "-")
        for uid, vantage in by_uid.items():
            if uid not in text:
                continue
            path = f"/proc/{pid}/ns/net"
            known = identity(path)
            # A runtime's monitor sits in the pod's cgroup but in the host's namespace: take it only as the last.
            if known and (known != own or vantage not in found):
                found[vantage] = Found(path, known)


def _processes() -> list[str]:
    try:
        return sorted((entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()), key=int)
    except OSError:
        return []


def _find_by_address(missing: list[Vantage], directory: str, found: dict[Vantage, Found]) -> None:
    try:
        names = [entry.name for entry in Path(directory).iterdir()]
    except OSError:
        return
    own = identity(OWN)
    for name in names:
        path = f"{directory}/{name}"
        known = identity(path)
        if known is None or known == own:
            continue
        asked = [vantage for vantage in missing if vantage not in found and vantage.addresses]
        if not asked:
            return
        try:
            held = call_in(path, lambda asked=asked: [v for v in asked if _holds(v.addresses[0])])  # type: ignore[misc]
        except (NamespaceError, OSError):
            continue
        for vantage in held:
            found[vantage] = Found(path, known)


def _holds(address: str) -> bool:
    """Whether the calling thread's namespace holds the address: only then can it be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True


def inhabitants(path: str) -> list[str]:
    """Ids of the processes that live in a network namespace, the oldest first: younger ones may be visitors.

    In a pod's, a process that shares the caller's mount namespace is another reader or prober of this agent.
    """
    wanted = identity(path)
    strange = {None} if path == OWN else {None, identity(MOUNTS)}
    found = []
    for pid in _processes():
        if identity(f"/proc/{pid}/ns/net") == wanted and identity(f"/proc/{pid}/ns/mnt") not in strange:
            with suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
                found.append((int(fields[STARTED]), int(pid), pid))
    return [pid for _, _, pid in sorted(found)]
