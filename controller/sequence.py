"""Which sequence numbers of one agent run were taken already. Memory is bounded."""

from __future__ import annotations

from typing import Final

KEPT: Final = 4096


class SequenceSet:
    """The newest KEPT numbers that were taken; what is older than all that were ever let go counts as taken."""

    __slots__ = ("_floor", "_missed", "_taken")

    def __init__(self) -> None:
        """Nothing was taken; the first number may be any, since the controller may be younger than the agent."""
        self._floor = -1
        self._missed = 0
        self._taken: set[int] = set()

    @property
    def missing(self) -> int:
        """How many numbers between the first and the newest that were taken have not come."""
        if not self._taken:
            return self._missed
        first = min(self._taken) if self._floor < 0 else self._floor + 1
        return self._missed + max(self._taken) - first + 1 - len(self._taken)

    def add(self, number: int) -> bool:
        """Takes a number; False if it was taken before."""
        if number <= self._floor or number in self._taken:
            return False
        self._taken.add(number)
        if len(self._taken) > KEPT:
            ordered = sorted(self._taken)
            first = ordered[0] if self._floor < 0 else self._floor + 1
            self._floor = ordered[KEPT // 2 - 1]
            self._missed += self._floor - first + 1 - KEPT // 2
            self._taken = set(ordered[KEPT // 2 :])
        return True
