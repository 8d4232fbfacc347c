"""`python -m lab.kubernetes.surroundings --lab NAME --kubeconfig FILE`: what surrounds the nodes of a real Kubernetes.

Three things that a real Kubernetes leaves to others: hosts' network managers (an uplink that comes back gets its
addresses and routes back), a provider of load balancers (addresses, and the router's routes to them), and names for
pods' network namespaces (`ip netns` shows them as L-NS-POD, as in an embedded lab; `lab exec` and faults go by them).
Must not mend anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from lab import netns
from lab.client import ApiClient, ApiError, Object
from lab.embedded.cluster import balancers, objects
from lab.embedded.cluster.links import keep_uplink
from lab.kubernetes import cgroups
from lab.reflector import Reflector
from lab.spec import Topology, load_topology

GATHER_S: Final = 0.05
# A sandbox is made anew without its pod changing: look again this often.
LOOK_AGAIN_S: Final = 1.0

log = logging.getLogger("lab.kubernetes.surroundings")


class PodNames:
    """Names of pods' network namespaces, and the files `lab exec` needs (pods/UID/, as in an embedded lab)."""

    def __init__(self, topology: Topology) -> None:
        """An earlier run's names are taken over as they are met."""
        self._topology = topology
        self._directory = topology.directory / "pods"
        self._directory.mkdir(exist_ok=True)
        self._known: dict[str, str] = {}
        for path in self._directory.glob("*/sandbox.json"):
            self._known[path.parent.name] = msgspec.json.decode(path.read_bytes())["netns"]

    def apply(self, pods: list[Object]) -> None:
        """Name the namespaces of these pods, and take the others' names away."""
        present = {objects.uid(pod): pod for pod in pods}
        taken = {self._topology.pod_netns(objects.namespace(pod), objects.name(pod)) for pod in pods}
        for uid, name in list(self._known.items()):
            if uid not in present:
                if name not in taken and not self._is_node(name):
                    netns.delete(name)
                shutil.rmtree(self._directory / uid, ignore_errors=True)
                del self._known[uid]
        for uid, pod in present.items():
            if pod["spec"].get("nodeName") and objects.pod_active(pod):
                self._name(uid, pod)

    def _is_node(self, name: str) -> bool:
        return any(node.netns == name for node in self._topology.nodes)

    def _name(self, uid: str, pod: Object) -> None:
        node = next((node for node in self._topology.nodes if node.name == pod["spec"]["nodeName"]), None)
        group = cgroups.pod_group(self._topology.name, node.name, uid) if node is not None else None
        if node is None or group is None:
            return
        pids = cgroups.pids_below(group)
        on_host = bool(pod["spec"].get("hostNetwork"))
        name = node.netns if on_host else self._topology.pod_netns(objects.namespace(pod), objects.name(pod))
        if not pids or (not on_host and not _adopt(name, pids, netns.inode(node.netns))):
            return
        files = self._directory / uid
        if uid not in self._known or not (files / "etc/hosts").exists():
            own = pod["spec"].get("dnsPolicy") == "Default" or on_host
            theirs = self._topology.node_directory(node.name) / "overlay/etc/upper"
            if not _write_files(files, pod, name, pids, None if own else theirs):
                return  # looked at again soon
        self._known[uid] = name


def _adopt(name: str, pids: list[int], host: int) -> bool:
    """Let `name` stand for the namespace of the first of these processes that is in one of its own."""
    foreign = {host, Path("/proc/self/ns/net").stat().st_ino}
    for pid in pids:
        try:
            identity = Path(f"/proc/{pid}/ns/net").stat().st_ino
            if identity in foreign:  # runc, on its way into the pod
                continue
            if netns.exists(name):
                if netns.inode(name) == identity:
                    return True
                netns.delete(name)
            netns.adopt(name, pid)
            if netns.inode(name) == identity:
                return True
            netns.delete(name)  # the process ended, and another has its number
        except (OSError, netns.NetnsError) as error:
            log.info("%s: %s", name, error)
    return False


def _write_files(files: Path, pod: Object, name: str, pids: list[int], theirs: Path | None) -> bool:
    """Copy the pod's resolver files from a container that has them, then say whose namespace it is.

    `theirs` is where the node's own files are: what looks like them is runc's, which has not entered its container yet.
    Returns whether the files are whole.
    """
    (files / "etc").mkdir(parents=True, exist_ok=True)
    for entry in ("resolv.conf", "hosts"):
        for pid in reversed(pids):  # the sandbox's own process is the oldest, and has no hosts
            try:
                text = Path(f"/proc/{pid}/root/etc/{entry}").read_text()
                if theirs is None or text != (theirs / entry).read_text():
                    (files / "etc" / entry).write_text(text)
                    break
            except OSError:
                continue
        else:
            return False
    box = {"uid": files.name, "namespace": objects.namespace(pod), "name": objects.name(pod), "netns": name}
    partial = files / "sandbox.new"
    partial.write_bytes(msgspec.json.encode(box))
    partial.replace(files / "sandbox.json")
    return True


class Balancers:
    """Addresses of Services of type LoadBalancer."""

    def __init__(self, topology: Topology, client: ApiClient) -> None:
        self._topology = topology
        self._client = client
        self._routes = balancers.Routes(topology)

    async def apply(self, services: list[Object], slices: list[Object], nodes: list[Object]) -> None:
        """Give and take addresses, and lead the router's routes to nodes that are Ready."""
        for service, address in balancers.assign(services, self._topology.load_balancer_cidr):
            ingress = [{"ip": address, "ipMode": "VIP"}] if address else None
            status = {"loadBalancer": {"ingress": ingress}}
            await self._client.patch_status("services", objects.name(service), status, objects.namespace(service))
        ready = {objects.name(node) for node in nodes if objects.condition_true(node, "Ready")}
        well = {node.name: node.ipv4 for node in self._topology.nodes if node.name in ready}
        await self._routes.apply(balancers.next_hops(services, slices, well))


async def run(topology: Topology, kubeconfig: Path) -> None:
    """Serve until cancelled."""
    changed = asyncio.Event()
    async with ApiClient.from_kubeconfig(kubeconfig) as client, asyncio.TaskGroup() as tasks:
        keys = ("pods", "services", "discovery/endpointslices", "nodes")
        reflectors = [Reflector(client, key, changed=changed) for key in keys]
        for reflector in reflectors:
            tasks.create_task(reflector.run())
        for node in topology.nodes:
            tasks.create_task(keep_uplink(topology, node))
        for reflector in reflectors:
            await reflector.synced.wait()
        names, addresses = PodNames(topology), Balancers(topology, client)
        while True:
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await changed.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_S)
            changed.clear()
            pods, *rest = (list(reflector.objects.values()) for reflector in reflectors)
            names.apply(pods)
            try:
                await addresses.apply(*rest)
            except (ApiError, aiohttp.ClientError, netns.NetnsError, OSError, TimeoutError) as error:
                log.warning("load balancers: %s", error)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="lab.kubernetes.surroundings")
    parser.add_argument("--lab", required=True)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(run(load_topology(options.lab), options.kubeconfig))


if __name__ == "__main__":
    main()
