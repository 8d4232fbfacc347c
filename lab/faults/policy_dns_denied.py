"""Has a policy let pods out to everything of the DNS servers but port 53."""

from __future__ import annotations

from lab.fault import Bench, Broken, Fault
from lab.policies import Spoil, spoil

WAY = Spoil(
    code="policy.dns_denied",
    default="pay/dns",
    path="/spec/egress/0/ports",
    wrong=lambda _: [{"protocol": "TCP", "port": 443}],
    says="{policy} lets pods out, but not to port 53",
    probe=("pod/pay/payments", "dns/ledger.pay.svc.cluster.local"),
)


async def make(bench: Bench, on: str) -> Broken:
    """Replace the ports of the policy's first egress rule, which were those of DNS."""
    return await spoil(bench, on, WAY)


FAULT = Fault(code=WAY.code, title="an egress policy forgets port 53", target="networkpolicy/NS/NAME", make=make)
