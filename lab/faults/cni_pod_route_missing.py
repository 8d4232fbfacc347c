"""Takes the routes out of a pod."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError


async def make(bench: Bench, on: str) -> Broken:
    """Delete the IPv4 routes by a gateway in the endpoint pod of a node: the default route, and flannel's own."""
    node = bench.node(on)
    other = bench.other(node)
    name = await bench.pod_on(node.name)
    pod = await bench.object("pods", name, "pod/", name)
    inside = bench.pod_netns(pod)
    routes = [line.split() for line in (await bench.run(inside, ["ip", "-4", "route", "show"])).splitlines()]
    outward = [words for words in routes if "via" in words]
    if not outward:
        raise FaultError(f"{name} has no route by a gateway that could be deleted")
    for words in outward:
        await bench.run(inside, ["ip", "-4", "route", "del", words[0]])
    meta = pod["metadata"]
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{name} has no route out",
        expected=(
            Expected(
                code=FAULT.code,
                kind="route",
                node=node.name,
                namespace=meta["namespace"],
                name=f"{meta['name']}/default",
            ),
        ),
        probe=(await bench.pod_on(other.name), name, "--proto", "udp", "--family", "4"),
        undo=tuple(Command(inside, ("ip", "-4", "route", "add", *words)) for words in outward),
    )


FAULT = Fault(code="cni.pod_route_missing", title="a pod has no route out", target="node/NAME", make=make)
