"""Brings a real Kubernetes up in a lab's namespaces: first what the API needs, then the nodes.

Called by the supervisor, which keeps the processes running; this module decides only the order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lab import netns
from lab.client import ApiClient, ApiError
from lab.kubernetes import build, cgroups, mounts, plane
from lab.manifests import Applier, in_order, read_documents
from lab.services import ServiceSpec
from lab.spec import NodeSpec, Topology

SYSTEM: Final = Path(__file__).parent / "system.yaml"
SOCKET_S: Final = 60.0
IMPORT_S: Final = 120.0
IMPORTS: Final = 2
RIGHTS_S: Final = 60.0

Keep = Callable[[ServiceSpec], None]


class Kubernetes:
    """One lab's cluster on its way up."""

    def __init__(self, plan: Topology, keep: Keep) -> None:
        """`keep` starts a service and keeps it running."""
        self._plan = plan
        self._keep = keep
        self._places: dict[str, mounts.Place] = {}

    def enter(self, node: str) -> tuple[str, ...]:
        """Options of nsenter for a node's mounts."""
        return self._places[node].enter

    async def begin(self) -> None:
        """Start etcd and API server, and a containerd on every node. NetnsError or OSError where that fails."""
        plan = self._plan
        plane.prepare(plan)
        for service in plane.control_plane(plan):
            self._keep(service)
        for node in plan.nodes:
            cgroups.make(plan.name, node.name)
        opened = await asyncio.gather(*(mounts.open_place(plan, node) for node in plan.nodes))
        self._places = {node.name: place for node, place in zip(plan.nodes, opened, strict=True)}
        for node in plan.nodes:
            self._keep(plane.containerd(plan, node, self.enter(node.name)))

    async def join(self, client: ApiClient) -> None:
        """Give the API its nodes and rights, and start everything else. Raises ApiError, NetnsError, TimeoutError."""
        plan = self._plan
        await _wait_for_rights(client)
        applier = Applier(client)
        for item in in_order(read_documents(SYSTEM.read_text(), SYSTEM.name)):
            await applier.apply(item)
        for node in plan.nodes:
            await applier.apply(plane.node_object(node))
        for service in plane.controllers(plan):
            self._keep(service)
        async with asyncio.TaskGroup() as group:
            for node in plan.nodes:
                group.create_task(self._start_node(node))

    async def _start_node(self, node: NodeSpec) -> None:
        flannel, kubelet, proxy = plane.node_daemons(self._plan, node, self.enter(node.name))
        self._keep(flannel)
        self._keep(proxy)
        await load_image(self._plan, node, build.image_archive())
        # a kubelet that finds no image of its pods would try again only after seconds
        self._keep(kubelet)


async def load_image(plan: Topology, node: NodeSpec, archive: Path) -> None:
    """Give a node's containerd the images of an archive; raises NetnsError, or TimeoutError without containerd."""
    socket = plan.node_directory(node.name) / plane.CONTAINERD_SOCKET
    async with asyncio.timeout(SOCKET_S):
        while not socket.exists():
            await asyncio.sleep(0.05)
    argv = ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images", "import", str(archive)]
    for left in reversed(range(IMPORTS)):
        try:
            await netns.run(None, argv, timeout_s=IMPORT_S)
            return
        except netns.NetnsError:
            # On a busy machine an import was seen to fail after its last layer; again it does only what is missing.
            if not left:
                raise


async def _wait_for_rights(client: ApiClient) -> None:
    """The API server writes its own roles shortly after it answers; daemons started before would be refused."""
    async with asyncio.timeout(RIGHTS_S):
        while True:
            try:
                await client.get("rbac/clusterrolebindings", "system:kube-scheduler")
                await client.get("rbac/clusterroles", "system:node-proxier")
                return
            except ApiError:
                await asyncio.sleep(0.1)


def node_mounts(containerd_pid: int) -> tuple[str, ...]:
    """Return nsenter's options for a node's mounts and host name, by the process id of its containerd."""
    base = Path(f"/proc/{containerd_pid}/ns")
    return (f"--mount={base}/mnt", f"--uts={base}/uts") if os.access(base, os.R_OK) else ()
