"""Figures of the expectation at size: 10,000 pods in 200 namespaces under 1,000 policies. Never a gate."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from time import process_time
from typing import Any, TypeVar

from controller.cluster.state import ClusterState, ContainerPort
from controller.cluster.state import Namespace as StateNamespace
from controller.matrix.matrix import MatrixBook
from controller.matrix.policy import expectations
from controller.plan.again import expect_again
from controller.plan.expectation import PolicyReader
from controller.plan.make import make_plans
from controller.plan.paths import PlanSettings
from controller.policy import (
    Namespace,
    Pod,
    PodRef,
    Policy,
    PolicyModel,
    Profile,
    blocks,
    make_namespace,
    parse_policy,
)
from controller.policy.objects import NamedPort
from model.clock import SystemClock
from tests.controller import clusters

PODS, NAMESPACES, POLICIES = 10_000, 200, 1_000
QUESTIONS = 10_000
NODES = 100
Result = TypeVar("Result")


def cluster(pods: int = PODS, namespaces: int = NAMESPACES, seed: int = 1) -> tuple[list[Namespace], list[Pod]]:
    """Make a cluster of ten apps a namespace, with addresses, named ports and a hash label as Deployments give."""
    rng = random.Random(seed)
    spaces = [make_namespace(f"ns-{at}", {"team": f"team-{at % 20}"}) for at in range(namespaces)]
    made = []
    for at in range(pods):
        app = rng.randrange(10)
        labels = {"app": f"app-{app}", "tier": f"tier-{app % 3}", "pod-template-hash": f"{app * 7919:x}"}
        made.append(
            Pod(
                namespace=f"ns-{at % namespaces}",
                name=f"pod-{at}",
                labels=tuple(sorted(labels.items())),
                addresses=(f"10.{at >> 16}.{(at >> 8) & 255}.{at & 255}",),
                named_ports=(NamedPort("web", "TCP", 8000 + app),),
                node=f"node-{at % 100}",
            )
        )
    return spaces, made


def policies(count: int = POLICIES, namespaces: int = NAMESPACES, seed: int = 2) -> list[Policy]:
    """Make policies as people write them: a default deny, apps from apps, teams, blocks, named ports."""
    return [parse_policy(raw) for raw in raw_policies(count, namespaces, seed)]


def raw_policies(count: int = POLICIES, namespaces: int = NAMESPACES, seed: int = 2) -> list[dict[str, Any]]:
    """Give the same as Kubernetes has them."""
    rng = random.Random(seed)
    return [_policy(at, f"ns-{at % namespaces}", rng) for at in range(count)]


def _policy(at: int, namespace: str, rng: random.Random) -> dict[str, Any]:
    app, other = f"app-{rng.randrange(10)}", f"app-{rng.randrange(10)}"
    peers: list[dict[str, Any]] = [
        {"podSelector": {"matchLabels": {"app": other}}},
        {"namespaceSelector": {"matchLabels": {"team": f"team-{rng.randrange(20)}"}}},
        {"ipBlock": {"cidr": f"10.0.{rng.randrange(40)}.0/24"}},
    ]
    rule = {"ports": [{"port": rng.choice(["web", 8443, 9090])}]}
    specs: list[dict[str, Any]] = [
        {"podSelector": {}, "policyTypes": ["Ingress"]},
        {"podSelector": {"matchLabels": {"app": app}}, "ingress": [{"from": [peers[0]], **rule}]},
        {"podSelector": {"matchLabels": {"app": app}}, "ingress": [{"from": [peers[1]], **rule}]},
        {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Egress"], "egress": [{"to": peers, **rule}]},
        {"podSelector": {"matchLabels": {"app": app}}, "ingress": [{"from": peers[1:]}]},
    ]
    # By fives round the namespaces, so that each has one of every kind.
    spec = specs[(at // NAMESPACES) % len(specs)]
    metadata = {"name": f"policy-{at}", "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Give seconds of processor time, since a busy machine says nothing of us, and what came out."""
    started = process_time()
    result = work()
    return process_time() - started, result


def watched(policies_: list[dict[str, Any]]) -> ClusterState:
    """Give the cluster as the controller holds it: NODES nodes with their endpoints, and all pods on them."""
    spaces, pods = cluster()
    own = clusters.cluster(NODES)
    names = list(own.nodes)
    others = [
        clusters.pod(
            pod.namespace,
            pod.name,
            names[at % NODES],
            pod.addresses[0],
            labels=dict(pod.labels),
            container_ports=(ContainerPort("web", "TCP", pod.named_ports[0].port),),
        )
        for at, pod in enumerate(pods)
    ]
    return clusters.cluster(
        NODES,
        pods=clusters.with_pods(own, *others),
        namespaces={n.name: StateNamespace(name=n.name, labels=dict(n.labels)) for n in spaces},
        policies={f"{raw['metadata']['namespace']}/{raw['metadata']['name']}": raw for raw in policies_},
    )


def controller_figures() -> list[tuple[str, float, str]]:
    """Give what a change of one policy costs the controller until every cell has its new verdict."""
    many = raw_policies()
    before, after = watched(many), watched([*many[:-1], raw_policies(1, seed=99)[0]])
    # As the watch gives it: nothing but the policy that changed is another object.
    after = replace(
        before, policies={**dict(list(before.policies.items())[:-1]), **dict([list(after.policies.items())[-1]])}
    )
    reader, matrix = PolicyReader(), MatrixBook(SystemClock())
    first_s, model = _timed(lambda: reader.model(before))
    plan = make_plans(before, model, PlanSettings())
    matrix.set_plan(plan)
    read_s, model = _timed(lambda: reader.model(after))
    again_s, changed = _timed(lambda: expect_again(plan, model, after))
    told_s, _ = _timed(lambda: matrix.set_plan(changed))
    table_s, _ = _timed(lambda: expectations(model, "namespace", ""))
    return [
        ("policy: controller, model from nothing", first_s, "s"),
        ("policy: controller, one policy changes, model ready", read_s, "s"),
        ("policy: controller, paths expected anew", float(len(plan.paths)), "1"),
        ("policy: controller, change to new verdicts", read_s + again_s + told_s, "s"),
        ("policy: matrix of namespaces", table_s, "s"),
    ]


def run() -> list[tuple[str, float, str]]:
    """Give the figures: name, value, unit."""
    spaces, pods = cluster()
    many = policies()
    built_s, model = _timed(lambda: PolicyModel.build(spaces, pods, many, Profile()))
    extra = policies(1, seed=99)[0]
    changed_s, changed = _timed(lambda: model.replace(policies=[*many[:-1], extra]))
    blocks_s, found = _timed(lambda: sum(1 for _ in blocks(changed)))
    rng = random.Random(3)
    refs = [PodRef(pod.namespace, pod.name) for pod in pods]
    pairs = [(rng.choice(refs), rng.choice(refs)) for _ in range(QUESTIONS)]
    first_s, _ = _timed(lambda: [changed.decide(a, b, "TCP", 8443) for a, b in pairs])
    again_s, _ = _timed(lambda: [changed.decide(a, b, "TCP", 8443) for a, b in pairs])
    return [
        ("policy: build, 10,000 pods, 1,000 policies", built_s, "s"),
        ("policy: one policy changes, model ready", changed_s, "s"),
        ("policy: whole relation by classes", blocks_s, "s"),
        ("policy: change to new verdicts", changed_s + blocks_s, "s"),
        ("policy: blocks of the relation", float(found), "1"),
        ("policy: 10,000 first decisions, each", first_s / QUESTIONS * 1e6, "µs"),
        ("policy: decision asked again", again_s / QUESTIONS * 1e6, "µs"),
        *controller_figures(),
    ]
