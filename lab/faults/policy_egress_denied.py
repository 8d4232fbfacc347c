"""Has a policy let pods out to the wrong port."""

from __future__ import annotations

from lab.fault import Bench, Broken, Expected, Fault, Patch

PATH = "/spec/egress/0/ports/0/port"


async def make(bench: Bench, on: str) -> Broken:
    """Add one to the port of the policy's first egress rule."""
    policy = await bench.object("networking/networkpolicies", on, "networkpolicy/", "pay/payments-egress")
    namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
    was = policy["spec"]["egress"][0]["ports"][0]["port"]
    wrong = int(was) + 1
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
        says=f"NetworkPolicy {namespace}/{name} lets pods out to port {wrong} instead of {was}",
        expected=(Expected(code=FAULT.code, kind="NetworkPolicy", namespace=namespace, name=name),),
        probe=("pod/pay/payments", "svc/pay/ledger:5432"),
        undo=(Patch("networking/networkpolicies", namespace, name, [{"op": "replace", "path": PATH, "value": was}]),),
        exit_code=0,
        opens=False,
    )


FAULT = Fault(
    code="policy.egress_denied", title="a policy lets out to the wrong port", target="networkpolicy/NS/NAME", make=make
)
