"""Receives the TRACE lines of iptables-legacy through netlink's packet log, group 0.

The group is one process' alone: who finds it taken (another trace, ulogd) does without. What the namespace's settings
were is written into the comment of an empty table first, for `leftovers` to put back if we are killed.
"""

from __future__ import annotations

from typing import Final

from agent.host.netlink import attribute
from agent.host.ruletrace import leftovers, settings
from agent.host.ruletrace.nfnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NUMBERS,
    SUBSYSTEM_ULOG,
    Nfnetlink,
    Received,
    Request,
    name,
    number,
)

CONFIG: Final = 1
NEW_TABLE: Final = 0
GROUP: Final = 0
COPIED: Final = 128
_COMMAND: Final = 1
_MODE: Final = 2
_TIMEOUT: Final = 4
_THRESHOLD: Final = 5
_BIND: Final = 1
_COPY_PACKET: Final = 2


class PacketLog:
    """Open from the moment it is made. Raises OSError (EPERM: somebody else listens)."""

    def __init__(self, families: tuple[int, ...]) -> None:
        self._note = ""
        self._former: dict[str, str] = {}
        self._socket = Nfnetlink()
        # Answers get a socket of their own: the other may be full of lines.
        self._control = Nfnetlink()
        try:
            self._configure(attribute(_COMMAND, bytes([_BIND])))
            self._configure(attribute(_MODE, COPIED.to_bytes(4, "big") + bytes([_COPY_PACKET, 0])))
            # Each line at once, not up to a hundred a second later.
            self._configure(number(_THRESHOLD, 1) + number(_TIMEOUT, 1))
            self._switch(families)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """For select()."""
        return self._socket.fileno()

    def events(self) -> list[Received]:
        """See `Nfnetlink.events`."""
        return self._socket.events()

    def close(self) -> None:
        """Puts the settings back, then lets the group go. Raises OSError where it cannot; then the note stays."""
        try:
            if self._former:
                settings.restore(self._former)
                self._former = {}
            if self._note:
                leftovers.delete(self._control, self._note)
                self._note = ""
        finally:
            self._control.close()
            self._socket.close()

    def _configure(self, body: bytes) -> None:
        self._socket.ask(SUBSYSTEM_ULOG, Request(CONFIG, 0, 0, body), GROUP)

    def _switch(self, families: tuple[int, ...]) -> None:
        former = {one: value for one, value in settings.current(families).items() if value != settings.OURS}
        if not former:
            return
        note = leftovers.new_name(leftovers.NOTE_PREFIX)
        body = name(1, note) + settings.encode(former)
        self._control.transact([Request(NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, NUMBERS["inet"], body)])
        self._note, self._former = note, former
        settings.restore(dict.fromkeys(former, settings.OURS))
