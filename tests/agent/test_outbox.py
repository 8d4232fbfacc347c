"""The outbox by itself: bounded, counted, in order, nothing forgotten before it is acknowledged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.outbox import Outbox
from model.probes import Observation
from model.words import Outcome


def _observation(number: int) -> Observation:
    return Observation(task=str(number), at_ms=number, outcome=Outcome.OK)


def test_overflow_drops_the_oldest_and_counts_it() -> None:
    """A full outbox keeps the newest observations and says how many are missing."""
    outbox = Outbox(max_observations=10, max_batch=4)
    for number in range(25):
        outbox.add(_observation(number))
    assert len(outbox) == 10
    first = outbox.next_batch()
    assert first is not None
    assert [o.at_ms for o in first.observations] == [15, 16, 17, 18]
    assert first.dropped == outbox.dropped == 15


def test_unacknowledged_window_is_bounded() -> None:
    """More than the window is not sent before the controller has acknowledged."""
    outbox = Outbox(max_batch=2, max_unacked=4)
    for number in range(9):
        outbox.add(_observation(number))
    sent = [batch for _ in range(5) if (batch := outbox.next_batch())]
    assert [batch.sequence for batch in sent] == [1, 2]
    outbox.acknowledge(1)
    third = outbox.next_batch()
    assert third is not None
    assert third.sequence == 3


@given(st.lists(st.sampled_from(["add", "send", "lose", "ack", "stale"]), max_size=200))
def test_every_observation_is_taken_once_or_counted_as_dropped(steps: list[str]) -> None:
    """In whatever order it sends, breaks and acknowledges: taken and dropped are all there was, in order."""
    outbox = Outbox(max_observations=12, max_batch=3, max_unacked=6)
    taken: dict[int, tuple[int, ...]] = {}
    unacknowledged: list[int] = []
    made = 0
    for step in steps:
        if step == "add":
            outbox.add(_observation(made))
            made += 1
        elif step == "send":
            batch = outbox.next_batch()
            if batch is not None:
                numbers = tuple(o.at_ms for o in batch.observations)
                assert taken.setdefault(batch.sequence, numbers) == numbers
                unacknowledged.append(batch.sequence)
        elif step == "lose":
            outbox.rewind()
        elif step == "ack" and unacknowledged:
            outbox.acknowledge(unacknowledged.pop(0))
        elif step == "stale":
            outbox.acknowledge(-1)
    outbox.rewind()
    for _ in range(500):
        batch = outbox.next_batch()
        if batch is None:
            break
        taken.setdefault(batch.sequence, tuple(o.at_ms for o in batch.observations))
        outbox.acknowledge(batch.sequence)
    assert len(outbox) == 0
    arrived = [number for sequence in sorted(taken) for number in taken[sequence]]
    assert arrived == sorted(set(arrived))
    assert len(arrived) + outbox.dropped == made
