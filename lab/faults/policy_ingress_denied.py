"""Misspells the label from which a policy lets pods in."""

from __future__ import annotations

from lab.fault import Bench, Broken, Fault
from lab.policies import Spoil, spoil

WAY = Spoil(
    code="policy.ingress_denied",
    default="shop/checkout-from-frontend",
    path="/spec/ingress/0/from/0/podSelector/matchLabels/app",
    wrong=lambda was: was[:-1] + ("t" if was[-1] != "t" else "d"),
    says="{policy} lets app={wrong} in, which is {was} misspelled",
    probe=("pod/shop/frontend", "svc/shop/checkout"),
    opens=False,
)


async def make(bench: Bench, on: str) -> Broken:
    """Change the last letter of the app that the policy's first rule lets in."""
    return await spoil(bench, on, WAY)


FAULT = Fault(
    code=WAY.code, title="a policy lets in a label that is misspelled", target="networkpolicy/NS/NAME", make=make
)
