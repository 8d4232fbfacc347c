"""When which task is due, and what a result calls for. Pure: time and results go in, decisions come out.

A wake-up every `TICK_S` serves all tasks. Starts are spread by a hash of node and task, so that nothing in the cluster
probes in step and a restart finds the same places.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Final

from agent.place import Place
from model.probes import WINDOW, ProbeOrder, Task, stable_id
from model.words import Method, Outcome

TICK_S: Final = 0.1
BURST: Final = 3
_BURST_PAUSE_S: Final = 1.0
_MIN_EXTRA: Final = 12.0
RETRY_S: Final = 2.0
CONFIRM_S: Final = 0.3
# After a loss so many results are asked for soon.
DOUBT: Final = WINDOW
SOON_S: Final = 2.0
_SOON_BEGINS_S: Final = 0.2
_BURST_METHODS: Final = frozenset((Method.UDP, Method.TCP, Method.ICMP))
_HASH_RANGE: Final = 1 << 48


class Runner:
    """A task that runs: its place, its schedule, its last state.

    `failing` is None until something was measured; `doubt` is how many results are wanted soon, since one was lost.
    """

    __slots__ = (
        "dead",
        "doubt",
        "due",
        "failing",
        "last_burst",
        "order",
        "place",
        "reported",
        "retry_at",
        "rtt_us",
        "task",
        "turn",
        "why_not",
    )

    def __init__(self, task: Task, place: Place, due: float, why_not: str) -> None:
        self.task = task
        self.place = place
        self.due = due
        self.why_not = why_not
        self.turn = 0
        self.failing: bool | None = None
        self.doubt = 0
        self.rtt_us = 0
        self.last_burst = -math.inf
        self.retry_at = -math.inf
        self.reported = -math.inf
        self.dead = False
        self.order: ProbeOrder | None = None

    def as_order(self) -> ProbeOrder:
        """The task as an order, for probes that need a connection; made once."""
        if self.order is None:
            task = self.task
            self.order = ProbeOrder(
                vantage=self.place.vantage,
                method=task.method,
                family=task.family,
                address=task.address,
                port=task.port,
                timeout_ms=task.timeout_ms,
                name=task.name,
                record=task.record,
                over_tcp=task.over_tcp,
            )
        return self.order


class Schedule:
    """The due times of all runners, and the purse that bounds what bursts may add: at most the plan's own rate."""

    def __init__(self, node: str, rate_limit: float, now: float) -> None:
        self._node = node
        self._rate_limit = rate_limit
        self._base = now
        self._heap: list[tuple[int, int, Runner, bool]] = []
        self._serial = 0
        self._purse = 0.0
        self._filled = now
        self.rate = 0.0
        self.stretch = 1.0

    def tick_of(self, when: float) -> int:
        """Number of the first tick at or after a moment."""
        return math.ceil((when - self._base) / TICK_S - 1e-6)

    def time_of(self, tick: int) -> float:
        """When a tick is."""
        return self._base + tick * TICK_S

    def set_tasks(self, tasks: Iterable[Task]) -> None:
        """Take note of the plan's rate; where it is over the limit, all intervals are stretched alike."""
        before = self.rate
        self.rate = sum(1000 / max(1, task.interval_ms) for task in tasks)
        self.stretch = max(1.0, self.rate / self._rate_limit)
        self.rate /= self.stretch
        if not before:
            self._purse = self._full_purse

    def interval_s(self, task: Task) -> float:
        """The interval that holds."""
        return max(TICK_S, task.interval_ms / 1000 * self.stretch)

    def first_due(self, task: Task, now: float) -> float:
        """Spread over the interval by a hash of node and task."""
        return now + self._share(task) * self.interval_s(task)

    def add(self, runner: Runner) -> None:
        """Enter a runner at its due time."""
        self._push(self.tick_of(runner.due), runner, False)

    def soon(self, runners: Sequence[Runner], now: float) -> None:
        """Have each of these probed once within SOON_S, or as soon as the rate limit allows: what is new, or all.

        Spread by the same hash as their regular turns, which stay as they are.
        """
        spread_s = max(SOON_S, len(runners) / self._rate_limit)
        for runner in runners:
            at = now + _SOON_BEGINS_S + self._share(runner.task) * spread_s
            if at < runner.due - TICK_S:
                self._push(self.tick_of(at), runner, True)

    def _share(self, task: Task) -> float:
        return int(stable_id(self._node, task.id), 16) / _HASH_RANGE

    def _push(self, tick: int, runner: Runner, extra: bool) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (tick, self._serial, runner, extra))

    def next_tick(self) -> int | None:
        """The next tick at which something is due."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, tick: int, now: float) -> list[tuple[Runner, int, bool]]:
        """All that is due up to a tick: runner, the tick it was due at, whether it is an extra probe.

        A round that was missed altogether is left out, not made up for.
        """
        due: list[tuple[Runner, int, bool]] = []
        while self._heap and self._heap[0][0] <= tick:
            at, _, runner, extra = heapq.heappop(self._heap)
            if runner.dead:
                continue
            due.append((runner, at, extra))
            if not extra:
                interval_s = self.interval_s(runner.task)
                rounds = max(1, math.ceil((now - runner.due) / interval_s))
                runner.due += rounds * interval_s
                self.add(runner)
        return due

    def suspects(self, runner: Runner, age_s: float) -> bool:
        """Whether a probe without answer calls for a burst already before its time is out."""
        if runner.failing is not False or runner.task.method not in _BURST_METHODS:
            return False
        return age_s > max(0.8 * TICK_S, 3e-6 * runner.rtt_us)

    def burst(self, runner: Runner, tick: int, now: float, count: int = BURST) -> int:
        """Enter up to `count` extra probes at the following ticks, as far as the purse reaches; returns how many."""
        if runner.task.method not in _BURST_METHODS or now - runner.last_burst < _BURST_PAUSE_S:
            return 0
        self._fill(now)
        count = min(count, int(self._purse))
        if count:
            runner.last_burst = now
            self._purse -= count
            for number in range(count):
                self._push(tick + number, runner, True)
        return count

    def retry(self, runner: Runner, now: float, *, changed: bool) -> None:
        """Ask again soon for what fails, however long its interval, so that healing shows at once.

        So is what has just passed again and has no burst of its own; and what lost something not long ago, so that it
        is soon known whether that goes on. As far as the purse reaches, and for the last no further than half.
        """
        confirm = changed and not runner.failing and runner.task.method not in _BURST_METHODS
        wait_s = CONFIRM_S if confirm else RETRY_S
        asks = runner.failing or confirm or runner.doubt > 0
        if not asks or self.interval_s(runner.task) <= 1.5 * wait_s or runner.retry_at > now:
            return
        self._fill(now)
        if self._purse >= (1 if runner.failing or confirm else self._full_purse / 2):
            self._purse -= 1
            runner.retry_at = now + wait_s
            self._push(self.tick_of(runner.retry_at), runner, True)

    @property
    def _full_purse(self) -> float:
        return max(_MIN_EXTRA, self.rate)

    def _fill(self, now: float) -> None:
        self._purse = min(self._full_purse, self._purse + (now - self._filled) * self.rate)
        self._filled = now

    def judge(self, runner: Runner, outcome: Outcome, rtt_us: int) -> tuple[bool, int]:
        """Take a result; returns whether the state has changed, and how many extra probes that calls for."""
        if outcome is Outcome.NOT_MEASURED:
            return False, 0
        failing = outcome is not Outcome.OK
        if failing:
            runner.doubt = DOUBT
        else:
            runner.rtt_us = rtt_us
            runner.doubt = max(0, runner.doubt - 1)
        before, runner.failing = runner.failing, failing
        if before is None or before == failing:
            # The first good news of a task can wait for the next batch.
            return before is None and failing, 0
        return True, BURST if failing else 1
