"""Takes the routes out of a pod."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError
from lab.links import endpoint_on


async def make(bench: Bench, on: str) -> Broken:
    """Delete the IPv4 routes by a gateway in the endpoint pod of a node: the default route, and flannel's own."""
    pod = await endpoint_on(bench, on)
    node = pod.node
    routes = [line.split() for line in (await bench.run(pod.netns, ["ip", "-4", "route", "show"])).splitlines()]
    outward = [words for words in routes if "via" in words]
    if not outward:
        raise FaultError(f"{pod.asked} has no route by a gateway that could be deleted")
    for words in outward:
        await bench.run(pod.netns, ["ip", "-4", "route", "del", words[0]])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{pod.asked} has no route out",
        expected=(
            Expected(
                code=FAULT.code,
                kind="route",
                node=node.name,
                namespace=pod.namespace,
                name=f"{pod.name}/default",
            ),
        ),
        probe=pod.probe,
        undo=tuple(Command(pod.netns, ("ip", "-4", "route", "add", *words)) for words in outward),
    )


FAULT = Fault(code="cni.pod_route_missing", title="a pod has no route out", target="node/NAME", make=make)
