"""The same causes broken by hand in another way: the right one, the right object, and all is clear after mending."""

from __future__ import annotations

import pytest

from tests.lab.by_hand import HANDS, ByHand
from tests.lab.drills import EVERYWHERE, LABS
from tests.lab.watched import CLEARED_S, Watched


def drills() -> list[object]:
    """Lab by lab; each is made in one of them, dealt out in turn, with KUBEREACH_DRILLS=all in each."""
    found: list[object] = []
    for kind in LABS:
        for number, hand in enumerate(HANDS):
            kinds = [k for k in LABS if k[0] in hand.cnis]
            if kind in (kinds if EVERYWHERE else [kinds[number % len(kinds)]]):
                found.append(pytest.param(kind, hand, id=f"{kind[0]}-{hand.name}"))
    return found


@pytest.mark.parametrize(("drilled", "drill"), drills(), indirect=["drilled"])
def test_what_is_broken_by_hand_is_named_and_clears(drilled: Watched, drill: ByHand) -> None:
    """The right cause on the very object that was broken, nothing beside it; and all is clear after mending."""
    drill.run(drilled)
    drilled.wait_healthy(CLEARED_S)
