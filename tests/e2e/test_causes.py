"""Every fault of the switchboard and the breaks by hand, on a real Kubernetes: the right cause, the right object."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import switchboard
from lab.fault import all_faults
from lab.spec import LabSpec
from tests.e2e.conftest import COMBINATIONS
from tests.lab.test_causes import HANDS, ByHand, ByTwin
from tests.lab.watched import CLEARED_S, OneAtATime, Watched


def spec_of(kind: tuple[str, str]) -> LabSpec:
    """The lab of a combination."""
    return LabSpec(f"w{os.getpid()}", cni=kind[0], proxy=kind[1], control_plane="kubernetes")


@pytest.fixture(scope="module")
def labs(built: None) -> Iterator[OneAtATime]:
    """The labs of this module."""
    kept = OneAtATime()
    yield kept
    kept.end()


@pytest.fixture
def watched(request: pytest.FixtureRequest, labs: OneAtATime) -> Watched:
    """A watched lab of the combination that is asked for, healthy at the start."""
    return labs.of(spec_of(request.param))


@pytest.fixture(autouse=True)
def healthy(watched: Watched) -> Iterator[None]:
    """Every test begins and ends in a lab without fault."""
    watched.wait_healthy(CLEARED_S)
    yield
    asyncio.run(switchboard.heal(watched.plan, Path(watched.state.kubeconfig)))


def drills() -> list[object]:
    """Every fault that applies, and the breaks by hand, each in one of the labs that it applies to."""
    found: list[object] = []
    for kind in COMBINATIONS:
        found += [
            pytest.param(kind, ByTwin(fault.code), id=f"{kind[0]}-{fault.code}")
            for fault in all_faults()
            if fault.applies(spec_of(kind))
        ]
        for number, hand in enumerate(HANDS):
            kinds = [one for one in COMBINATIONS if one[0] in hand.cnis]
            if kinds and kinds[number % len(kinds)] == kind:
                found.append(pytest.param(kind, hand, id=f"{kind[0]}-by hand-{hand.name}"))
    return found


@pytest.mark.parametrize(("watched", "drill"), drills(), indirect=["watched"])
def test_what_is_broken_on_a_real_kubernetes_is_named_and_clears(watched: Watched, drill: ByTwin | ByHand) -> None:
    """The right cause on the very object that was broken, nothing beside it; and all is clear after healing."""
    drill.run(watched)
    watched.wait_healthy(CLEARED_S)
