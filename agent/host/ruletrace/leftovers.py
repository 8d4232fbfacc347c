"""What a trace that was killed may have left in this namespace: found by name, and taken away.

Our tables bear the id and start time of the process that made them, so that a living trace is never touched. One kind
marks packets; the other is a note of the packet log's former settings, which are put back.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.host.netfilter.rules import TRACE_PREFIX
from agent.host.netlink import NetlinkError, attributes, text
from agent.host.ruletrace.nfnetlink import NUMBERS, Nfnetlink, Request, name
from agent.host.ruletrace.settings import decode, restore

NOTE_PREFIX: Final = f"{TRACE_PREFIX}note_"
GET_TABLE: Final = 1
DELETE_TABLE: Final = 2
USERDATA: Final = 6
_NAME: Final = re.compile(rf"{TRACE_PREFIX}(?:note_)?(\d+)_(\d+)_\d+")
_numbers: Final = itertools.count(1)


def new_name(prefix: str = TRACE_PREFIX) -> str:
    """A name for a table of this process that no other table has."""
    pid = os.getpid()
    return f"{prefix}{pid}_{_started(pid)}_{next(_numbers)}"


def remove() -> tuple[str, ...]:
    """Takes away what dead processes left in the caller's namespace; the names of the tables. Raises OSError."""
    gone = []
    inet = NUMBERS["inet"]
    socket = Nfnetlink()
    try:
        for table in socket.dump(Request(GET_TABLE, 0, inet, b"")):
            found = attributes(table.body)
            table_name = text(found.get(1))
            made_by = _NAME.fullmatch(table_name)
            if table.family != inet or made_by is None or _is_alive(int(made_by[1]), int(made_by[2])):
                continue
            if table_name.startswith(NOTE_PREFIX):
                # A logger that is gone meanwhile cannot be put back by anybody: the note must not stand in the way.
                with suppress(OSError):
                    restore(decode(found.get(USERDATA, b"")))
            delete(socket, table_name)
            gone.append(table_name)
    finally:
        socket.close()
    return tuple(gone)


def delete(socket: Nfnetlink, table: str) -> None:
    """Deletes a table of ours. That it is gone is no error: somebody flushed all rules, or cleared away, too."""
    try:
        socket.transact([Request(DELETE_TABLE, 0, NUMBERS["inet"], name(1, table))])
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise


def _started(pid: int) -> int:
    """A process' start, in clock ticks since boot. Raises OSError, ValueError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _is_alive(pid: int, started: int) -> bool:
    try:
        return _started(pid) == started
    except (OSError, ValueError, IndexError):
        return False
