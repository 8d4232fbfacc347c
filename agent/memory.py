"""Keep the resident agent small: give back what only starting up needed, and say how much is used."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Final

_MADV_DONTNEED: Final = 4
_M_ARENA_MAX: Final = -8
_M_TRIM_THRESHOLD: Final = -1
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def tune() -> None:
    """One malloc arena for all threads, free memory given back early. To be called before the first thread."""
    _libc.mallopt(_M_ARENA_MAX, 1)
    _libc.mallopt(_M_TRIM_THRESHOLD, 65536)


def slim() -> None:
    """Give back free memory and the pages of program text: what is still needed is mapped in again from the cache.

    Only executable mappings of files are dropped; nobody ever writes to those, so nothing can be lost.
    """
    gc.collect()
    gc.freeze()
    _libc.malloc_trim(0)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == "r-xp" and fields[5].startswith("/"):
            first, _, last = fields[0].partition("-")
            _libc.madvise(int(first, 16), int(last, 16) - int(first, 16), _MADV_DONTNEED)


def rss_kib() -> int:
    """Resident set size of this process in KiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4
