"""What policies have the controller probe, expect and judge: forbidden paths, pods cut off from DNS, changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.cluster.state import ClusterState, ContainerPort, Pod
from controller.matrix.cells import ENFORCED_S
from controller.matrix.matrix import MatrixBook
from controller.plan.again import expect_again
from controller.plan.cut_off import is_cut_off
from controller.plan.expectation import PolicyReader, policy_model
from controller.plan.forbidden import LONGEST_S, RATE
from controller.plan.make import make_plans
from controller.plan.paths import ClusterPlan, PlanSettings
from controller.policy import PodRef
from controller.policy.table import Expected, by_namespace, by_workload, groups_of, table
from model.probes import Observation
from model.words import MatrixKind, Method, Outcome, Verdict
from tests.controller.clusters import cluster, pod, service, slice_of, with_pods
from tests.controller.test_matrix import StoppedClock

HTTP = (ContainerPort("http", "TCP", 8080),)
DENY = {"podSelector": {}, "policyTypes": ["Ingress"]}


def policy(name: str, spec: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
    """A NetworkPolicy as the API gives it."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def shop(*policies: dict[str, Any], pods: int = 2) -> ClusterState:
    """Three nodes; pods of the shop on node-b; DNS on node-a."""
    state = cluster()
    own = [pod("shop", f"web-{at}", "node-b", f"10.244.9.{at + 2}", container_ports=HTTP) for at in range(pods)]
    dns = pod("kube-system", "dns-0", "node-a", "10.244.8.2", labels={"k8s-app": "kube-dns"})
    front = service("kube-dns", "10.96.0.10", 53, 53, namespace="kube-system", protocol="UDP")
    keys = {f"{p['metadata']['namespace']}/{p['metadata']['name']}": p for p in policies}
    return cluster(
        pods=with_pods(state, *own, dns),
        services={front.key: front},
        slices={"kube-system/kube-dns-1": slice_of(front, dns)},
        policies=keys,
    )


def planned(state: ClusterState, epoch: int = 0) -> ClusterPlan:
    """The plan of a cluster."""
    return make_plans(state, policy_model(state), PlanSettings(), epoch=epoch)


def test_what_policies_forbid_is_tried_from_another_node() -> None:
    """Each pod that may not receive is asked over TCP at a declared port by the endpoint of a node not its own."""
    plan = planned(shop(policy("deny", DENY)))
    found = [p for p in plan.paths.values() if p.kind is MatrixKind.POLICY]
    assert {p.destination for p in found} == {"shop/web-0", "shop/web-1"}
    assert all(p.expected.allowed is False and p.method is Method.TCP and p.port == 8080 for p in found)
    assert all(p.source_node != "node-b" and p.expected.because == ("NetworkPolicy shop/deny",) for p in found)


def test_nothing_is_tried_where_nothing_is_forbidden() -> None:
    """Without policies there is no forbidden path, and no pod asks DNS but the endpoints."""
    plan = planned(shop())
    assert not [p for p in plan.paths.values() if p.kind is MatrixKind.POLICY or p.expected.allowed is False]
    assert {p.vantage.namespace for p in plan.paths.values() if p.kind is MatrixKind.DNS} == {"kubereach"}


def test_forbidden_paths_are_few_and_take_turns() -> None:
    """However many pods a policy shuts off: one guard's are tried at RATE, and each has its turn."""
    state, seen = shop(policy("deny", DENY), pods=20), set[str]()
    for epoch in range(0, 20, 2):
        plan = planned(state, epoch)
        found = [p for p in plan.paths.values() if p.kind is MatrixKind.POLICY]
        assert plan.rotates
        assert sum(1 / p.interval_s for p in found) <= RATE
        assert len(found) <= RATE * LONGEST_S
        seen |= {p.destination for p in found}
    assert len(seen) == 20


EGRESS = {"podSelector": {"matchLabels": {"app": "web-0"}}, "policyTypes": ["Egress"]}
DNS_PORTS = [{"protocol": "UDP", "port": 53}]
CUTS = {
    "to pods, without port 53": ([{"to": [{"podSelector": {}}]}], True),
    "to everybody, on one port": ([{"ports": [{"port": 443}]}], True),
    "to the internet, on one port": ([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}], True),
    "to nobody": ([], False),
    "to one address": ([{"to": [{"ipBlock": {"cidr": "203.0.113.7/32"}}]}], False),
    "to everybody": ([{}], False),
    "port 53 is not forgotten": ([{"to": [{"podSelector": {}}]}, {"ports": DNS_PORTS}], False),
}


@pytest.mark.parametrize(("rules", "cut"), CUTS.values(), ids=CUTS)
def test_a_pod_that_speaks_to_others_needs_dns(rules: list[dict[str, Any]], cut: bool) -> None:
    """Cut off by mistake is who may speak to others by name but not ask DNS; it then asks, as something vital."""
    state = shop(policy("out", {**EGRESS, "egress": rules}))
    assert is_cut_off(policy_model(state), state, state.pods["uid-web-0"]) is cut
    asking = [p for p in planned(state).paths.values() if p.vantage.name == "web-0" and p.method is Method.DNS]
    assert bool(asking) is cut
    assert all(p.vital and p.expected.allowed is False for p in asking)


def test_udp_is_no_tcp() -> None:
    """Where a policy lets one protocol through to endpoints, each path expects what holds for its own."""
    rule = {"ports": [{"protocol": "UDP", "port": 8700}]}
    plan = planned(shop(policy("udp", {"podSelector": {}, "ingress": [rule]}, "kubereach")))
    mesh = [p for p in plan.paths.values() if p.kind is MatrixKind.POD and not p.vantage.is_host]
    assert {(p.method, p.expected.allowed) for p in mesh} == {(Method.UDP, True), (Method.TCP, False)}


def test_policies_are_read_as_they_change() -> None:
    """A reader that saw the cluster before says the same as one that did not, and the very same if nothing changed."""
    reader, first = PolicyReader(), shop(policy("deny", DENY))
    model = reader.model(first)
    assert reader.model(replace(first, revision=9)) is model
    open_ = {"podSelector": {}, "ingress": [{"ports": [{"port": 8080}]}]}
    for state in (
        shop(policy("deny", DENY), policy("open", open_)),
        shop(policy("open", open_), pods=4),
        shop(policy("broken", {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}})),
    ):
        ends = PodRef("kubereach", "endpoint-0"), PodRef("shop", "web-1")
        for port in (8080, 9090):
            assert reader.model(state).decide(*ends, "TCP", port) == policy_model(state).decide(*ends, "TCP", port)


def test_a_changed_policy_is_taken_up_without_a_new_plan() -> None:
    """Expectations brought up to date say what a new plan says, of every path that both have."""
    before, after = shop(policy("deny", DENY)), shop(policy("deny", DENY, "kubereach"))
    again, fresh = expect_again(planned(before), policy_model(after), after), planned(after)
    both = again.paths.keys() & fresh.paths.keys()
    assert len(both) > 20
    assert {i: again.paths[i].expected for i in both} == {i: fresh.paths[i].expected for i in both}
    assert any(again.paths[i].expected.allowed is False for i in both)


def test_old_results_do_not_judge_a_new_policy() -> None:
    """What passed before it was forbidden is judged only by what is seen afterwards."""
    clock, before, after = StoppedClock(), shop(), shop(policy("deny", DENY, "kubereach"))
    book = MatrixBook(clock)
    plan = planned(before)
    path = next(p for p in plan.paths.values() if p.kind is MatrixKind.POD and not p.vantage.is_host)
    book.set_plan(plan)
    began_s, now_ms = clock.now, int(clock.now * 1000)
    book.ingest(path.source_node, [Observation(path.id, now_ms - 2000 + at, Outcome.OK, 50) for at in range(3)])
    book.set_plan(expect_again(plan, policy_model(after), after))
    status = book.status(path.id)
    assert status is not None
    assert status.verdict is Verdict.UNKNOWN
    for later_s, verdict in ((1, Verdict.UNKNOWN), (ENFORCED_S + 1, Verdict.UNEXPECTED_PASS)):
        clock.now = began_s + later_s
        book.ingest(path.source_node, [Observation(path.id, int(clock.now * 1000), Outcome.OK, 50)])
        seen = book.status(path.id)
        assert seen is not None
        assert seen.verdict is verdict
    assert path.id in {s.path.id for s in book.not_ok()}


ALIKE: dict[tuple[bool, ...], set[Expected]] = {(True,): {Expected.ALLOWED}, (False,): {Expected.DENIED}}
GROUPS = {"namespace": by_namespace, "workload": by_workload}


@pytest.mark.parametrize("by", GROUPS)
def test_the_table_says_what_every_pair_says(by: str) -> None:
    """Allowed: all pairs on any port; denied: none on any; partly: neither."""
    rules = [{"from": [{"podSelector": {"matchLabels": {"app": "web-1"}}}], "ports": [{"port": 8080}]}]
    model = policy_model(shop(policy("some", {"podSelector": {}, "ingress": rules})))
    groups = groups_of(model, GROUPS[by])
    entries = table(model, groups)
    members: dict[str, list[Pod]] = {}
    for one in model.universe.pods.values():
        members.setdefault(GROUPS[by](one), []).append(one)  # type: ignore[arg-type]
    for source, senders in members.items():
        for target, receivers in members.items():
            answers = {
                bool(model.decide(PodRef(a.namespace, a.name), PodRef(b.namespace, b.name), protocol, port).allowed)
                for a in senders
                for b in receivers
                for protocol, port in (("TCP", 8080), ("TCP", 8081), ("UDP", 8080))
                if a is not b
            }
            entry = entries.get((source, target))
            told = entry.expected if entry is not None else Expected.DENIED
            wanted = ALIKE.get(tuple(answers), {Expected.PARTLY})
            assert not answers or told in wanted | ({Expected.PARTLY} if source == target else set()), (source, target)
