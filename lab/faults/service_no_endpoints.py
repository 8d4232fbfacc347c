"""Misspells a Service's selector."""

from __future__ import annotations

from lab.fault import Bench, Broken, Expected, Fault, Patch


async def make(bench: Bench, on: str) -> Broken:
    """Change one value of the selector, so that it matches no pod."""
    service = await bench.object("services", on, "svc/", "shop/cart")
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    selector = dict(service["spec"]["selector"])
    key = sorted(selector)[0]
    wrong = {**selector, key: selector[key][:-1] + ("x" if selector[key][-1] != "x" else "y")}
    await bench.api.patch(
        "services", name, [{"op": "replace", "path": "/spec/selector", "value": wrong}], namespace, patch_type="json"
    )
    return Broken(
        code=FAULT.code,
        on=f"svc/{namespace}/{name}",
        says=f"Service {namespace}/{name} selects {key}={wrong[key]}, which no pod has",
        expected=(Expected(code=FAULT.code, kind="Service", namespace=namespace, name=name),),
        probe=("pod/shop/frontend", f"svc/{namespace}/{name}"),
        undo=(Patch("services", namespace, name, [{"op": "replace", "path": "/spec/selector", "value": selector}]),),
    )


FAULT = Fault(code="service.no_endpoints", title="a Service selects no pod", target="svc/NS/NAME", make=make)
