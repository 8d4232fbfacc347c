"""Puts a dropping rule into the network namespace of a pod."""

from __future__ import annotations

from lab.fault import Bench, Broken, Command, Expected, Fault
from lab.links import endpoint_on

RULE = ("INPUT", "-p", "udp", "--dport", "8700", "-j", "DROP")


async def make(bench: Bench, on: str) -> Broken:
    """Drop the probes' own port in the endpoint pod of a node."""
    pod = await endpoint_on(bench, on)
    node = pod.node
    await bench.run(pod.netns, ["iptables", "-A", *RULE])
    return Broken(
        code=FAULT.code,
        on=f"node/{node.name}",
        says=f"{pod.asked} itself drops UDP to port 8700",
        expected=(
            Expected(
                code=FAULT.code,
                kind="iptables-rule",
                node=node.name,
                namespace=pod.namespace,
                name=f"{pod.name}/filter/INPUT/1",
            ),
        ),
        probe=pod.probe,
        undo=(Command(pod.netns, ("iptables", "-D", *RULE)),),
    )


FAULT = Fault(code="cni.pod_rules", title="a firewall inside a pod drops packets", target="node/NAME", make=make)
