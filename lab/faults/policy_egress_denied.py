"""Has a policy let pods out to the wrong port."""

from __future__ import annotations

from lab.fault import Bench, Broken, Fault
from lab.policies import Spoil, spoil

WAY = Spoil(
    code="policy.egress_denied",
    default="pay/payments-egress",
    path="/spec/egress/0/ports/0/port",
    wrong=lambda was: int(was) + 1,
    says="{policy} lets pods out to port {wrong} instead of {was}",
    probe=("pod/pay/payments", "svc/pay/ledger:5432"),
    opens=False,
)


async def make(bench: Bench, on: str) -> Broken:
    """Add one to the port of the policy's first egress rule."""
    return await spoil(bench, on, WAY)


FAULT = Fault(code=WAY.code, title="a policy lets out to the wrong port", target="networkpolicy/NS/NAME", make=make)
