"""`python -m lab.embedded.proxy --lab NAME`: kube-proxy for all nodes of an embedded lab, in one process.

Rules are written when Services or EndpointSlices change, and whole when the process starts; never from time to
time. So a rule that a user breaks by hand stays broken, as it would until kube-proxy's next full sync.
"""

import asyncio
import logging
import time
from pathlib import Path

from lab import netns
from lab.client import Object
from lab.embedded.proxy.decision import NodeView
from lab.embedded.proxy.flows import stale_flows
from lab.embedded.proxy.keeper import Keeper, make_keeper
from lab.embedded.proxy.services import FAMILIES, Family, ServicePort, read_service_ports
from lab.follower import follow, serve
from lab.ruler import Children
from lab.spec import NodeSpec, Topology

log = logging.getLogger("lab.embedded.proxy")


def node_view(topology: Topology, node: NodeSpec, family: Family) -> NodeView:
    """Return a node as its rules see it."""
    if family == 4:
        return NodeView(node.name, 4, node.ipv4, topology.cluster_cidr4, topology.service_cidr4)
    return NodeView(node.name, 6, node.ipv6, topology.cluster_cidr6, topology.service_cidr6)


class Proxy:
    """All nodes' keepers, and what they were last told."""

    def __init__(self, topology: Topology) -> None:
        self._children = Children()
        self._keepers: list[tuple[str, Family, Keeper]] = [
            (
                node.netns,
                family,
                make_keeper(topology.spec.proxy, self._children, node.netns, node_view(topology, node, family)),
            )
            for node in topology.nodes
            for family in FAMILIES
        ]
        self._ports: dict[Family, tuple[ServicePort, ...]] = {}

    async def sync(self, objects: list[list[Object]]) -> bool:
        """Bring every node to Services and EndpointSlices; return whether all of them could be."""
        started = time.monotonic()
        services, slices = objects
        ports = {family: read_service_ports(services, slices, family) for family in FAMILIES}
        stale = {
            family: stale_flows(self._ports[family], ports[family], family) if self._ports else []
            for family in FAMILIES
        }
        results = await asyncio.gather(
            *(self._apply(name, keeper, ports[family], stale[family]) for name, family, keeper in self._keepers)
        )
        self._ports = ports
        failed = results.count(None)
        elapsed_ms = (time.monotonic() - started) * 1000
        log.info("synced %d rule sets, %d failed, in %.0f ms", results.count(True), failed, elapsed_ms)
        return not failed

    async def _apply(
        self, name: str, keeper: Keeper, ports: tuple[ServicePort, ...], stale: list[list[str]]
    ) -> bool | None:
        try:
            changed = await keeper.apply(ports)
            for arguments in stale:
                # exit code 1 means that there was no such flow
                await self._children.run(name, ["conntrack", *arguments], check=False)
        except (netns.NetnsError, OSError) as error:
            log.warning("%s: %s", name, error)
            return None
        return changed


async def run(topology: Topology, kubeconfig: Path) -> None:
    """Serve until cancelled."""
    await follow(kubeconfig, ("services", "discovery/endpointslices"), lambda: Proxy(topology).sync)


if __name__ == "__main__":
    serve("lab.embedded.proxy", __doc__, run)
