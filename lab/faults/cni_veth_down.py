"""Sets the host's end of a pod's cable down."""

from __future__ import annotations

import json

from lab.fault import Bench, Broken, Command, Expected, Fault, FaultError


async def make(bench: Bench, on: str) -> Broken:
    """Set down the host's end of the endpoint pod's cable on a node."""
    node = bench.node(on)
    other = bench.other(node)
    name = await bench.pod_on(node.name)
    pod = await bench.object("pods", name, "pod/", name)
    own = json.loads(await bench.run(bench.pod_netns(pod), ["ip", "-j", "link", "show", "eth0"]))[0]
    devices = json.loads(await bench.run(node.netns, ["ip", "-j", "link", "show"]))
    device = next((d["ifname"] for d in devices if d["ifindex"] == own.get("link_index")), "")
    if not device:
        raise FaultError(f"{name} has no cable to {node.name}")
    routes = json.loads(await bench.run(node.netns, ["ip", "-j", "route", "show", "dev", device]))
    routes6 = json.loads(await bench.run(node.netns, ["ip", "-6", "-j", "route", "show", "dev", device]))
    await bench.run(node.netns, ["ip", "link", "set", device, "down"])
    lost: list[tuple[str, ...]] = [("ip", "route", "replace", r["dst"], "dev", device, "scope", "link") for r in routes]
    lost += [
        ("ip", "-6", "route", "replace", r["dst"], "dev", device) for r in routes6 if not r["dst"].startswith("fe80")
    ]
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{device} of {node.name}, the cable of {name}, is down",
        expected=(Expected(code=FAULT.code, kind="device", node=node.name, name=device),),
        probe=(await bench.pod_on(other.name), name, "--proto", "udp", "--family", "4"),
        undo=(
            Command(node.netns, ("ip", "link", "set", device, "up")),
            *(Command(node.netns, command) for command in lost),
        ),
    )


FAULT = Fault(code="cni.veth_down", title="the cable of a pod is down", target="node/NAME", make=make)
