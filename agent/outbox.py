"""Observations on their way to the controller: batched, numbered, kept until acknowledged, bounded.

What is dropped is only ever what has not been sent yet, so a dropped observation is lost for certain and is counted
once. Pure: the uplink does the sending.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from model.probes import Observation
from model.protocol import Batch

MAX_OBSERVATIONS: Final = 20_000
MAX_BATCH: Final = 500
MAX_UNACKED: Final = 4_000


class Outbox:
    """First in, first out. Sequence numbers begin at 1 with every run of the agent."""

    def __init__(
        self, max_observations: int = MAX_OBSERVATIONS, max_batch: int = MAX_BATCH, max_unacked: int = MAX_UNACKED
    ) -> None:
        self._pending: deque[Observation] = deque()
        self._unacked: deque[Batch] = deque()
        self._unsent = 0
        self._sequence = 0
        self._unacked_count = 0
        self._max = max_observations
        self._max_batch = max_batch
        self._max_unacked = max_unacked
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._pending) + self._unacked_count

    def add(self, observation: Observation) -> None:
        """Take an observation; the oldest that was never sent makes room for it where there is none."""
        self._pending.append(observation)
        if len(self._pending) + self._unacked_count > self._max:
            self._pending.popleft()
            self.dropped += 1

    def rewind(self) -> None:
        """A new connection: everything that was not acknowledged is to be sent again, under the same numbers."""
        self._unsent = len(self._unacked)

    def next_batch(self) -> Batch | None:
        """The next batch to send; None where there is none, or too much is under way without acknowledgement."""
        if self._unsent:
            batch = self._unacked[-self._unsent]
            self._unsent -= 1
            return batch
        if not self._pending or self._unacked_count >= self._max_unacked:
            return None
        count = min(len(self._pending), self._max_batch)
        self._sequence += 1
        observations = tuple(self._pending.popleft() for _ in range(count))
        batch = Batch(sequence=self._sequence, observations=observations, dropped=self.dropped)
        self._unacked.append(batch)
        self._unacked_count += count
        return batch

    def acknowledge(self, sequence: int) -> None:
        """Forget a batch; an unknown number is that of one acknowledged before."""
        for index, batch in enumerate(self._unacked):
            if batch.sequence == sequence:
                if len(self._unacked) - index <= self._unsent:
                    # Acknowledged before it was sent again, by way of the former connection.
                    self._unsent -= 1
                del self._unacked[index]
                self._unacked_count -= len(batch.observations)
                return
