"""Brings a node's kernel to a rule set: the input and output for `lab.restore`.

It writes only what changed since its last write, so that counters live on and a rule that somebody breaks by hand
stays broken until the chain it stands in changes, or until the process starts anew, when everything is written.
Must not decide what rules there should be.
"""

import asyncio
import fcntl
import logging
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lab import netns
from lab.restore import RuleSet, changed_restore, full_restore, parse_saved

RESTORE_TIMEOUT_S = 20.0
LOCK_TIMEOUT_S = 20.0
MAX_CHILDREN = 4

log = logging.getLogger(__name__)


class Children:
    """Runs commands in namespaces, no more than MAX_CHILDREN at once for the whole process."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_CHILDREN)

    async def run(self, name: str, argv: list[str], stdin: str | None = None, check: bool = True) -> str:
        """Return standard output; NetnsError where it fails or takes longer than RESTORE_TIMEOUT_S."""
        async with self._slots:
            done = await netns.run(name, argv, stdin, RESTORE_TIMEOUT_S, check)
            return done.stdout


@asynccontextmanager
async def exclusive(name: str) -> AsyncIterator[None]:
    """Hold the lock that owners of rules take in a namespace while they read positions and insert jumps.

    It lies on the namespace's own file, so that programs which share nothing else respect one another.
    Raises NetnsError where there is no such namespace or the lock is not free after LOCK_TIMEOUT_S.
    """
    try:
        handle = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise netns.NetnsError(f"network namespace {name}: {error.strerror}") from None
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise netns.NetnsError(f"rules of {name} are locked for {LOCK_TIMEOUT_S:g} s") from None
                await asyncio.sleep(0.01)
        yield
    finally:
        os.close(handle)


class ChainKeeper:
    """One owner's chains in one node's namespace and one family (4 or 6)."""

    def __init__(
        self, children: Children, name: str, family: int, owned: re.Pattern[str], behind: re.Pattern[str]
    ) -> None:
        """`owned` and `behind` as for `full_restore`."""
        self._children = children
        self._name = name
        self._program = "iptables-nft" if family == 4 else "ip6tables-nft"
        self._owned = owned
        self._behind = behind
        self._applied: RuleSet | None = None

    @property
    def fresh(self) -> bool:
        """True until the first whole write has succeeded."""
        return self._applied is None

    async def apply(self, wanted: RuleSet) -> bool:
        """Write what changed; return whether anything did. Raises NetnsError where the kernel refuses."""
        if self._applied is not None:
            text = changed_restore(wanted, self._applied)
            if not text:
                return False
            try:
                await self._restore(text)
            except netns.NetnsError as error:
                # A chain that we rely on is not as we left it: find out and write everything.
                log.warning("%s: %s", self._name, error)
                self._applied = None
            else:
                self._applied = wanted
                return True
        async with exclusive(self._name):
            saved = parse_saved(await self._children.run(self._name, [f"{self._program}-save"]))
            await self._restore(full_restore(wanted, saved, self._owned, self._behind))
        self._applied = wanted
        return True

    async def _restore(self, text: str) -> None:
        await self._children.run(self._name, [f"{self._program}-restore", "-w", "5", "--noflush"], text)
