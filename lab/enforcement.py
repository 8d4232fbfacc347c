"""Takes a node's enforcement of policies out of the way, as it is where nothing ever wrote it, or where it was flushed.

What enforces writes its rules when policies or pods change, so that they stay away meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import shlex

from lab.client import Object
from lab.fault import Bench, Command, FaultError
from lab.spec import NodeSpec

LOOKS, LOOK_S = 5, 0.7
JUMP = re.compile(r"-A (FORWARD|INPUT|OUTPUT) .*-j (KUBE-ROUTER-|cali-)\1$")


async def take_away(bench: Bench, node: NodeSpec) -> tuple[Command, ...]:
    """Delete the jumps into the enforcement's chains in both families; the commands that put them back.

    A change of a moment ago may still be on its way into the rules, and bring them back: they are looked at again.
    """
    undo = await _delete(bench, node)
    if not undo:
        raise FaultError(f"nothing on {node.name} enforces policies")
    for _ in range(LOOKS):
        await asyncio.sleep(LOOK_S)
        if not await _delete(bench, node):
            return undo
    raise FaultError(f"the rules of policies on {node.name} come back: pods or policies change all the time")


async def _delete(bench: Bench, node: NodeSpec) -> tuple[Command, ...]:
    undo = []
    for program in ("iptables", "ip6tables"):
        for chain in ("FORWARD", "INPUT", "OUTPUT"):
            for line in (await bench.run(node.netns, [program, "-S", chain])).splitlines():
                if JUMP.match(line):
                    _, _, *rule = shlex.split(line)
                    await bench.run(node.netns, [program, "-D", chain, *rule])
                    undo.append(Command(node.netns, (program, "-I", chain, "1", *rule)))
    return tuple(undo)


async def guarded(bench: Bench, on: str) -> tuple[NodeSpec, tuple[str, ...]]:
    """A node that has pods to guard, that of `on` if it names one; and a probe that policy forbids and it must stop."""
    first = bench.node(on)
    pods = await bench.api.list("pods")
    for node in [first] if on else [first, *(n for n in bench.topology.nodes if n.name != first.name)]:
        if probe := await _unchecked(bench, node, pods):
            return node, probe
    raise FaultError(f"no pod on {first.name if on else 'any node'} is subject to a policy of the sample")


async def _unchecked(bench: Bench, node: NodeSpec, pods: list[Object]) -> tuple[str, ...]:
    for pod in pods:
        meta, spec = pod["metadata"], pod["spec"]
        ports = [p for c in spec["containers"] for p in c.get("ports", ()) if p.get("protocol", "TCP") == "TCP"]
        if spec.get("nodeName") == node.name and meta["namespace"] in {"shop", "pay"} and ports:
            if meta["labels"].get("app") == "frontend":
                continue
            source = await bench.pod_on(bench.other(node).name)
            target = f"pod/{meta['namespace']}/{meta['name']}"
            return source, target, "--proto", "tcp", "--port", str(ports[0]["containerPort"])
    return ()
