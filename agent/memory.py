"""Keep the resident agent small: give back what only starting up needed, and say how much is used."""

from __future__ import annotations

import ctypes
import gc
from asyncio import sslproto
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
    # asyncio reserves and reads 256 KiB at a time; an agent's messages are far smaller, and larger ones come in parts.
    sslproto.SSLProtocol.max_size = 16384


def slim() -> None:
    """Give back free memory and file pages that are mapped: what is still needed is mapped in again from the cache.

    Only mappings that cannot be written and hold no page of their own are dropped, so nothing can be lost.
    """
    gc.collect()
    gc.freeze()
    _libc.malloc_trim(0)
    for first, last in _droppable(Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")):
        _libc.madvise(first, last - first, _MADV_DONTNEED)


def _droppable(smaps: str) -> list[tuple[int, int]]:
    """Ranges of file mappings without a private page: relocated tables (RELRO) are read-only too, but are not."""
    ranges: list[tuple[int, int]] = []
    candidate: tuple[int, int] | None = None
    for line in smaps.splitlines():
        fields = line.split(maxsplit=5)
        if not fields[0].endswith(":"):
            of_file = len(fields) == 6 and fields[1] in ("r-xp", "r--p") and fields[5].startswith("/")
            first, _, last = fields[0].partition("-")
            candidate = (int(first, 16), int(last, 16)) if of_file else None
        elif fields[0] == "Anonymous:" and candidate is not None and fields[1] == "0":
            ranges.append(candidate)
    return ranges


def rss_kib() -> int:
    """Resident set size of this process in KiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4
