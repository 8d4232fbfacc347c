"""What policy says of paths that are planned already: after a change of policies, before there is time to plan anew.

Pure. It changes nothing but expectations; which paths there should be is the next plan's word.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from controller.cluster.state import ClusterState, Pod
from controller.plan.expectation import OPEN, expect, expect_backends, pod_ref
from controller.plan.paths import ClusterPlan, Path
from controller.policy.model import PolicyModel
from controller.policy.peers import AddressRef
from model.diagnosis import Expectation
from model.words import MatrixKind, Method

PROTOCOLS = {Method.TCP: "TCP", Method.HTTP: "TCP", Method.UDP: "UDP", Method.DNS: "UDP", Method.ICMP: "ICMP"}


def expect_again(plan: ClusterPlan, model: PolicyModel, cluster: ClusterState) -> ClusterPlan:
    """The same plan, with what policy says now; paths of which it says the same are the very same values."""
    paths = {}
    for path_id, path in plan.paths.items():
        # A host is subject to no policy, and always reaches the pods on it.
        if not path.vantage.is_host and path.kind is not MatrixKind.HOST:
            pod = cluster.pods.get(path.vantage.pod_uid)
            found = expectation_of(path, pod, model, cluster) if pod is not None else path.expected
            if found != path.expected:
                path = msgspec.structs.replace(path, expected=found)  # noqa: PLW2901
        paths[path_id] = path
    return replace(plan, paths=paths)


def expectation_of(path: Path, pod: Pod, model: PolicyModel, cluster: ClusterState) -> Expectation:
    """What policy says of a path that begins in a pod: of every ready backend, where it leads to a Service."""
    protocol = "TCP" if path.task.over_tcp else PROTOCOLS[path.method]
    source = pod_ref(pod)
    if path.target_kind in {"Service", "DNSService"}:
        service = cluster.services.get(f"{path.target_namespace}/{path.target_name}")
        port = next(
            (p for p in service.ports if (p.port, p.protocol) == (path.port, protocol)) if service else iter(()), None
        )
        if service is None or port is None:
            return path.expected
        ready = [b for b in cluster.backends(service, port) if b.ready and b.family == path.family]
        return expect_backends(model, source, ready, path.family)
    if not path.address:
        return OPEN
    return expect(model, source, AddressRef(path.address), protocol, path.port, path.family)
