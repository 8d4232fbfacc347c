"""Fixtures: a network of three hosts with a controller in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.bed import FakeController, Net, controller, network


@dataclass
class Bed:
    """Hosts a and b, the controller's host, and the folder with CA and token."""

    net: Net
    a: str
    b: str
    ctl: str
    controller: FakeController
    folder: Path


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """An empty network, kept for the module."""
    with network() as made:
        yield made


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    """Hosts a (10.9.0.2), b (10.9.0.3) and the controller's (10.9.0.1)."""
    with network() as made:
        ctl, a, b = made.add("ctl", 1), made.add("a", 2), made.add("b", 3)
        async with controller(ctl, "10.9.0.1", tmp_path) as fake:
            yield Bed(made, a, b, ctl, fake, tmp_path)
