"""Changes of the host's network on their way to the controller: at once, once, and over a silence."""

from __future__ import annotations

import asyncio
import time

from model.journal import Change
from tests.agent.bed import agent, ip, until
from tests.agent.conftest import Bed


async def test_changes_of_the_network_are_told_at_once(bed: Bed) -> None:
    """A route that goes is told within two seconds, with the time at which it went, and not told again."""
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: bool(bed.controller.statuses), "a status")
        ip(bed.a, "route", "add", "10.244.2.0/24", "via", "10.9.0.3")
        await until(lambda: bool(_told(bed, "new")), "the route that came")
        at_ms = time.time() * 1000
        ip(bed.a, "route", "del", "10.244.2.0/24")
        await until(lambda: bool(_told(bed, "gone")), "the route that went")
        (gone,) = _told(bed, "gone")
        assert (gone.subject, gone.name, gone.says) == ("route", "10.244.2.0/24", "via 10.9.0.3 dev eth0")
        assert abs(gone.at_ms - at_ms) < 3000
        count = len(bed.controller.statuses)
        await until(lambda: len(bed.controller.statuses) > count, "another status")
        assert len(_told(bed, "gone")) == 1


def _told(bed: Bed, what: str) -> list[Change]:
    changes = (change for status in bed.controller.statuses for change in status.changes)
    return [change for change in changes if (change.what, change.name) == (what, "10.244.2.0/24")]


async def test_changes_are_kept_over_a_silence(bed: Bed) -> None:
    """What changes while the controller cannot be reached is told afterwards."""
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: bool(bed.controller.statuses), "a status")
        ip(bed.net.hub, "link", "set", "p-a", "down")
        ip(bed.a, "route", "add", "blackhole", "10.244.2.0/24")
        await asyncio.sleep(3)
        assert not _told(bed, "new")
        ip(bed.net.hub, "link", "set", "p-a", "up")
        await until(lambda: bool(_told(bed, "new")), "the route that came")
