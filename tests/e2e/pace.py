"""Two processes with a lab each on one small machine: what loads it all, and what must happen in time, take turns.

A drill waits for a cause to be named, and a law of disturbances for a while without blame: neither says anything where
the other lane brings up four nodes at that moment. Two loud lanes, or two timed ones, do not disturb each other.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path


class Pace:
    """One lane's part: it says when it is loud, and waits for the others before what is timed.

    A lane's file is locked whole while it is loud, and shared by the others while they are timed. Who is loud holds no
    other lock, so that nobody waits in a circle.
    """

    def __init__(self, folder: Path, lane: str, lanes: Sequence[str]) -> None:
        """`lanes` are all that there are; `lane` need not be among them, if this process has them all."""
        folder.mkdir(parents=True, exist_ok=True)
        self._mine = folder / lane
        self._others = [folder / name for name in sorted(lanes) if name != lane]
        self._held: ExitStack | None = None
        self._is_loud = False

    @contextmanager
    def timed(self) -> Iterator[None]:
        """No other lane is loud meanwhile; `loud` within it gives the others way, and comes back."""
        self._hold()
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def loud(self) -> Iterator[None]:
        """No other lane is timed meanwhile."""
        if self._is_loud:
            yield
            return
        was_timed = self._held is not None
        self._release()
        try:
            with _locked(self._mine, fcntl.LOCK_EX):
                self._is_loud = True
                yield
        finally:
            self._is_loud = False
            if was_timed:
                self._hold()

    def _hold(self) -> None:
        with ExitStack() as stack:
            for path in self._others:
                stack.enter_context(_locked(path, fcntl.LOCK_SH))
            self._held = stack.pop_all()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """A lock that is waited for in a queue: who came first is not overtaken by those who may share it."""
    with path.with_suffix(".queue").open("w") as queue, path.open("w") as file:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(file, how)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield
