"""Sorts the kernel's events into packets: what each met at which hook, and where it was seen last.

Pure. A packet begins with an event of our own marking rule: the kernel's number for it is used again by later ones, and
events of other traces have no such beginning. Between two hooks it may get another number, when it comes up from a
bridge on which br_netfilter showed it to prerouting; then it is known by its addresses and identification.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.host.netfilter.rules import TRACE_PREFIX
from agent.host.ruletrace.events import Ends, Told
from agent.host.ruletrace.table import HOOKS, MARKING

TERMINAL: Final = {"drop", "stolen", "queue"}


class Mark(NamedTuple):
    """The packet was at the first or last priority of a hook."""

    hook: str
    is_last: bool
    ends: Ends | None


class Met(NamedTuple):
    """A rule or policy that took the packet, in which hook, under which base chain."""

    hook: str
    base: str
    event: Told


@dataclass(slots=True)
class Passage:
    """One packet's way. `end` is what ended it, None if nothing told of it did."""

    marks: list[Mark] = field(default_factory=list)
    met: list[Met] = field(default_factory=list)
    end: Met | None = None
    base: str = ""
    ends: Ends | None = None
    identity: bytes = b""

    def place(self) -> str:
        """The hook that it came to and did not leave, "routing" where it left one and came to no other."""
        if not self.marks:
            return MARKING[0]
        last = self.marks[-1]
        return last.hook if not last.is_last else "routing"

    def is_between_hooks(self) -> bool:
        """Whether it left a hook and may come to another."""
        return self.end is None and bool(self.marks) and self.marks[-1].is_last and not self.arrived()

    def arrived(self) -> bool:
        """Whether it passed the last hook of its way: left the host, or was handed over."""
        return bool(self.marks) and self.marks[-1].is_last and self.marks[-1].hook in {"postrouting", "input"}


def sort(events: Iterable[Told], own: str) -> list[Passage]:
    """The passages, in the order in which they began; `own` is our table."""
    found: list[Passage] = []
    current: dict[int, Passage] = {}
    for event in events:
        is_own = event.table == own
        if is_own and event.kind == "rule" and event.handle and event.chain in _MARKING_CHAINS:
            current[event.packet] = Passage()
            found.append(current[event.packet])
        passage = current.get(event.packet)
        if is_own and event.chain in _LATER_FIRSTS and event.identity and not _expects(passage, event):
            passage = next((one for one in found if _expects(one, event)), None)
            if passage is None:
                continue
            current[event.packet] = passage
        if passage is not None:
            _add(passage, event, is_own=is_own)
    return found


def _expects(passage: Passage | None, event: Told) -> bool:
    return passage is not None and passage.is_between_hooks() and passage.identity == event.identity


_MARKING_CHAINS: Final = {f"first_{hook}" for hook in MARKING}
_LATER_FIRSTS: Final = {f"first_{hook}" for hook in HOOKS if hook not in MARKING}
_MARKS: Final = {f"{end}_{hook}": (hook, end == "last") for hook in HOOKS for end in ("first", "last")}


def _add(passage: Passage, event: Told, *, is_own: bool) -> None:
    if event.ends is not None:
        passage.base, passage.ends, passage.identity = event.chain, event.ends, event.identity
        if passage.end is not None and passage.end.event.verdict == "queue":
            # Who had it queued gave it back.
            passage.end = None
    if is_own:
        if event.kind == "policy" and event.chain in _MARKS:
            hook, is_last = _MARKS[event.chain]
            passage.marks.append(Mark(hook, is_last, passage.ends))
        return
    if event.table.startswith(TRACE_PREFIX):
        return
    is_rule = event.kind == "rule" and event.handle
    if not is_rule and not (event.kind == "policy" and event.verdict == "drop"):
        return
    met = Met(passage.place(), passage.base, event)
    passage.met.append(met)
    if event.verdict in TERMINAL:
        passage.end = met
