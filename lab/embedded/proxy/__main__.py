"""`python -m lab.embedded.proxy --lab NAME`: kube-proxy for all nodes of an embedded lab, in one process.

Rules are written when Services or EndpointSlices change, and whole when the process starts; never from time to
time. So a rule that a user breaks by hand stays broken, as it would until kube-proxy's next full sync.
"""

import argparse
import asyncio
import logging
import time
from pathlib import Path

from lab import netns
from lab.client import ApiClient
from lab.embedded.proxy.decision import NodeView
from lab.embedded.proxy.flows import stale_flows
from lab.embedded.proxy.keeper import Keeper, make_keeper
from lab.embedded.proxy.services import FAMILIES, Family, ServicePort, read_service_ports
from lab.reflector import Reflector
from lab.ruler import Children
from lab.spec import NodeSpec, Topology, load_topology

DEBOUNCE_S = 0.05
RETRY_S = 2.0

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

    async def sync(self, services: Reflector, slices: Reflector) -> bool:
        """Bring every node to the objects of this moment; return whether all of them could be."""
        started = time.monotonic()
        ports = {
            family: read_service_ports(services.objects.values(), slices.objects.values(), family)
            for family in FAMILIES
        }
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
    changed = asyncio.Event()
    async with ApiClient.from_kubeconfig(kubeconfig) as client, asyncio.TaskGroup() as tasks:
        services = Reflector(client, "services", changed=changed)
        slices = Reflector(client, "discovery/endpointslices", changed=changed)
        for reflector in (services, slices):
            tasks.create_task(reflector.run())
        await services.synced.wait()
        await slices.synced.wait()
        proxy = Proxy(topology)
        complete = False
        while True:
            try:
                async with asyncio.timeout(None if complete else RETRY_S):
                    await changed.wait()
            except TimeoutError:
                pass
            # one change seldom comes alone
            await asyncio.sleep(DEBOUNCE_S)
            changed.clear()
            complete = await proxy.sync(services, slices)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="lab.embedded.proxy", description=__doc__)
    parser.add_argument("--lab", required=True, help="name of the lab")
    parser.add_argument("--kubeconfig", type=Path, help="default: the lab's own")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    topology = load_topology(arguments.lab)
    asyncio.run(run(topology, arguments.kubeconfig or topology.directory / "kubeconfig"))


if __name__ == "__main__":
    main()
