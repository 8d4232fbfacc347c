"""What policy says of a path, in the plan's words. The one place where plan and policy evaluator meet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from controller.cluster.state import FINISHED, Backend, ClusterState, Node, Pod
from controller.policy import objects
from controller.policy.model import PolicyModel
from controller.policy.parse_policy import parse_policy
from controller.policy.peers import AddressRef, NodeRef, PeerRef, PodRef, UnknownPeerError
from model.diagnosis import Expectation

OWN_NODE = Expectation(allowed=True, because=("a node always reaches the pods on it",))
OPEN = Expectation(allowed=None)
NETWORK_POLICY = "NetworkPolicy"


def policy_model(cluster: ClusterState) -> PolicyModel:
    """The evaluator for this state, made from nothing."""
    return PolicyReader().model(cluster)


@dataclass(frozen=True, slots=True)
class _Inputs:
    namespaces: tuple[objects.Namespace, ...]
    pods: tuple[objects.Pod, ...]
    nodes: tuple[objects.Node, ...]
    service_addresses: frozenset[str]


class AdminPolicies(StrEnum):
    """Whether the network plugin implements AdminNetworkPolicy and its kin. NetworkPolicy it always does.

    DETECT: a kind of which an object has conditions in its status is implemented, since somebody has taken it up; of
    another kind it is not known, and what depends on it is left open rather than guessed.
    """

    DETECT = "detect"
    ENFORCED = "enforced"
    IGNORED = "ignored"


class PolicyReader:
    """Keeps the evaluator in step with the cluster: what is as it was is neither read nor compiled again.

    A policy that cannot be read is left out: no API server would hold it.
    """

    def __init__(self, admin_policies: AdminPolicies = AdminPolicies.DETECT) -> None:
        """Nothing was read."""
        self._admin_policies = admin_policies
        self._policies: dict[str, tuple[dict[str, Any], objects.Policy | None]] = {}
        self._pods: dict[str, tuple[Pod, Node | None, objects.Pod]] = {}
        self._inputs: _Inputs | None = None
        self._model: PolicyModel | None = None

    def model(self, cluster: ClusterState) -> PolicyModel:
        """The evaluator for this state; the very same one if nothing changed that policies look at."""
        policies = self._read_policies(cluster)
        inputs = _Inputs(
            tuple(
                objects.Namespace(n.name, _labels({objects.NAME_LABEL: n.name, **n.labels}))
                for n in cluster.namespaces.values()
            ),
            self._read_pods(cluster),
            tuple(objects.Node(n.name, _labels(n.labels), n.addresses) for n in cluster.nodes.values()),
            frozenset(ip for service in cluster.services.values() for ip in service.cluster_ips),
        )
        profile = objects.Profile(doubted=self._doubted(cluster))
        model = self._model
        if model is None or inputs != self._inputs or profile != model.profile:
            model = PolicyModel.build(
                inputs.namespaces,
                inputs.pods,
                policies,
                profile,
                nodes=inputs.nodes,
                service_addresses=inputs.service_addresses,
            )
        elif policies != model.policies:
            model = model.replace(policies=policies)
        self._inputs, self._model = inputs, model
        return model

    def _read_policies(self, cluster: ClusterState) -> tuple[objects.Policy, ...]:
        read: dict[str, tuple[dict[str, Any], objects.Policy | None]] = {}
        for key in sorted(cluster.policies):
            raw, known = cluster.policies[key], self._policies.get(key)
            if self._admin_policies is AdminPolicies.IGNORED and raw["kind"] != NETWORK_POLICY:
                continue
            read[key] = known if known is not None and known[0] is raw else (raw, _policy(raw))
        self._policies = read
        return tuple(policy for _, policy in read.values() if policy is not None)

    def _doubted(self, cluster: ClusterState) -> frozenset[str]:
        if self._admin_policies is not AdminPolicies.DETECT:
            return frozenset()
        admin = [raw for raw in cluster.policies.values() if raw["kind"] != NETWORK_POLICY]
        taken_up = {raw["kind"] for raw in admin if "status" in raw}
        return frozenset(raw["kind"] for raw in admin) - taken_up

    def _read_pods(self, cluster: ClusterState) -> tuple[objects.Pod, ...]:
        read: dict[str, tuple[Pod, Node | None, objects.Pod]] = {}
        for pod in cluster.pods_by_key.values():
            node, known = cluster.nodes.get(pod.node), self._pods.get(pod.uid)
            same = known is not None and known[0] is pod and known[1] is node
            read[pod.uid] = known if same and known is not None else (pod, node, _pod(pod, node))
        self._pods = read
        return tuple(made for _, _, made in read.values())


def _policy(raw: dict[str, Any]) -> objects.Policy | None:
    try:
        return parse_policy(raw)
    except objects.ObjectError:
        return None


def _labels(labels: Mapping[str, str]) -> objects.Labels:
    return tuple(sorted(labels.items()))


def _pod(pod: Pod, node: Node | None) -> objects.Pod:
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
        owner=objects.Owner(*pod.workload),
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
