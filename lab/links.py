"""What the faults of links share: the cable of a pod, and what the kernel forgets of a device that goes down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lab.fault import Bench, Command, FaultError
from lab.spec import LabSpec, NodeSpec

Device = dict[str, Any]


def bridged(spec: LabSpec) -> bool:
    """Whether the pods of such a lab's nodes are plugged into a bridge."""
    return spec.cni.startswith("flannel")


@dataclass(frozen=True, slots=True)
class EndpointPod:
    """The endpoint pod of a node: as one asks for it, as the API names it, its network namespace, and the arguments of
    `kubereach probe` that show from another node what is wrong with it.
    """

    node: NodeSpec
    asked: str
    namespace: str
    name: str
    netns: str
    probe: tuple[str, ...]


async def endpoint_on(bench: Bench, on: str) -> EndpointPod:
    """The endpoint pod of the node that `on` names; FaultError in a lab of one node."""
    node = bench.node(on)
    other = bench.other(node)
    asked = await bench.pod_on(node.name)
    pod = await bench.object("pods", asked, "pod/", asked)
    return EndpointPod(
        node=node,
        asked=asked,
        namespace=pod["metadata"]["namespace"],
        name=pod["metadata"]["name"],
        netns=bench.pod_netns(pod),
        probe=(await bench.pod_on(other.name), asked, "--proto", "udp", "--family", "4"),
    )


async def cable_of(bench: Bench, pod: EndpointPod) -> Device:
    """The host's end of a pod's cable, as `ip -j link` has it; FaultError if there is none."""
    own = json.loads(await bench.run(pod.netns, ["ip", "-j", "link", "show", "eth0"]))[0]
    devices: list[Device] = json.loads(await bench.run(pod.node.netns, ["ip", "-j", "link", "show"]))
    found = next((d for d in devices if d["ifindex"] == own.get("link_index")), None)
    if found is None:
        raise FaultError(f"{pod.asked} has no cable to {pod.node.name}")
    return found


async def bridge_of(bench: Bench, pod: EndpointPod) -> str:
    """The bridge that a pod's cable is plugged into, by name; FaultError if there is none."""
    bridge = (await cable_of(bench, pod)).get("master", "")
    if not bridge:
        raise FaultError(f"the cable of {pod.asked} is plugged into no bridge of {pod.node.name}")
    return str(bridge)


async def lost_with(bench: Bench, node: NodeSpec, device: str) -> tuple[Command, ...]:
    """What brings back the addresses, routes and neighbour entries that a device loses when it is set down."""
    lost: list[tuple[str, ...]] = []
    for found in json.loads(await bench.run(node.netns, ["ip", "-6", "-j", "addr", "show", "dev", device])):
        held = (f"{a['local']}/{a['prefixlen']}" for a in found.get("addr_info", ()) if a.get("scope") == "global")
        lost += (("ip", "-6", "addr", "replace", address, "dev", device, "nodad") for address in held)
    for family in ("-4", "-6"):
        routes = (await bench.run(node.netns, ["ip", family, "route", "show", "dev", device])).splitlines()
        own = (line.split() for line in routes if "proto kernel" not in line and not line.startswith("fe80"))
        lost += (("ip", family, "route", "replace", *words, "dev", device) for words in own if words)
        for entry in json.loads(await bench.run(node.netns, ["ip", family, "-j", "neigh", "show", "dev", device])):
            if "PERMANENT" in entry.get("state", ()):
                words = (entry["dst"], "lladdr", entry["lladdr"], "dev", device, "nud", "permanent")
                lost.append(("ip", family, "neigh", "replace", *words))
    return tuple(Command(node.netns, argv) for argv in lost)
