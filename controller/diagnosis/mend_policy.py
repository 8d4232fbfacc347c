"""The command that would let a denied connection through: the least that does, in the policy or on the pod. Pure."""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher

from controller.cluster.state import ClusterState, Pod
from controller.diagnosis.case import Flow, Place
from controller.policy.explain import Denial
from controller.policy.objects import Direction, Operator, Policy

LIKE = 0.75
TELLING = ("app", "app.kubernetes.io/name", "app.kubernetes.io/component", "k8s-app", "name", "component")
OF_CONTROLLERS = ("-hash", "-generation", "/pod-name", "/pod-index")


def mend(denial: Denial, flow: Flow, cluster: ClusterState) -> str:
    """One kubectl command, with a remark behind it where there is one to make."""
    policy = denial.policy
    if policy.kind != "NetworkPolicy":
        return (
            f"kubectl edit {policy.kind.lower()} {policy.name}   ({denial.rule.where if denial.rule else 'its rules'})"
        )
    peer = flow.source if denial.direction is Direction.INGRESS else flow.destination
    relabel = _relabel(denial, peer, cluster)
    if relabel:
        return relabel
    operation = json.dumps([_operation(denial, flow, peer)], separators=(",", ":"))
    return f"kubectl -n {policy.namespace} patch networkpolicy {policy.name} --type=json -p '{operation}'"


def _operation(denial: Denial, flow: Flow, peer: Place) -> dict[str, object]:
    """Add the port to the rule that lacks nothing else; or a rule of its own for this peer and port."""
    way, side = ("ingress", "from") if denial.direction is Direction.INGRESS else ("egress", "to")
    port = {"protocol": flow.protocol.upper(), "port": flow.port}
    index = re.search(r"\[(\d+)\]", denial.rule.where) if denial.rule is not None else None
    if denial.peer_fits and index is not None:
        return {"op": "add", "path": f"/spec/{way}/{index[1]}/ports/-", "value": port}
    rule = {side: [_peer(denial.policy, peer)], "ports": [port]}
    if denial.rule is None:
        return {"op": "add", "path": f"/spec/{way}", "value": [rule]}
    return {"op": "add", "path": f"/spec/{way}/-", "value": rule}


def _peer(policy: Policy, peer: Place) -> dict[str, object]:
    if peer.pod is None:
        return {"ipBlock": {"cidr": f"{peer.address}/{128 if ':' in peer.address else 32}"}}
    found: dict[str, object] = {"podSelector": {"matchLabels": labels_of(peer.pod)}}
    if peer.pod.namespace != policy.namespace:
        found["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": peer.pod.namespace}}
    return found


def labels_of(pod: Pod) -> dict[str, str]:
    """The labels by which people select it: one that names it, else all that no controller put there."""
    for key in TELLING:
        if key in pod.labels:
            return {key: pod.labels[key]}
    return {key: value for key, value in sorted(pod.labels.items()) if not key.endswith(OF_CONTROLLERS)}


def _relabel(denial: Denial, peer: Place, cluster: ClusterState) -> str:
    """Where a label of this one pod is but misspelled, and other pods have it right, the pod is to be mended."""
    pod = peer.pod
    if pod is None or not denial.port_fits or len(denial.unmet) != 1:
        return ""
    (wanted,) = denial.unmet
    own = pod.labels.get(wanted.key)
    if wanted.operator is not Operator.IN or len(wanted.values) != 1 or own is None:
        return ""
    (value,) = wanted.values
    values = [p.labels.get(wanted.key) for p in cluster.pods.values() if p.namespace == pod.namespace]
    if SequenceMatcher(None, own, value).ratio() < LIKE or value not in values or values.count(own) > 1:
        return ""
    owner = f"   (and in the template of {' '.join(pod.workload)})" if pod.owner_name else ""
    return f"kubectl -n {pod.namespace} label pod {pod.name} {wanted.key}={value} --overwrite{owner}"
