"""What policy says of a path, in the plan's words. The one place where plan and policy evaluator meet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.cluster.state import FINISHED, Backend, ClusterState, Pod
from controller.policy import objects
from controller.policy.model import PolicyModel
from controller.policy.parse_policy import parse_policy
from controller.policy.peers import AddressRef, NodeRef, PeerRef, PodRef, UnknownPeerError
from model.diagnosis import Expectation

OWN_NODE = Expectation(allowed=True, because=("a node always reaches the pods on it",))
OPEN = Expectation(allowed=None)


def policy_model(cluster: ClusterState) -> PolicyModel:
    """The evaluator for this state. A policy that it cannot read is left out: no API server would hold it."""
    policies = []
    for key in sorted(cluster.policies):
        try:
            policies.append(parse_policy(cluster.policies[key]))
        except objects.ObjectError:
            continue
    return PolicyModel.build(
        [
            objects.Namespace(n.name, _labels({objects.NAME_LABEL: n.name, **n.labels}))
            for n in cluster.namespaces.values()
        ],
        [_pod(pod, cluster) for pod in cluster.pods_by_key.values()],
        policies,
        nodes=[objects.Node(n.name, _labels(n.labels), n.addresses) for n in cluster.nodes.values()],
        service_addresses=[ip for service in cluster.services.values() for ip in service.cluster_ips],
    )


def _labels(labels: Mapping[str, str]) -> objects.Labels:
    return tuple(sorted(labels.items()))


def _pod(pod: Pod, cluster: ClusterState) -> objects.Pod:
    node = cluster.nodes.get(pod.node)
    return objects.Pod(
        namespace=pod.namespace,
        name=pod.name,
        labels=_labels(pod.labels),
        addresses=pod.addresses,
        named_ports=tuple(objects.NamedPort(p.name, p.protocol, p.port) for p in pod.container_ports if p.name),
        node=pod.node,
        node_addresses=node.addresses if node else (),
        host_network=pod.host_network,
        terminated=pod.phase in FINISHED,
        owner=objects.Owner(pod.owner_kind, pod.owner_name) if pod.owner_kind else None,
    )


def pod_ref(pod: Pod) -> PeerRef:
    """The pod as the evaluator names it."""
    return PodRef(pod.namespace, pod.name)


def node_ref(name: str) -> PeerRef:
    """The node as the evaluator names it."""
    return NodeRef(name)


def expect(
    model: PolicyModel | None, source: PeerRef, target: PeerRef, protocol: str, port: int, family: int
) -> Expectation:
    """The expectation of one connection; open where there is no evaluator, or it does not know a peer."""
    if model is None:
        return OPEN
    try:
        decision = model.decide(source, target, protocol, port, family)
    except UnknownPeerError as error:
        return Expectation(allowed=None, missing=str(error))
    return Expectation(allowed=decision.allowed, because=decision.because, missing=decision.missing)


def expect_backends(
    model: PolicyModel | None, source: PeerRef, backends: Iterable[Backend], family: int
) -> Expectation:
    """The expectation of a connection that any of several backends may get: allowed only if it is to every one.

    Without a backend nothing is left for policy to forbid.
    """
    if model is None:
        return OPEN
    because: dict[str, None] = {}
    for backend in backends:
        one = expect(model, source, AddressRef(backend.address), backend.protocol, backend.port, family)
        if one.allowed is not True:
            return one
        because.update(dict.fromkeys(one.because))
    return Expectation(allowed=True, because=tuple(because))
