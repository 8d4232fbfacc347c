"""Lets a Service send to a port on which nothing listens."""

from __future__ import annotations

from lab.fault import Bench, Broken, Expected, Fault, Patch

PATH = "/spec/ports/0/targetPort"


async def make(bench: Bench, on: str) -> Broken:
    """Change the targetPort of the Service's first port."""
    service = await bench.object("services", on, "svc/", "shop/cart")
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    was = service["spec"]["ports"][0]["targetPort"]
    wrong = 8999 if was != 8999 else 8998
    await bench.api.patch(
        "services", name, [{"op": "replace", "path": PATH, "value": wrong}], namespace, patch_type="json"
    )
    return Broken(
        code=FAULT.code,
        on=f"svc/{namespace}/{name}",
        says=f"Service {namespace}/{name} sends to port {wrong}, where nothing listens",
        expected=(Expected(code=FAULT.code, kind="Service", namespace=namespace, name=name),),
        probe=("pod/shop/frontend", f"svc/{namespace}/{name}"),
        undo=(Patch("services", namespace, name, [{"op": "replace", "path": PATH, "value": was}]),),
    )


FAULT = Fault(
    code="service.target_port_mismatch", title="a Service's targetPort is wrong", target="svc/NS/NAME", make=make
)
