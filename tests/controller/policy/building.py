"""Kubernetes dictionaries → a model, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from controller.policy import (
    POLICY_KINDS,
    PolicyModel,
    Profile,
    expand_workload,
    parse_namespace,
    parse_node,
    parse_pod,
    parse_policy,
    parse_service,
)
from controller.policy.workloads import WORKLOADS

TRUTH = Path(__file__).parents[4] / "shared" / "truth"
FILES = sorted(path.name for path in TRUTH.glob("*.json")) or ["k8s_e2e_netpol.json", "npguard_np_v1.json"]


def truth(name: str) -> list[dict[str, Any]]:
    """Read a file of truth tables; absence is a failure, since nothing else can take its place."""
    return json.loads((TRUTH / name).read_text())  # type: ignore[no-any-return]


def model_of(objects: list[dict[str, Any]], *, profile: Profile | None = None) -> PolicyModel:
    """Build a model of objects of any kind that policies look at."""
    pods = [parse_pod(raw) for raw in objects if raw["kind"] == "Pod"]
    for raw in objects:
        if raw["kind"] in WORKLOADS:
            pods.extend(expand_workload(raw))
    services = [parse_service(raw) for raw in objects if raw["kind"] == "Service"]
    return PolicyModel.build(
        [parse_namespace(raw) for raw in objects if raw["kind"] == "Namespace"],
        pods,
        [parse_policy(raw) for raw in objects if raw["kind"] in POLICY_KINDS],
        profile,
        nodes=[parse_node(raw) for raw in objects if raw["kind"] == "Node"],
        service_addresses=[address for service in services for address in service.addresses],
    )
