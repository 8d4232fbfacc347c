"""`python -m lab.policy --lab NAME --kubeconfig FILE`: NetworkPolicy on every node of a lab, in one process.

It knows the Kubernetes API and the namespaces of nodes and nothing else of the lab's control plane, so it serves a real
Kubernetes as well. Rules are written when pods, namespaces or policies change, and whole when the process starts; a
rule that a user breaks by hand stays broken, as it would until the controller's next full sync.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from lab import netns
from lab.client import Object
from lab.follower import follow, serve
from lab.policy import calico, kube_router
from lab.policy.keeper import PolicyKeeper, Shape
from lab.policy.kube_router import Enforcement
from lab.policy.objects import Pod, Policy, read_pods, read_policy
from lab.policy.resolve import ResolvedPolicy, resolve
from lab.ruler import Children
from lab.spec import Topology

log = logging.getLogger("lab.policy")


def service_cidrs(topology: Topology, family: int) -> list[str]:
    """Return the ranges of cluster addresses of a family."""
    cidr = topology.service_cidr4 if family == 4 else topology.service_cidr6
    return [cidr] if cidr else []


def enforcement(
    topology: Topology, policies: Iterable[ResolvedPolicy], pods: tuple[Pod, ...], node: str, family: int
) -> Enforcement:
    """Return what one node is to enforce, in the form of the lab's network plugin."""
    if topology.spec.cni == "calico":
        return calico.make_enforcement(policies, pods, node, family)
    return kube_router.make_enforcement(policies, pods, node, family, service_cidrs(topology, family))


class Enforcer:
    """All nodes' keepers."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        children = Children()
        module = calico if topology.spec.cni == "calico" else kube_router
        shape = Shape(module.OWNED, module.OWNED_SETS)
        self._keepers = [
            (
                node.name,
                family,
                PolicyKeeper(children, node.netns, family, shape),
            )
            for node in topology.nodes
            for family in ((4, 6) if topology.spec.dual else (4,))
        ]

    async def sync(self, objects: list[list[Object]]) -> bool:
        """Bring every node to pods, namespaces and policies; return whether all of them could be."""
        started = time.monotonic()
        pods, namespaces, policies = objects
        known = read_pods(pods, namespaces)
        parsed = read_policies(policies)
        resolved = {family: resolve(parsed, known, family) for family in (4, 6)}
        results = await asyncio.gather(
            *(
                self._apply(keeper, enforcement(self._topology, resolved[family], known, node, family), node)
                for node, family, keeper in self._keepers
            )
        )
        failed, changed = results.count(None), results.count(True)
        if failed or changed:
            elapsed_ms = (time.monotonic() - started) * 1000
            log.info("wrote %d rule sets, %d failed, in %.0f ms", changed, failed, elapsed_ms)
        return not failed

    async def _apply(self, keeper: PolicyKeeper, wanted: Enforcement, node: str) -> bool | None:
        try:
            return await keeper.apply(wanted)
        except (netns.NetnsError, OSError) as error:
            log.warning("%s: %s", node, error)
            return None


def read_policies(items: Iterable[Object]) -> list[Policy]:
    """Read all policies; one that cannot be understood is named in the log and left out."""
    policies = []
    for item in items:
        try:
            policies.append(read_policy(item))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("NetworkPolicy %s: %r", item.get("metadata", {}).get("name"), error)
    return policies


async def run(topology: Topology, kubeconfig: Path) -> None:
    """Enforce until cancelled."""
    await follow(kubeconfig, ("pods", "namespaces", "networking/networkpolicies"), lambda: Enforcer(topology).sync)


if __name__ == "__main__":
    serve("lab.policy", __doc__, run)
