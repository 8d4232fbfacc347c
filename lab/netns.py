"""Network namespaces by name: make, remove, list, run a program in one, open a socket in one.

The same files as `ip netns` uses (/run/netns/NAME), so `ip netns list` shows a lab. Programs enter by `nsenter`, not by
`ip netns exec`, which mounts a fresh /sys and hides the machine's cgroups. Nothing here ever leaves a thread of a pool
in a foreign namespace: whoever enters does so in a thread of its own, which ends there.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

NETNS_DIR: Final = Path("/run/netns")
CLONE_NEWNET: Final = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 4096, 16384, 1 << 20, 2
_libc: Final = ctypes.CDLL(None, use_errno=True)
_mount_lock: Final = threading.Lock()

T = TypeVar("T")


class NetnsError(RuntimeError):
    """A namespace that is not there or cannot be made, or a command in it that failed."""


class CommandResult:
    """What a finished command left: exit code (negative: signal), standard output and standard error."""

    __slots__ = ("argv", "returncode", "stderr", "stdout")

    def __init__(self, argv: Sequence[str], returncode: int, stdout: str, stderr: str) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr

    def checked(self) -> CommandResult:
        """Return self, or raise NetnsError with the command's own words."""
        if self.returncode:
            said = (self.stderr.strip() or self.stdout.strip() or "no message").replace("\n", "; ")
            raise NetnsError(f"{' '.join(self.argv)}: exit code {self.returncode}: {said[:600]}")
        return self


def path_of(name: str) -> str:
    """Path of the file that stands for namespace `name`."""
    return str(NETNS_DIR / name)


def _call(function: str, *arguments: object) -> None:
    if getattr(_libc, function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _prepare_directory() -> None:
    """Make /run/netns a shared mount, as `ip netns add` does, so that removals reach other mount namespaces."""
    with _mount_lock:
        NETNS_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        target = os.fsencode(NETNS_DIR)
        try:
            # EINVAL where it is no mount point yet (os.path.ismount cannot tell for a bind mount)
            _call("mount", b"", target, b"none", _MS_SHARED | _MS_REC, None)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _call("mount", target, target, b"none", _MS_BIND | _MS_REC, None)
            _call("mount", b"", target, b"none", _MS_SHARED | _MS_REC, None)


def create(name: str) -> None:
    """Make namespace `name` with its loopback device still down; raises NetnsError where it exists or may not be."""
    if "/" in name or name in ("", ".", ".."):
        raise NetnsError(f"{name!r} cannot be the name of a network namespace")
    path = path_of(name)

    def make() -> None:
        _call("unshare", CLONE_NEWNET)
        _call(
            "mount",
            f"/proc/self/task/{threading.get_native_id()}/ns/net".encode(),
            path.encode(),
            b"none",
            _MS_BIND,
            None,
        )

    try:
        _prepare_directory()
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError:
        raise NetnsError(f"network namespace {name} exists already") from None
    except OSError as error:
        raise NetnsError(f"cannot make network namespace {name}: {error.strerror}") from None
    try:
        _in_own_thread(make)
    except OSError as error:
        Path(path).unlink()
        raise NetnsError(f"cannot make network namespace {name}: {error.strerror}") from None


def adopt(name: str, pid: int) -> None:
    """Give the namespace that process `pid` lives in a name of ours; raises NetnsError where that is taken."""
    path = path_of(name)
    try:
        _prepare_directory()
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError:
        raise NetnsError(f"network namespace {name} exists already") from None
    try:
        _call("mount", f"/proc/{pid}/ns/net".encode(), path.encode(), b"none", _MS_BIND, None)
    except OSError as error:
        Path(path).unlink()
        raise NetnsError(f"cannot name the network namespace of process {pid}: {error.strerror}") from None


def delete(name: str) -> bool:
    """Remove namespace `name`; processes in it live on. Returns False where there was none."""
    path = path_of(name)
    _libc.umount2(path.encode(), _MNT_DETACH)
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True


def exists(name: str) -> bool:
    """Return whether there is a namespace of that name."""
    return Path(path_of(name)).exists()


def names(prefix: str = "") -> list[str]:
    """Return the names of all namespaces that begin with `prefix`, sorted."""
    try:
        return sorted(entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(prefix))
    except FileNotFoundError:
        return []


def inode(name: str) -> int:
    """Return the namespace's inode number, by which /proc/PID/ns/net is recognised."""
    return Path(path_of(name)).stat().st_ino


def _in_own_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:  # handed on to the caller, whole
            failures.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def call_in(name: str, function: Callable[[], T]) -> T:
    """Run `function` in namespace `name`, in a thread that ends there; blocks until done (about 0.1 ms of its own).

    What `function` opens (sockets, files below /proc/sys/net) belongs to that namespace for good.
    """

    def enter_and_call() -> T:
        try:
            handle = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NetnsError(f"no network namespace {name}") from None
        try:
            _call("setns", handle, CLONE_NEWNET)
        finally:
            os.close(handle)
        return function()

    return _in_own_thread(enter_and_call)


def socket_in(name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Return a socket that lives in namespace `name`, usable from any thread."""
    return call_in(name, lambda: socket.socket(family, kind, protocol))


def sysctl_set(name: str, values: dict[str, str]) -> None:
    """Write settings below /proc/sys/net (keys like `ipv4/ip_forward`) in namespace `name`; OSError as it comes."""

    def write() -> None:
        for key, value in values.items():
            Path(f"/proc/sys/net/{key}").write_text(value, encoding="ascii")

    call_in(name, write)


def nsenter_argv(name: str, argv: Sequence[str], enter: Sequence[str] = ()) -> list[str]:
    """Return the command line that runs `argv` in namespace `name` (same mounts, same working directory).

    `enter` are options for further namespaces; with other mounts the working directory is /.
    """
    return ["nsenter", f"--net={path_of(name)}", *enter, "--", *argv]


def _require(name: str | None, argv: Sequence[str]) -> list[str]:
    if name is None:
        return list(argv)
    if not exists(name):
        raise NetnsError(f"no network namespace {name}")
    return nsenter_argv(name, argv)


async def run(
    name: str | None,
    argv: Sequence[str],
    stdin: str | None = None,
    timeout_s: float = 10.0,
    check: bool = True,
) -> CommandResult:
    """Run a program to its end in namespace `name` (None: this one).

    Raises NetnsError where the program is missing, takes longer than `timeout_s` (it is killed) or, with `check`,
    exits with another code than 0.
    """
    full = _require(name, argv)
    try:
        process = await asyncio.create_subprocess_exec(
            *full,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise NetnsError(f"{full[0]}: command not found") from None
    try:
        out, err = await asyncio.wait_for(process.communicate(None if stdin is None else stdin.encode()), timeout_s)
    except TimeoutError:
        raise NetnsError(f"{' '.join(argv)} in {name}: no end after {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code = process.returncode
    result = CommandResult(
        argv,
        code if code is not None else -1,
        out.decode(errors="replace"),
        err.decode(errors="replace"),
    )
    return result.checked() if check else result


def run_sync(
    name: str | None,
    argv: Sequence[str],
    stdin: str | None = None,
    timeout_s: float = 10.0,
    check: bool = True,
) -> CommandResult:
    """Do what `run` does, for callers without an event loop."""
    full = _require(name, argv)
    try:
        done = subprocess.run(
            full,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise NetnsError(f"{full[0]}: command not found") from None
    except subprocess.TimeoutExpired:
        raise NetnsError(f"{' '.join(argv)} in {name}: no end after {timeout_s:g} s") from None
    result = CommandResult(argv, done.returncode, done.stdout, done.stderr)
    return result.checked() if check else result
