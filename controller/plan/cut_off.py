"""Pods that a policy cuts off from the cluster's DNS while it lets them speak to others by name. Pure.

Such a policy is almost surely a mistake (port 53 was forgotten), so one pod of each kind on each node asks for a name,
and that it cannot is an incident. A pod that may send nothing at all, or to addresses alone, needs no names: that is
taken for intended.
"""

from __future__ import annotations

from controller.cluster.state import ClusterState, Node, Pod
from controller.plan.draft import Context
from controller.policy.model import PolicyModel
from controller.policy.objects import BlockPeer, Direction, Peer, Policy
from controller.policy.peers import AddressRef, Decision, PodRef, UnknownPeerError

KINDS_A_NODE = 4


def cut_off_pods(context: Context, node: Node) -> tuple[Pod, ...]:
    """One pod of the node for each set of egress policies that cuts off DNS by mistake; KINDS_A_NODE at most."""
    model, found = context.policy, dict[int, Pod]()
    if model is None:
        return ()
    for pod in context.cluster.pods_by_node.get(node.name, ()):
        key = (pod.namespace, pod.name)
        if not pod.ready or pod.host_network or pod.deleting or key not in model.universe.pod_item:
            continue
        view = model.egress_of[model.universe.pod_item[key]]
        if view and view not in found and is_cut_off(model, context.cluster, pod):
            found[view] = pod
            if len(found) == KINDS_A_NODE:
                break
    return tuple(found.values())


def is_cut_off(model: PolicyModel, cluster: ClusterState, pod: Pod) -> bool:
    """Whether egress policies keep the pod from every DNS server, and let it speak to somebody by name."""
    policies = egress_policies(model, pod)
    if not any(_by_name(policy) for policy in policies):
        return False
    decisions = [d for d in _to_dns(model, cluster, pod) if d is not None]
    return bool(decisions) and all(d.allowed is False and d.direction in {Direction.EGRESS, "both"} for d in decisions)


def egress_policies(model: PolicyModel, pod: Pod) -> tuple[Policy, ...]:
    """The policies that decide what a pod may send."""
    item = model.universe.pod_item.get((pod.namespace, pod.name))
    return tuple(entry.policy for entry in model.egress[model.egress_of[item]].applied()) if item is not None else ()


def _to_dns(model: PolicyModel, cluster: ClusterState, pod: Pod) -> list[Decision | None]:
    service = cluster.dns_service()
    ports = [p for p in service.ports if p.protocol == "UDP"] if service is not None else []
    found: list[Decision | None] = []
    for backend in (b for port in ports if service is not None for b in cluster.backends(service, port) if b.ready):
        try:
            source, target = PodRef(pod.namespace, pod.name), AddressRef(backend.address)
            found.append(model.decide(source, target, "UDP", backend.port, backend.family))
        except UnknownPeerError:
            found.append(None)
    return found


def _by_name(policy: Policy) -> bool:
    """Whether a rule lets through to peers that are reached by name: pods, names, the whole internet, everybody."""
    return any(
        rule.peers is None or any(_is_named(peer) for peer in rule.peers)
        for rule in policy.egress or ()
        if rule.ports != ()
    )


def _is_named(peer: Peer) -> bool:
    return not isinstance(peer, BlockPeer) or peer.cidr.prefixlen == 0
