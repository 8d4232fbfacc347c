"""Takes a node's enforcement of policies out of the way, as it is where nothing ever wrote it, or where it was flushed.

What enforces writes its rules when policies or pods change, so that they stay away meanwhile.
"""

from __future__ import annotations

import re
import shlex

from lab.fault import Bench, Command, FaultError
from lab.spec import NodeSpec

JUMP = re.compile(r"-A (FORWARD|INPUT|OUTPUT) .*-j (KUBE-ROUTER-|cali-)\1$")


async def take_away(bench: Bench, node: NodeSpec) -> tuple[Command, ...]:
    """Delete the jumps into the enforcement's chains in both families; the commands that put them back."""
    undo = []
    for program in ("iptables", "ip6tables"):
        for chain in ("FORWARD", "INPUT", "OUTPUT"):
            for line in (await bench.run(node.netns, [program, "-S", chain])).splitlines():
                if JUMP.match(line):
                    _, _, *rule = shlex.split(line)
                    await bench.run(node.netns, [program, "-D", chain, *rule])
                    undo.append(Command(node.netns, (program, "-I", chain, "1", *rule)))
    if not undo:
        raise FaultError(f"nothing on {node.name} enforces policies")
    return tuple(undo)


async def unchecked(bench: Bench, node: NodeSpec) -> tuple[str, ...]:
    """Arguments of a probe that policy forbids and that this node alone has to stop."""
    for pod in await bench.api.list("pods"):
        meta, spec = pod["metadata"], pod["spec"]
        ports = [p for c in spec["containers"] for p in c.get("ports", ()) if p.get("protocol", "TCP") == "TCP"]
        if spec.get("nodeName") == node.name and meta["namespace"] in {"shop", "pay"} and ports:
            if meta["labels"].get("app") == "frontend":
                continue
            source = await bench.pod_on(bench.other(node).name)
            target = f"pod/{meta['namespace']}/{meta['name']}"
            return source, target, "--proto", "tcp", "--port", str(ports[0]["containerPort"])
    raise FaultError(f"no pod on {node.name} is subject to a policy of the sample")
