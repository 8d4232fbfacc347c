"""Which logger of the kernel takes the TRACE lines of this namespace: net.netfilter.nf_log.2 (IPv4) and .10 (IPv6).

By default they go to the machine's kernel log, where many of them would drown others' messages, and whence nobody could
read them in another namespace. A trace sends them to its own socket meanwhile.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.host.netlink import attribute

FOLDER: Final = "sys/net/netfilter/nf_log"
NUMBERS: Final = {4: "2", 6: "10"}
OURS: Final = "nfnetlink_log"
MOST: Final = 200
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_CLOEXEC: Final = 1
_CMD_CREATE: Final = 6


def current(families: tuple[int, ...]) -> dict[str, str]:
    """Each family's logger, by the setting's name. Raises OSError where the kernel has none."""
    return {one: (Path("/proc") / FOLDER / one).read_text().strip() for one in (NUMBERS[f] for f in families)}


def restore(settings: dict[str, str]) -> None:
    """Puts settings in place. Raises OSError."""
    for setting, value in settings.items():
        _write(f"{FOLDER}/{setting}", value)


def encode(settings: dict[str, str]) -> bytes:
    """Settings as a table's comment, which `nft list` shows (libnftnl's user data: type, length, string)."""
    words = ",".join(f"{setting}={value}" for setting, value in settings.items())[:MOST].encode() + b"\0"
    return attribute(6, bytes([0, len(words)]) + words)


def decode(userdata: bytes) -> dict[str, str]:
    """The settings in a table's user data; none of it is trusted to be a setting's name."""
    words = userdata[2:].rstrip(b"\0").decode(errors="replace")
    found = dict(pair.split("=", 1) for pair in words.split(",") if "=" in pair)
    return {setting: value for setting, value in found.items() if setting in NUMBERS.values()}


def _write(path: str, value: str) -> None:
    try:
        (Path("/proc") / path).write_text(value)
    except OSError:
        # A container sees /proc/sys read-only; a procfs of its own, attached nowhere, is not.
        proc = _detached_proc()
        try:
            file = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
            try:
                os.write(file, value.encode())
            finally:
                os.close(file)
        finally:
            os.close(proc)


def _detached_proc() -> int:
    """A directory of procfs; it goes with the descriptor. Raises OSError without CAP_SYS_ADMIN."""
    libc = ctypes.CDLL(None, use_errno=True)
    context = _called(libc.syscall(_FSOPEN, b"proc", _CLOEXEC))
    try:
        _called(libc.syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0))
        return _called(libc.syscall(_FSMOUNT, context, _CLOEXEC, 0))
    finally:
        with suppress(OSError):
            os.close(context)


def _called(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
