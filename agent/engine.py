"""Steady probing: runs the plan's tasks on the schedule, and turns what comes back into observations.

One wake-up every 100 ms sends what is due, reads what has come and judges what is overdue, in the order read, judge,
send: a stall of our own must never count as a loss. Must not decide anything about the network.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from agent.log import log
from agent.netns import Found, find, find_quickly
from agent.place import Place
from agent.probers import http
from agent.probers.drive import Driver, Probe
from agent.probers.errors import of_errno
from agent.probers.flight import Flight, Lane
from agent.probers.registry import PROBES
from agent.probers.tcp import family_of
from agent.schedule import TICK_S, Runner, Schedule
from model.probes import EMPTY_PLAN, Attempt, Observation, Plan, Task, Vantage
from model.words import Method, Outcome

NOT_MEASURED_EVERY_S: Final = 5.0
_CHECK_S: Final = 1.0
_MAX_SEARCH_WAIT_S: Final = 5.0
_DRAIN_EVERY: Final = 64
_MAX_STREAMS: Final = 256
_GONE: Final = frozenset(("ESTALE", "ENODEV"))

Sink = Callable[[Observation, bool], None]


class Engine:
    """Runs a plan. `sink` takes every observation, and whether it changes its task's state."""

    def __init__(self, node: str, netns_dir: str, rate_limit: float, sink: Sink, ca: str = "") -> None:
        self.flights: dict[int, Flight] = {}
        self.boot = os.urandom(4)
        self.plan = EMPTY_PLAN
        self._netns_dir = netns_dir
        self._sink = sink
        self._ca = ca
        self._schedule = Schedule(node, rate_limit, time.monotonic())
        self._runners: dict[str, Runner] = {}
        self._places: dict[Vantage, Place] = {}
        self._epoll = select.epoll()
        self._lanes: dict[int, Lane] = {}
        self._driver = Driver()
        self._driver_watched = False
        self._number = int.from_bytes(os.urandom(2), "big")
        self._worst_late_s = 0.0
        self._next_check = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._search: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    # --- what the application asks ---

    def apply(self, plan: Plan) -> None:
        """Put a plan in force. Tasks that stay the same keep schedule and state."""
        now = time.monotonic()
        self.plan = plan
        self._schedule.set_tasks(plan.tasks)
        if self._schedule.stretch > 1:
            log("warning", "plan is over the rate limit, intervals are stretched", by=f"{self._schedule.stretch:.2f}")
        places = {v: self._places.pop(v) if v in self._places else Place(v, self) for v in plan.vantages}
        for place in self._places.values():
            self._abandon(place, "the plan no longer names it")
        self._places = places
        former, self._runners = self._runners, {}
        fresh: list[Runner] = []
        for task in plan.tasks:
            if not 0 <= task.vantage < len(plan.vantages):
                log("error", "task names a vantage that the plan lacks", task=task.id)
                continue
            place = places[plan.vantages[task.vantage]]
            runner = former.pop(task.id, None)
            if runner is not None and runner.place is place and _same(runner.task, task):
                runner.task = task
            else:
                if runner is not None:
                    runner.dead = True
                runner = Runner(task, place, self._schedule.first_due(task, now), _fault(task))
                self._schedule.add(runner)
                fresh.append(runner)
            self._runners[task.id] = runner
        for runner in former.values():
            runner.dead = True
        self._schedule.soon(fresh, now)
        self._next_check = now
        self._check_places(now)
        self._arm(now)

    def sweep(self) -> None:
        """Make every probe of the plan once, as soon as the rate limit allows."""
        now = time.monotonic()
        self._schedule.soon(list(self._runners.values()), now)
        self._arm(now)

    def take_worst_late_ms(self) -> int:
        """By how much a tick was late, at worst, since the last call, in milliseconds."""
        worst, self._worst_late_s = self._worst_late_s, 0.0
        return round(worst * 1000)

    def vantage_errors(self) -> dict[str, str]:
        """Why vantages cannot be entered."""
        return {str(place.vantage): place.error for place in self._places.values() if place.found is None}

    async def close(self) -> None:
        """Stop, and close every socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._search is not None:
            self._search.cancel()
            await asyncio.gather(self._search, return_exceptions=True)
        self._watch_driver(False)
        for runner in self._runners.values():
            runner.dead = True
        self._driver.close()
        self.flights.clear()
        for place in self._places.values():
            place.leave("ended")
        self._epoll.close()

    # --- what lanes ask (Hub) ---

    def watch(self, fd: int, lane: Lane) -> None:
        """See `Hub`."""
        self._lanes[fd] = lane
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """See `Hub`."""
        if self._lanes.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def settle(self, flight: Flight, outcome: Outcome, rtt_us: int, detail: str) -> None:
        """See `Hub`."""
        self.flights.pop(flight.number, None)
        runner = flight.runner
        if not isinstance(runner, Runner) or runner.dead:
            return
        changed, extra = self._schedule.judge(runner, outcome, rtt_us)
        at_ms = flight.sent_ns // 1_000_000
        self._sink(Observation(runner.task.id, at_ms, outcome, rtt_us, flight.late_ms, detail), changed)
        if extra:
            self._burst(runner, extra)
        self._schedule.retry(runner, time.monotonic(), changed=changed)

    # --- the tick ---

    def _arm(self, now: float) -> None:
        tick = self._schedule.next_tick()
        following = self._schedule.tick_of(now + 1e-3)
        if self.flights or tick is None:
            tick = following
        wake = min(self._schedule.time_of(max(tick, following)), self._next_check)
        if not self.flights and not self._runners:
            wake = self._next_check
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(wake, now), self._tick)

    def _tick(self) -> None:
        try:
            self._work(time.monotonic())
        finally:
            # Whatever one probe did wrong, the others go on.
            self._arm(time.monotonic())

    def _work(self, now: float) -> None:
        due_tick = self._schedule.next_tick()
        if due_tick is not None:
            self._worst_late_s = max(self._worst_late_s, now - self._schedule.time_of(due_tick))
        self._drain()
        self._judge_overdue(now)
        if now >= self._next_check - TICK_S:
            # A tick shortly before does as well, and saves the wake-up.
            self._check_places(now)
        tick = math.floor((now - self._schedule.time_of(0)) / TICK_S + 1e-6)
        for count, (runner, at_tick, extra) in enumerate(self._schedule.pop_due(tick, now)):
            if count % _DRAIN_EVERY == _DRAIN_EVERY - 1:
                self._drain()
            self._launch(runner, at_tick, extra)
        self._drain()

    def _drain(self) -> None:
        """Read everything that has come."""
        while events := self._epoll.poll(0, 64):
            for fd, event in events:
                lane = self._lanes.get(fd)
                if lane is not None:
                    lane.ready(fd, errors=bool(event & select.EPOLLERR))
        if self._driver.running:
            self._driver.step(0.0)
            self._watch_driver(self._driver.running > 0)

    def _judge_overdue(self, now: float) -> None:
        if not self.flights:
            return
        tick = self._schedule.tick_of(now)
        for flight in list(self.flights.values()):
            runner = flight.runner
            if not isinstance(runner, Runner):
                continue
            if flight.deadline <= now and not _by_stream(runner.task):
                self.settle(flight, Outcome.TIMEOUT, 0, "")
            elif not flight.suspected and not flight.extra and self._schedule.suspects(runner, now - flight.sent):
                flight.suspected = True
                self._schedule.burst(runner, tick, now)

    def _launch(self, runner: Runner, at_tick: int, extra: bool) -> None:
        now = time.monotonic()
        task = runner.task
        place = runner.place
        if place.found is None or runner.why_not:
            self._not_measured(runner, now, runner.why_not or place.error)
            return
        runner.turn += 1
        self._number = (self._number + 1) & 0xFFFFFFFF
        late_ms = max(0, round((now - self._schedule.time_of(at_tick)) * 1000))
        flight = Flight(runner, self._number, runner.turn, now, late_ms, extra)
        self.flights[flight.number] = flight
        try:
            if _by_stream(task):
                self._launch_stream(flight, runner)
            else:
                place.lane(task.method, task.family).launch(flight)
        except OSError as error:
            outcome, detail = of_errno(error.errno or 0)
            if flight.sent_ns == 0:
                # It failed before there was anything to send on.
                flight.sent_ns = time.time_ns()
                outcome = Outcome.NOT_MEASURED
            if detail in _GONE:
                self._next_check = 0.0
            self.settle(flight, outcome, 0, detail)

    def _launch_stream(self, flight: Flight, runner: Runner) -> None:
        flight.sent_ns = time.time_ns()
        if self._driver.running >= _MAX_STREAMS:
            self.settle(flight, Outcome.NOT_MEASURED, 0, "too many connections under way")
            return
        task = runner.task
        probe: Probe
        if task.method is Method.HTTP:
            probe = http.probe(runner.place, runner.as_order(), flight.turn, self._ca)
        else:
            probe = PROBES[task.method](runner.place, runner.as_order(), flight.turn)

        def done(attempt: Attempt) -> None:
            self.settle(flight, attempt.outcome, attempt.rtt_us, attempt.detail)

        self._driver.start(probe, done)
        self._watch_driver(self._driver.running > 0)

    def _watch_driver(self, wanted: bool) -> None:
        """Let the loop wake us for connections under way: of those the kernel keeps no time stamps."""
        if wanted and not self._driver_watched:
            self._loop.add_reader(self._driver.fileno(), self._on_stream)
        elif self._driver_watched and not wanted:
            self._loop.remove_reader(self._driver.fileno())
        self._driver_watched = wanted

    def _on_stream(self) -> None:
        self._driver.step(0.0)
        self._watch_driver(self._driver.running > 0)

    def _burst(self, runner: Runner, extra: int) -> None:
        now = time.monotonic()
        if self._schedule.burst(runner, self._schedule.tick_of(now), now, extra):
            self._loop.call_soon(lambda: self._arm(time.monotonic()) if self._timer else None)

    def _not_measured(self, runner: Runner, now: float, why: str) -> None:
        if now - runner.reported < NOT_MEASURED_EVERY_S:
            return
        runner.reported = now
        at_ms = time.time_ns() // 1_000_000
        self._sink(Observation(runner.task.id, at_ms, Outcome.NOT_MEASURED, 0, 0, why), False)

    # --- namespaces ---

    def _check_places(self, now: float) -> None:
        self._next_check = now + _CHECK_S
        missing: list[Place] = []
        for place in self._places.values():
            if place.found is not None and not place.found.still_there():
                log("warning", "namespace of vantage has gone", vantage=place.vantage)
                self._abandon(place, "the namespace has gone")
                place.next_try = now
            if place.found is None:
                known = find_quickly(place.vantage, self._netns_dir)
                if known is not None:
                    self._enter(place, known)
                elif now >= place.next_try:
                    missing.append(place)
        if missing and self._search is None:
            self._search = self._loop.create_task(self._find(missing))

    def _enter(self, place: Place, found: Found) -> None:
        place.enter(found)
        log("info", "vantage entered", vantage=place.vantage, namespace=found.path)

    def _abandon(self, place: Place, why: str) -> None:
        place.leave(why)
        for flight in list(self.flights.values()):
            runner = flight.runner
            if isinstance(runner, Runner) and runner.place is place and not _by_stream(runner.task):
                self.settle(flight, Outcome.NOT_MEASURED, 0, why)

    async def _find(self, missing: list[Place]) -> None:
        """Search processes and namespaces in a thread: on a full node that takes a tenth of a second."""
        try:
            found = await asyncio.to_thread(find, [place.vantage for place in missing], self._netns_dir)
            now = time.monotonic()
            for place in missing:
                if self._places.get(place.vantage) is not place or place.found is not None:
                    continue
                known = found.get(place.vantage)
                if known is not None:
                    self._enter(place, known)
                    continue
                place.error = "no network namespace of this pod is found on the node"
                place.next_try = now + place.wait_s
                place.wait_s = min(_MAX_SEARCH_WAIT_S, place.wait_s * 1.5)
        finally:
            self._search = None


def _by_stream(task: Task) -> bool:
    return task.method in (Method.TCP, Method.HTTP) or (
        task.method is Method.DNS and (task.over_tcp or not task.address)
    )


def _same(one: Task, other: Task) -> bool:
    """Equal but for the number of the vantage, which depends on its neighbours in the plan."""
    return one == other or all(
        getattr(one, name) == getattr(other, name) for name in one.__struct_fields__ if name != "vantage"
    )


def _fault(task: Task) -> str:
    """Why a task cannot be carried out at all, "" if it can."""
    if not 0 <= task.port <= 65535:
        return f"port {task.port} is out of range"
    if not task.address and task.method in (Method.HTTP, Method.DNS):
        return ""
    try:
        socket.inet_pton(family_of(task.family), task.address)
    except OSError:
        return f"{task.address!r} is no IPv{task.family} address"
    return ""
