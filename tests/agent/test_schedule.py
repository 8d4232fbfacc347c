"""What a result calls for: how soon a path is asked again, and how much of that there may be."""

from __future__ import annotations

import random
from typing import cast

from agent.place import Place
from agent.schedule import DOUBT, RETRY_S, Runner, Schedule
from model.probes import Task
from model.words import Method, Outcome

INTERVAL_S = 30.0


def task(number: int) -> Task:
    """A task of a big cluster: its turn comes seldom."""
    return Task(
        id=f"t{number}", vantage=0, method=Method.TCP, family=4, address="10.0.0.1", port=80,
        interval_ms=int(INTERVAL_S * 1000), timeout_ms=500,
    )  # fmt: skip


def runner_of(of: Task, due: float = 0.0) -> Runner:
    """A runner; a schedule does not look at its place."""
    return Runner(of, cast("Place", None), due, "")


def asked(count: int, lost: set[tuple[int, int]], until_s: float) -> list[list[float]]:
    """When each of `count` paths is asked, where what is asked in (path, nth time) of `lost` is lost."""
    tasks = [task(number) for number in range(count)]
    schedule = Schedule("node-a", 100.0, 0.0)
    schedule.set_tasks(tasks)
    runners = [runner_of(one, schedule.first_due(one, 0.0)) for one in tasks]
    for runner in runners:
        schedule.add(runner)
    times: list[list[float]] = [[] for _ in runners]
    while (tick := schedule.next_tick()) is not None and schedule.time_of(tick) < until_s:
        now = schedule.time_of(tick)
        for runner, _, _ in schedule.pop_due(tick, now):
            number = runners.index(runner)
            times[number].append(now)
            outcome = Outcome.TIMEOUT if (number, len(times[number])) in lost else Outcome.OK
            changed, extra = schedule.judge(runner, outcome, 100)
            if extra:
                schedule.burst(runner, tick + 1, now, extra)
            schedule.retry(runner, now, changed=changed)
    return times


def test_a_path_that_lost_something_is_asked_often_until_it_is_known_whether_that_goes_on() -> None:
    """A window of results comes in three quarters of a minute instead of ten; then all is as before."""
    times = asked(300, {(0, 2)}, 300.0)[0]
    quiet = asked(300, set(), 300.0)[0]
    loss = times[1]
    window = [at for at in times if loss < at <= loss + DOUBT * RETRY_S + 5]
    assert len(window) >= DOUBT
    late = [at for at in times if at > loss + DOUBT * RETRY_S + INTERVAL_S]
    assert late == [at for at in quiet if at >= late[0]]


def test_losses_everywhere_ask_for_no_more_than_the_plan_s_own_rate_again() -> None:
    """Three hundred paths that lose now and then: bursts and doubts together never double what the plan asks."""
    draw = random.Random(4)
    lost = {(path, nth) for path in range(300) for nth in range(1, 400) if draw.random() < 0.2}
    times = sorted(at for path in asked(300, lost, 300.0) for at in path)
    assert len(times) <= 2 * 300 * 300.0 / INTERVAL_S + 30


def test_what_fails_comes_before_what_only_did() -> None:
    """Doubts leave half of the purse to those that fail now."""
    schedule = Schedule("node-a", 100.0, 0.0)
    schedule.set_tasks([task(0)])
    doubting = [runner_of(task(number)) for number in range(30)]
    for runner in doubting:
        runner.failing, runner.doubt = False, DOUBT
        schedule.retry(runner, 0.0, changed=False)
    failing = runner_of(task(30))
    failing.failing = True
    schedule.retry(failing, 0.0, changed=False)
    due = [runner for runner, _, _ in schedule.pop_due(schedule.tick_of(RETRY_S), RETRY_S)]
    assert failing in due
    assert 1 < len(due) < len(doubting)
