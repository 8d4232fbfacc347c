"""A node that gives pods no network: the sign that shows in Kubernetes' objects alone, and what is known of the node.

No path can fail there, since no endpoint runs from or to which one could be planned. Pure; asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.cluster.state import ClusterState, Node, Pod
from model.facts import Facts

WITHOUT_NETWORK = ("NetworkPluginNotReady", "cni plugin not initialized", "cni config uninitialized")
"""What a kubelet says of its container runtime (kubelet's runtime status; containerd's and CRI-O's own words)."""
NO_SANDBOX = "PodReadyToStartContainers"
"""Condition of a pod whose network namespace is made (KEP-3085); False while it is not."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Why a node is suspect: its own condition, or its pod that gets no network."""

    node: str
    says: str
    pod: Pod | None = None


@dataclass(frozen=True, slots=True)
class NodeCase:
    """A suspect node. `facts` is None where its agent could not be asked, `silent` says why then.

    `events` are messages of Kubernetes' events about its pod, newest first.
    """

    sign: Sign
    node: Node
    facts: Facts | None = None
    silent: str = ""
    events: tuple[str, ...] = ()


def signs(cluster: ClusterState, namespace: str) -> Iterator[Sign]:
    """Yield every node that says of itself, or whose pods in `namespace` show, that pods get no network there."""
    waiting = {pod.node: pod for pod in cluster.pods.values() if pod.namespace == namespace and _waits(pod)}
    for node in cluster.nodes.values():
        if node.deleting:
            continue
        if node.ready is False and any(words in node.ready_reason for words in WITHOUT_NETWORK):
            yield Sign(node.name, node.ready_reason, waiting.get(node.name))
        elif node.ready and (pod := waiting.get(node.name)) is not None:
            yield Sign(node.name, f"pod {pod.key} is bound to it and has no sandbox", pod)


def _waits(pod: Pod) -> bool:
    if pod.deleting or pod.host_network or pod.phase != "Pending" or not pod.node:
        return False
    return any(condition.type == NO_SANDBOX and condition.status == "False" for condition in pod.conditions)
