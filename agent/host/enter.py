"""Enters a network namespace for good: only for a child process that has no thread yet and ends soon."""

from __future__ import annotations

import ctypes
import os
from typing import Final

CLONE_NEWNET: Final = 0x40000000


def enter(path: str) -> None:
    """Moves this process into the network namespace at `path` (/proc/PID/ns/net, /run/netns/NAME). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)
