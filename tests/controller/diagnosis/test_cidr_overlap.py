"""cni.cidr_overlap where Kubernetes' objects alone tell it: a Service that has a pod's address."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from controller.diagnosis import explain
from tests.controller.diagnosis import world


def test_a_service_with_a_pods_address() -> None:
    """Both are named, and only the paths to this pod are explained by it."""
    state, flow = world.cluster(), world.pod_flow()
    services = {
        key: msgspec.structs.replace(one, cluster_ips=(flow.destination.address,)) if key == world.SERVICE.key else one
        for key, one in state.services.items()
    }
    case = world.case(flow, burst=world.failed(), state=replace(state, services=services))
    (found,) = [f for f in explain.early(case) if f.cause.code == "cni.cidr_overlap"]
    assert found.cause.object.name == f"{flow.destination.address}/32"
    assert world.SERVICE.key in found.cause.summary and "pod shop/" in found.cause.summary
    assert flow.destination.pod is not None and found.scope.targets == (flow.destination.pod.uid,)


def test_no_service_has_it() -> None:
    """In the healthy cluster nothing overlaps."""
    case = world.case(world.pod_flow(), burst=world.failed())
    assert [f for f in explain.early(case) if f.cause.code == "cni.cidr_overlap"] == []
