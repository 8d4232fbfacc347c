"""One lab for each combination of network plugin and service proxy, one after the other, for the whole session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import switchboard
from lab.spec import CNIS, PROXIES, LabSpec
from tests.lab.labs import Lab
from tests.lab.watched import CLEARED_S, OneAtATime, Watched

COMBINATIONS = [(cni, proxy) for cni in CNIS for proxy in PROXIES]


@pytest.fixture(scope="session", params=COMBINATIONS, ids=["+".join(one) for one in COMBINATIONS])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab with the sample in it and without agents, in each combination."""
    cni, proxy = request.param
    up = Lab(LabSpec(f"t{os.getpid()}", cni=cni, proxy=proxy))
    yield up
    up.down()


@pytest.fixture(scope="session")
def one_lab() -> Iterator[Lab]:
    """A lab in the default combination, for what does not depend on it."""
    up = Lab(LabSpec(f"o{os.getpid()}"))
    yield up
    up.down()


@pytest.fixture(scope="module")
def labs() -> Iterator[OneAtATime[Watched]]:
    """The watched labs of a module, healthy when they are made."""
    kept = OneAtATime(Watched, Watched.wait_healthy)
    yield kept
    kept.end()


@pytest.fixture
def drilled(request: pytest.FixtureRequest, labs: OneAtATime[Watched]) -> Iterator[Watched]:
    """A watched lab of the network plugin and proxy that are asked for, without fault before the test and after it."""
    cni, proxy = request.param
    lab = labs.of(LabSpec(f"c{os.getpid()}", cni=cni, proxy=proxy))
    lab.wait_healthy(CLEARED_S)
    yield lab
    asyncio.run(switchboard.heal(lab.plan, Path(lab.state.kubeconfig)))
