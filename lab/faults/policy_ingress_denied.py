"""Misspells the label from which a policy lets pods in."""

from __future__ import annotations

from lab.fault import Bench, Broken, Expected, Fault, Patch

PATH = "/spec/ingress/0/from/0/podSelector/matchLabels/app"


async def make(bench: Bench, on: str) -> Broken:
    """Change the last letter of the app that the policy's first rule lets in."""
    policy = await bench.object("networking/networkpolicies", on, "networkpolicy/", "shop/checkout-from-frontend")
    namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
    was = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app"]
    wrong = was[:-1] + ("t" if was[-1] != "t" else "d")
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
        says=f"NetworkPolicy {namespace}/{name} lets app={wrong} in, which is {was} misspelled",
        expected=(Expected(code=FAULT.code, kind="NetworkPolicy", namespace=namespace, name=name),),
        probe=("pod/shop/frontend", "svc/shop/checkout"),
        undo=(Patch("networking/networkpolicies", namespace, name, [{"op": "replace", "path": PATH, "value": was}]),),
        exit_code=0,
        opens=False,
    )


FAULT = Fault(
    code="policy.ingress_denied",
    title="a policy lets in a label that is misspelled",
    target="networkpolicy/NS/NAME",
    make=make,
)
