"""Every fault of the switchboard and the breaks by hand, on a real Kubernetes: the right cause, the right object."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import switchboard
from lab.fault import all_faults
from tests.e2e.conftest import COMBINATIONS, spec_of
from tests.e2e.installed import Installed
from tests.lab.by_hand import HANDS, ByHand
from tests.lab.drills import ALIKE, ByTwin, dealt
from tests.lab.watched import CLEARED_S

# Neither Services nor DNS nor the lab's enforcement of policies know how packets travel between nodes.
ANYWHERE = ("service.", "dns.", "policy.")
# Without a tunnel, flannel looks at its routes every 10 s and puts a missing one back.
NOT_HERE = {"flannel-host-gw": {"IPv6 route to the pods gone"}}


@pytest.fixture(autouse=True)
def healthy(installed: Installed) -> Iterator[None]:
    """Every test begins and ends in a lab without fault, with the controller where none cuts it off."""
    installed.pin()
    installed.wait_healthy(CLEARED_S)
    yield
    asyncio.run(switchboard.heal(installed.plan, Path(installed.state.kubeconfig)))


def drills() -> list[object]:
    """Every fault, in both labs where it may look different there; and the breaks by hand, each in one of the labs."""
    found: list[object] = []
    for kind in COMBINATIONS:
        for fault in all_faults():
            kinds = [one for one in COMBINATIONS if fault.applies(spec_of(one))]
            if kinds and (fault.code in ALIKE or fault.code.startswith(ANYWHERE)):
                kinds = dealt(fault.code, kinds)
            if kind in kinds:
                found.append(pytest.param(kind, ByTwin(fault.code), id=f"{kind[0]}-{fault.code}"))
        for number, hand in enumerate(HANDS):
            kinds = [k for k in COMBINATIONS if k[0] in hand.cnis and hand.name not in NOT_HERE.get(k[0], ())]
            if kinds and kinds[number % len(kinds)] == kind:
                found.append(pytest.param(kind, hand, id=f"{kind[0]}-by hand-{hand.name}"))
    return found


@pytest.mark.parametrize(("installed", "drill"), drills(), indirect=["installed"])
def test_what_is_broken_on_a_real_kubernetes_is_named_and_clears(installed: Installed, drill: ByTwin | ByHand) -> None:
    """The right cause on the very object that was broken, nothing beside it; and all is clear after healing."""
    drill.run(installed)
    installed.wait_healthy(CLEARED_S)
