"""A pod's place on its node: addresses, namespace, link, files. Made, taken away, and found again after a restart.

Must not start the pod's processes (pods.py does) nor speak to the API.
"""

from __future__ import annotations

import shutil
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import msgspec

from lab import netns
from lab.client import Object
from lab.embedded import cni
from lab.embedded.cluster import objects, podspec
from lab.spec import NodeSpec, Topology
from lab.topology import ip_batch


class AddressesExhaustedError(RuntimeError):
    """No address is left in a node's range."""


class Sandbox(msgspec.Struct):
    """What is kept of a pod's place, as JSON in its directory."""

    uid: str
    namespace: str
    name: str
    node: str
    netns: str
    host_network: bool
    ips: list[str]
    host_number: int
    """Place of its addresses in the node's ranges; 0 on the host network."""
    device: str
    processes: dict[str, tuple[int, int]] = {}
    """Container → (pid, start time)."""
    restarts: dict[str, int] = {}


class Sandboxes:
    """All pods' places in one lab."""

    def __init__(self, topology: Topology) -> None:
        """Read what an earlier run of this service left."""
        self._topology = topology
        self.directory = topology.directory / "pods"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, Sandbox] = {}
        self._last: dict[str, int] = {}
        for path in self.directory.glob("*/sandbox.json"):
            box = msgspec.json.decode(path.read_bytes(), type=Sandbox)
            self.known[box.uid] = box

    def path(self, uid: str) -> Path:
        """Directory of a pod's files: etc/, logs, sandbox.json."""
        return self.directory / uid

    def save(self, box: Sandbox) -> None:
        """Keep a changed sandbox."""
        path = self.path(box.uid) / "sandbox.json"
        partial = path.with_suffix(".new")
        partial.write_bytes(msgspec.json.encode(box))
        partial.replace(path)

    async def make(self, pod: Object) -> Sandbox:
        """Wire a pod; raises netns.NetnsError or AddressesExhaustedError, and leaves nothing behind then."""
        node = self._topology.node(pod["spec"]["nodeName"])
        box = self._new(pod, node)
        self.known[box.uid] = box
        try:
            (self.path(box.uid) / "etc").mkdir(parents=True, exist_ok=True)
            etc = self.path(box.uid) / "etc"
            (etc / "resolv.conf").write_text(podspec.resolv_conf(pod, self._topology))
            (etc / "hosts").write_text(podspec.hosts(pod, box.ips))
            if not box.host_network:
                await self._wire(box, node)
                link = self._topology.node_directory(node.name) / "netns" / box.uid
                link.unlink(missing_ok=True)
                link.symlink_to(netns.path_of(box.netns))
            self.save(box)
        except BaseException:
            await self.remove(box)
            raise
        return box

    def _new(self, pod: Object, node: NodeSpec) -> Sandbox:
        namespace, name = objects.namespace(pod), objects.name(pod)
        on_host = bool(pod["spec"].get("hostNetwork"))
        number = 0 if on_host else self._free_number(node)
        return Sandbox(
            uid=objects.uid(pod),
            namespace=namespace,
            name=name,
            node=node.name,
            netns=node.netns if on_host else self._topology.pod_netns(namespace, name),
            host_network=on_host,
            ips=node.addresses if on_host else [str(ip_network(cidr)[number]) for cidr in node.pod_cidrs],
            host_number=number,
            device="",
        )

    def _free_number(self, node: NodeSpec) -> int:
        """Next after the last one given out, as host-local does, so that an address is not used again at once."""
        first = cni.first_pod_host(self._topology.spec.cni)
        size = ip_network(node.pod_cidr4).num_addresses - 1 - first
        used = {box.host_number for box in self.known.values() if box.node == node.name}
        last = self._last.get(node.name, max(used, default=first - 1))
        for step in range(1, size + 1):
            number = first + (last - first + step) % size
            if number not in used:
                self._last[node.name] = number
                return number
        raise AddressesExhaustedError(f"no IP addresses available in range set: {', '.join(node.pod_cidrs)}")

    async def _wire(self, box: Sandbox, node: NodeSpec) -> None:
        dual = self._topology.spec.dual
        place = cni.PodPlace(
            namespace=box.namespace,
            pod=box.name,
            netns=box.netns,
            ipv4=box.ips[0],
            ipv6=box.ips[1] if dual else None,
            gateway4=str(ip_network(node.pod_cidr4)[1]),
            gateway6=str(ip_network(node.pod_cidr6)[1]) if node.pod_cidr6 else None,
            cluster_cidr4=self._topology.cluster_cidr4,
            cluster_cidr6=self._topology.cluster_cidr6,
        )
        link = cni.plan_pod(self._topology.spec.cni, place)
        box.device = link.device
        if netns.exists(box.netns):  # left by a pod of the same name that was taken away by force
            netns.delete(box.netns)
            await netns.run(node.netns, ["ip", "link", "delete", link.device], check=False)
        netns.create(box.netns)
        netns.sysctl_set(box.netns, POD_SYSCTLS if dual else POD_SYSCTLS_4)
        await ip_batch(node.netns, link.node_ip)
        netns.sysctl_set(node.netns, link.node_sysctls)
        await ip_batch(box.netns, link.pod_ip)
        await ip_batch(node.netns, link.node_ip_after)

    async def remove(self, box: Sandbox) -> None:
        """Take a pod's link, namespace and files away; its processes must have ended."""
        node = self._topology.node(box.node)
        if not box.host_network:
            (self._topology.node_directory(box.node) / "netns" / box.uid).unlink(missing_ok=True)
        # a pod taken away by force may have a successor of the same name already
        heir = any(other.netns == box.netns and other.uid != box.uid for other in self.known.values())
        if not box.host_network and not heir:
            if netns.exists(node.netns) and box.device:
                await netns.run(node.netns, ["ip", "link", "delete", box.device], check=False)
            netns.delete(box.netns)
        shutil.rmtree(self.path(box.uid), ignore_errors=True)
        self.known.pop(box.uid, None)


POD_SYSCTLS_4: Final = {"ipv4/ip_unprivileged_port_start": "0"}
POD_SYSCTLS: Final = POD_SYSCTLS_4 | {
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
}
