"""What the faults of a VXLAN tunnel share: which device it is, and its entry for another node."""

from __future__ import annotations

import json

from lab.fault import Bench, FaultError
from lab.spec import LabSpec, NodeSpec


def tunnelled(spec: LabSpec) -> bool:
    """Whether nodes of such a lab reach one another's pods by VXLAN."""
    return spec.nodes > 1 and spec.cni in {"flannel-vxlan", "calico"}


def tunnel_device(spec: LabSpec) -> str:
    """The VXLAN device of every node of such a lab."""
    return "vxlan.calico" if spec.cni == "calico" else "flannel.1"


async def entry_for(bench: Bench, node: NodeSpec, peer: NodeSpec, todo: str) -> tuple[str, str]:
    """MAC address and device of the entry of `node` that leads to `peer`; FaultError if none could be `todo`."""
    entries = json.loads(await bench.run(node.netns, ["bridge", "-j", "fdb", "show"]))
    device = tunnel_device(bench.topology.spec)
    mac = next((e["mac"] for e in entries if e.get("dst") == peer.ipv4 and e["ifname"] == device), "")
    if not mac:
        raise FaultError(f"{node.name} has no forwarding entry for {peer.ipv4} on {device} that could be {todo}")
    return mac, device
