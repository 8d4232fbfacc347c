"""Arms the kernel, listens while the packets come, and answers. For a child process that ends (`agent.host`).

How to call it::

    with RuleTracer(query) as tracer:  # armed: from here on the kernel tells of the query's packets
        ...                            # the burst is sent, here or on another host
        found = tracer.collect()       # blocks until query.duration_ms after arming; a RuleTrace

From elsewhere: put the query into `FactsOrder.rule_trace_asked`; `{"armed":true}` comes once trace and tap listen, and
the answer is `Facts.rule_trace`. Needs CAP_NET_ADMIN; CAP_SYS_ADMIN, too, where /proc/sys is read-only.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from agent.host.netfilter import read as reader
from agent.host.netfilter.refs import FAMILIES, Refs
from agent.host.netfilter.rules import Ruleset
from agent.host.netlink import NetlinkError
from agent.host.ruletrace import events, leftovers, passages, story, table
from agent.host.ruletrace.nfnetlink import Nfnetlink
from agent.host.ruletrace.packetlog import PacketLog
from model.netfilter import RuleTrace, RuleTraceQuery, TraceStep

NFTRACE_GROUP: Final = 9
MOST_EVENTS: Final = 200_000
MOST_MS: Final = 60_000
QUIET_S: Final = 0.02
MOST_QUIET_S: Final = 1.0
_LEGACY: Final = {4: "ip_tables_names", 6: "ip6_tables_names"}
_NAMES: Final = {number: name for name, number in FAMILIES.items()}


class RuleTracer:
    """One trace, in the namespace of the thread that enters it. Raises OSError, ValueError when it is entered."""

    def __init__(self, query: RuleTraceQuery) -> None:
        self._query = query
        self._families = tuple(sorted({flow.family for flow in query.flows}))
        self._missing: list[str] = []
        self._log: PacketLog | None = None
        self._before: Ruleset | None = None
        self._control: Nfnetlink | None = None
        self._events: Nfnetlink | None = None
        self._own = ""
        self._told: list[events.Told] = []
        self._lines: list[events.Logged] = []

    def __enter__(self) -> RuleTracer:
        self.arm()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def arm(self) -> None:
        """From its return on the kernel tells. Raises OSError, ValueError; then nothing is left behind."""
        if not self._query.flows:
            raise ValueError("rule trace: no flow")
        leftovers.remove()
        try:
            self._open_log()
            self._events = Nfnetlink(NFTRACE_GROUP)
            self._control = Nfnetlink()
            own = leftovers.new_name()
            self._control.transact(table.make(own, self._query.flows, self._query.packets))
            self._own = own
        except BaseException:
            self.close()
            raise
        self._ends = time.monotonic() + min(self._query.duration_ms, MOST_MS) / 1000

    def collect(self) -> RuleTrace:
        """Listens until the query's time is over, takes everything away, reads the rules, tells. Raises OSError."""
        assert self._control is not None
        assert self._events is not None
        try:
            sources = [one for one in (self._events, self._log) if one is not None]
            while (left := self._ends - time.monotonic()) > 0:
                for source in select.select(sources, [], [], left)[0]:
                    self._take(source)
            self._unmark(self._control)
            # Until nothing comes any more: what is cut off under way would pass for lost.
            last = time.monotonic() + MOST_QUIET_S
            while (found := select.select(sources, [], [], QUIET_S)[0]) and time.monotonic() < last:
                for source in found:
                    self._take(source)
            seen = table.counted(self._control.dump(table.rules_of(self._own)))
        finally:
            self.close()
        return self._tell(seen)

    def _unmark(self, control: Nfnetlink) -> None:
        try:
            control.transact(table.unmark(self._own))
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            self._miss("somebody removed the table of the trace")

    def close(self) -> None:
        """Takes everything away; also what a failed arming left."""
        with ExitStack() as stack:
            for one in (self._events, self._control):
                if one is not None:
                    stack.callback(one.close)
            stack.callback(self._close_log)
            if self._control is not None and self._own:
                leftovers.delete(self._control, self._own)
        self._control = self._log = self._events = None

    def _close_log(self) -> None:
        try:
            if self._log is not None:
                self._log.close()
        except OSError as error:
            self._miss(f"{story.LOG}: settings of the log are not put back: {error.strerror or error}")

    def _open_log(self) -> None:
        """Only where legacy tables exist: their lines come by the packet log, else their counters must do."""
        legacy = tuple(family for family in self._families if _has_legacy(family))
        if not legacy:
            return
        try:
            self._log = PacketLog(legacy)
        except OSError as error:
            self._missing.append(f"{story.LOG}: {error.strerror or error}")
            self._before = reader.read().ruleset

    def _take(self, source: Nfnetlink | PacketLog) -> bool:
        """One read's events; False where nothing waits."""
        try:
            messages = source.events()
        except OSError as error:
            self._miss(f"events were lost: {error.strerror}")
            return error.errno == errno.ENOBUFS
        for message in messages:
            if len(self._told) + len(self._lines) >= MOST_EVENTS:
                self._miss(f"more than {MOST_EVENTS} events")
                return False
            told, line = events.told(message), events.logged(message)
            if told is not None:
                self._told.append(told)
            elif line is not None:
                self._lines.append(line)
        return bool(messages)

    def _miss(self, reason: str) -> None:
        if reason not in self._missing:
            self._missing.append(reason)

    def _tell(self, seen: int) -> RuleTrace:
        reading = reader.read()
        book = story.Book(reading.ruleset, Refs(reading.ruleset, reader.listing), reader.listing)
        found = passages.sort(self._told, self._own)
        family = self._families[0]
        steps = story.steps(found, self._lines, book, family)
        if self._before is not None:
            steps += self._by_counters(found, book, self._before)
        ends = story.ends(found, book, steps, family)
        how = [word for word in (story.NFT, story.LOG, story.COUNTERS) if any(one.how == word for one in steps)]
        return RuleTrace(
            how=tuple(dict.fromkeys((story.NFT, *how))) if found else (),
            seen=seen,
            traced=len(found),
            steps=steps,
            hooks=story.hooks(found),
            ends=ends,
            missing=(
                *self._missing,
                *(f"{backend}: {why}" for backend, why in reading.errors.items()),
                *(f"not traced: table {name}" for name in story.untraced(reading.ruleset)),
            ),
        )

    def _by_counters(
        self, found: Sequence[passages.Passage], book: story.Book, before: Ruleset
    ) -> tuple[TraceStep, ...]:
        """The one legacy rule of a hook that took as many packets as vanished there; none if several did."""
        steps: list[TraceStep] = []
        vanished = [one.place() for one in found if one.end is None and not one.arrived()]
        for hook in dict.fromkeys(vanished):
            packets = vanished.count(hook)
            known = [
                one for family in self._families for one in book.moved(before, hook, _NAMES[family], packets)
            ]  # fmt: skip
            if len(known) == 1:
                rule, verdict = known[0]
                steps.append(
                    TraceStep(hook=hook, rule=rule, verdict=verdict, packets=packets, how=story.COUNTERS)
                )  # fmt: skip
            elif known:
                self._miss(f"counters: {len(known)} rules of {hook} took {packets} packets")
        return tuple(steps)


def _has_legacy(family: int) -> bool:
    try:
        return bool((Path("/proc/thread-self/net") / _LEGACY[family]).read_text().strip())
    except OSError:
        return False
