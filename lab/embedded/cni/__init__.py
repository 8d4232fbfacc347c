"""What a network plugin leaves on a node and in a pod, as data: one module a plugin, no input or output here.

`plan_node` and `plan_pod` return command batches that `lab.topology` and the cluster service run. The shapes follow
what the real plugins left on real nodes (flannel 0.28, Calico 3.31 in VXLAN mode, recorded with Kubernetes 1.34).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lab.embedded.cni import calico, flannel
from lab.embedded.cni.shape import NodeNetwork, PodLink, PodPlace
from lab.spec import NodeSpec, Topology

__all__ = ["NodeNetwork", "PodLink", "PodPlace", "first_pod_host", "plan_node", "plan_pod"]

_NODE: Final[dict[str, Callable[[Topology, NodeSpec], NodeNetwork]]] = {
    "flannel-vxlan": flannel.node_vxlan,
    "flannel-host-gw": flannel.node_host_gw,
    "calico": calico.node,
}
_POD: Final[dict[str, Callable[[PodPlace], PodLink]]] = {
    "flannel-vxlan": flannel.pod_vxlan,
    "flannel-host-gw": flannel.pod_host_gw,
    "calico": calico.pod,
}
# flannel: .0 is the tunnel device's, .1 the bridge's; Calico: .0 of the block is the tunnel device's
_FIRST_HOST: Final[dict[str, int]] = {"flannel-vxlan": 2, "flannel-host-gw": 2, "calico": 1}


def plan_node(topology: Topology, node: NodeSpec) -> NodeNetwork:
    """Return everything the lab's plugin sets up on `node`."""
    return _NODE[topology.spec.cni](topology, node)


def plan_pod(cni: str, place: PodPlace) -> PodLink:
    """Return the link between a pod and its node."""
    return _POD[cni](place)


def first_pod_host(cni: str) -> int:
    """Return the lowest host number of a node's range that a pod may have."""
    return _FIRST_HOST[cni]
