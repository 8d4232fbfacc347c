"""Figures of the expectation at size: 10,000 pods in 200 namespaces under 1,000 policies. Never a gate."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

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

PODS, NAMESPACES, POLICIES = 10_000, 200, 1_000
QUESTIONS = 10_000
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
    rng = random.Random(seed)
    return [parse_policy(_policy(at, f"ns-{at % namespaces}", rng)) for at in range(count)]


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
    started = perf_counter()
    result = work()
    return perf_counter() - started, result


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
    ]
