"""Every fault of the switchboard: the right cause, the right object, nothing beside it, by itself and by `kubereach
probe`; and all is clear after healing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lab import switchboard
from lab.fault import FaultError, all_faults
from lab.spec import LabSpec
from tests.lab.drills import ALIKE, EVERYWHERE, LABS, ByTwin, Kind, dealt
from tests.lab.watched import CLEARED_S, Watched


def telling(code: str, kinds: list[Kind]) -> list[Kind]:
    """The labs in which a fault has a face of its own, of those that it applies to.

    Services and DNS are the same in all, and the rules of policies have one of two shapes.
    """
    if code in ALIKE or code.startswith(("service.", "dns.")):
        return dealt(code, kinds)
    return [kind for kind in kinds if kind != LABS[1]] if code.startswith("policy.") else kinds


def drills() -> list[object]:
    """Lab by lab the faults that may look different there; one that looks alike in several labs is made in one of them.

    With KUBEREACH_DRILLS=all each is made in each.
    """
    found: list[object] = []
    for kind in LABS:
        spec = LabSpec("any", cni=kind[0], proxy=kind[1])
        for fault in all_faults():
            kinds = [k for k in LABS if fault.applies(LabSpec("any", cni=k[0], proxy=k[1]))]
            if fault.applies(spec) and (EVERYWHERE or kind in telling(fault.code, kinds)):
                found.append(pytest.param(kind, ByTwin(fault.code), id=f"{kind[0]}-{fault.code}"))
    return found


@pytest.mark.parametrize(("drilled", "drill"), drills(), indirect=["drilled"])
def test_what_is_broken_is_named_and_clears(drilled: Watched, drill: ByTwin) -> None:
    """The right cause on the very object that was broken, nothing beside it; and all is clear after healing."""
    drill.run(drilled)
    drilled.wait_healthy(CLEARED_S)


@pytest.mark.parametrize("drilled", [LABS[1]], ids=["flannel-host-gw"], indirect=True)
def test_fault_that_does_not_apply_is_refused(drilled: Watched) -> None:
    """A tunnel cannot be broken where there is none; the refusal says so."""
    with pytest.raises(FaultError, match="does not apply"):
        asyncio.run(switchboard.break_it(drilled.plan, Path(drilled.state.kubeconfig), "cni.vtep_missing"))
