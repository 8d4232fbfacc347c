"""Has a policy let pods out to everything of the DNS servers but port 53."""

from __future__ import annotations

from lab.fault import Bench, Broken, Expected, Fault, Patch

PATH = "/spec/egress/0/ports"
PORTS = [{"protocol": "TCP", "port": 443}]


async def make(bench: Bench, on: str) -> Broken:
    """Replace the ports of the policy's first egress rule, which were those of DNS."""
    policy = await bench.object("networking/networkpolicies", on, "networkpolicy/", "pay/dns")
    namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
    was, wrong = policy["spec"]["egress"][0]["ports"], PORTS
    await bench.api.patch(
        "networking/networkpolicies",
        name,
        [{"op": "replace", "path": PATH, "value": wrong}],
        namespace,
        patch_type="json",
    )
    return Broken(
        code=FAULT.code,
        on=f"networkpolicy/{namespace}/{name}",
        says=f"NetworkPolicy {namespace}/{name} lets pods out, but not to port 53",
        expected=(Expected(code=FAULT.code, kind="NetworkPolicy", namespace=namespace, name=name),),
        probe=("pod/pay/payments", "dns/ledger.pay.svc.cluster.local"),
        undo=(Patch("networking/networkpolicies", namespace, name, [{"op": "replace", "path": PATH, "value": was}]),),
        exit_code=0,
    )


FAULT = Fault(
    code="policy.dns_denied", title="an egress policy forgets port 53", target="networkpolicy/NS/NAME", make=make
)
