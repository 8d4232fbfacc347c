"""Gives the pods behind a Service a readiness probe that never succeeds."""

from __future__ import annotations

from lab.fault import Bench, Broken, Expected, Fault, FaultError, Patch

PROBE = "/spec/template/spec/containers/0/readinessProbe"
STRATEGY = "/spec/strategy"


async def make(bench: Bench, on: str) -> Broken:
    """Have the Deployment behind the Service make its pods anew, with a probe of a port on which nothing listens."""
    service = await bench.object("services", on, "svc/", "shop/cart")
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    wanted = (service["spec"].get("selector") or {}).items()
    for deployment in await bench.api.list("apps/deployments", namespace):
        spec = deployment["spec"]
        if wanted and wanted <= (spec["template"]["metadata"].get("labels") or {}).items():
            break
    else:
        raise FaultError(f"no Deployment stands behind svc/{namespace}/{name}")
    owner = deployment["metadata"]["name"]
    was = spec["template"]["spec"]["containers"][0].get("readinessProbe")
    never = {"tcpSocket": {"port": 1}, "periodSeconds": 1}
    # rolling, the old pods would stay until the new ones are Ready, which is never
    steps: list[dict[str, object]] = [
        {"op": "add", "path": STRATEGY, "value": {"type": "Recreate"}},
        {"op": "add", "path": PROBE, "value": never},
    ]
    back: list[dict[str, object]] = [
        {"op": "add", "path": STRATEGY, "value": spec.get("strategy") or {"type": "RollingUpdate"}},
        {"op": "add", "path": PROBE, "value": was} if was else {"op": "remove", "path": PROBE},
    ]
    await bench.api.patch("apps/deployments", owner, steps, namespace, patch_type="json")
    return Broken(
        code=FAULT.code,
        on=f"svc/{namespace}/{name}",
        says=f"no pod behind Service {namespace}/{name} becomes Ready",
        expected=(Expected(code=FAULT.code, kind="Service", namespace=namespace, name=name),),
        probe=("pod/shop/frontend", f"svc/{namespace}/{name}"),
        undo=(Patch("apps/deployments", namespace, owner, back),),
    )


FAULT = Fault(
    code="service.endpoints_not_ready",
    title="no pod behind a Service is Ready",
    target="svc/NS/NAME",
    make=make,
)
