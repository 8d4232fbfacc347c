"""Node objects: made once at the start, then kept alive by leases that travel over each node's own network.

A node whose way to the API server is cut misses its lease, and is marked Unknown after the same 40 s as elsewhere. What
users write on a Node (labels, taints, cordon) is left alone.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import platform
import socket
from typing import Final

import aiohttp

from lab import netns
from lab.client import ApiClient, ApiError, Object
from lab.embedded import cni
from lab.embedded.cluster import objects
from lab.embedded.cluster.view import View
from lab.spec import API_PORT, NodeSpec, Topology

LEASE_NAMESPACE: Final = "kube-node-lease"
LEASE_EVERY_S: Final = 10.0
LEASE_AGAIN_S: Final = 2.0
# node-monitor-grace-period of kube-controller-manager
GRACE_S: Final = 40.0
LEASE_DURATION_S: Final = 40
# What a kubelet posts while its container runtime finds no network configuration.
NO_NETWORK: Final = (
    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
    "message:Network plugin returns error: cni plugin not initialized"
)
CNI_SUFFIXES: Final = frozenset({".conf", ".conflist", ".json"})

log = logging.getLogger(__name__)


def node_object(topology: Topology, node: NodeSpec) -> Object:
    """Return the Node as a kubelet and the network plugin's daemon register it, status apart."""
    plan = cni.plan_node(topology, node)
    labels = {
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": node.zone,
        **plan.labels,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels, "annotations": plan.annotations},
        "spec": {"podCIDR": node.pod_cidr4, "podCIDRs": node.pod_cidrs},
    }


def has_network(topology: Topology, node: NodeSpec) -> bool:
    """Return whether the node's CNI folder holds a configuration, by which a container runtime goes."""
    folder = topology.node_directory(node.name) / "cni/net.d"
    return any(path.suffix in CNI_SUFFIXES for path in folder.iterdir())


def node_status(topology: Topology, node: NodeSpec) -> Object:
    """Return the status of a node that is well, but perhaps for its network plugin."""
    up_reason = cni.plan_node(topology, node).up_reason
    plugin = "Calico" if up_reason.startswith("Calico") else "Flannel"
    amounts = {"cpu": "2", "memory": "4Gi", "pods": "110", "ephemeral-storage": "10Gi"}
    now = objects.now_text()
    ready = ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
    if not has_network(topology, node):
        ready = ("Ready", "False", "KubeletNotReady", NO_NETWORK)
    conditions = (
        ("NetworkUnavailable", "False", up_reason, f"{plugin} is running on this node"),
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    )
    return {
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in node.addresses),
            {"type": "Hostname", "address": node.name},
        ],
        "capacity": amounts,
        "allocatable": amounts,
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
            for kind, status, reason, message in conditions
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": "amd64",
            "bootID": "lab",
            "containerRuntimeVersion": "lab://1",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.34.4",
            "machineID": topology.name,
            "operatingSystem": "linux",
            "osImage": "network namespace",
            "systemUUID": f"{topology.name}-{node.name}",
        },
    }


async def register(topology: Topology, view: View) -> None:
    """Make the Nodes that are not there yet, with status and lease."""

    async def one(node: NodeSpec) -> None:
        if view.get("nodes", "", node.name) is None:
            await view.create("nodes", node_object(topology, node))
        item: Object = {"kind": "Node", "metadata": {"name": node.name}}
        have = view.get("nodes", "", node.name)
        if have is None or not objects.condition_true(have, "Ready"):
            await view.patch("nodes", item, {"status": node_status(topology, node)}, "status")

    async with asyncio.TaskGroup() as group:
        for node in topology.nodes:
            group.create_task(one(node))


async def heartbeat(topology: Topology, node: NodeSpec, view: View, ca_file: str, token: str) -> None:
    """Renew one node's lease over that node's own network until cancelled; say whether it is Ready."""

    def connect(family: int) -> socket.socket:
        return netns.socket_in(node.netns, family, socket.SOCK_STREAM)

    url = f"https://{topology.control_ipv4}:{API_PORT}"
    async with ApiClient(url, token, ca_file, connect=connect) as client:
        renewed = -LEASE_EVERY_S
        while True:
            try:
                if asyncio.get_running_loop().time() - renewed >= LEASE_EVERY_S:
                    await _renew(client, node)
                    renewed = asyncio.get_running_loop().time()
                have = view.get("nodes", "", node.name)
                if have is not None and objects.condition_true(have, "Ready") != has_network(topology, node):
                    await client.patch_status("nodes", node.name, node_status(topology, node))
            except (ApiError, aiohttp.ClientError, OSError, TimeoutError, netns.NetnsError) as error:
                log.info("%s: lease not renewed: %s", node.name, error or type(error).__name__)
                renewed = -LEASE_EVERY_S
            await asyncio.sleep(LEASE_AGAIN_S)


async def _renew(client: ApiClient, node: NodeSpec) -> None:
    spec = {
        "holderIdentity": node.name,
        "leaseDurationSeconds": LEASE_DURATION_S,
        "renewTime": objects.micro_time(),
    }
    try:
        await client.patch("coordination/leases", node.name, {"spec": spec}, LEASE_NAMESPACE)
    except ApiError as error:
        if error.code != 404:
            raise
        metadata = {"name": node.name, "namespace": LEASE_NAMESPACE}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
        await client.create("coordination/leases", body)


def overdue(lease: Object, now: datetime.datetime) -> bool:
    """Return whether a lease has not been renewed for longer than the grace period."""
    text = lease["spec"].get("renewTime")
    if not text:
        return False
    renewed = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (now - renewed).total_seconds() > GRACE_S


async def watch_leases(view: View) -> None:
    """Mark nodes whose lease has run out, and their pods, as kube-controller-manager does; until cancelled."""
    while True:
        await asyncio.sleep(LEASE_AGAIN_S)
        try:
            leases = await view.client.list("coordination/leases", LEASE_NAMESPACE)
        except (ApiError, aiohttp.ClientError, OSError, TimeoutError):
            continue  # nothing is known then, so nobody is accused
        now = datetime.datetime.now(datetime.UTC)
        for lease in leases:
            node = view.get("nodes", "", objects.name(lease))
            if node is not None and overdue(lease, now) and objects.condition_true(node, "Ready"):
                await _mark_unknown(view, node)


async def _mark_unknown(view: View, node: Object) -> None:
    now = objects.now_text()
    conditions = [
        one
        if one["type"] == "NetworkUnavailable"
        else one
        | {
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
            "lastTransitionTime": now,
        }
        for one in node["status"]["conditions"]
    ]
    await view.patch("nodes", node, {"status": {"conditions": conditions}}, "status")
