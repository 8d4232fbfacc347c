"""Plans: who probes what. Whole values are compared, since a plan is pure data."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.state import ClusterState
from controller.plan.expectation import policy_model
from controller.plan.make import make_plans
from controller.plan.order import (
    FIXED,
    STEP_RATE,
    fewest_zone_edges,
    fixed_offsets,
    relays_of,
    ring_of,
    step_offsets,
    targets,
)
from controller.plan.paths import ClusterPlan, EgressTarget, Path, PlanSettings
from model.words import MatrixKind, Method
from tests.controller.clusters import cluster, endpoint, node, pod, service, slice_of, with_pods

SETTINGS = PlanSettings()
DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"namespace": "shop", "name": "only-front"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "cart"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}]}],
    },
}


def plan_of(state: ClusterState, **more: object) -> ClusterPlan:
    """The plan of a cluster, with its policies."""
    return make_plans(state, policy_model(state), SETTINGS, **more)  # type: ignore[arg-type]


def brief(path: Path) -> tuple[object, ...]:
    """What matters of a path."""
    return (path.kind.value, str(path.vantage), path.method.value, path.address, path.port, path.interval_s)


def test_two_nodes_probe_each_other_in_every_way() -> None:
    """Host to host and endpoint to endpoint by UDP, TCP and ICMP, and the host its own endpoint: no more, no less."""
    plan = plan_of(cluster(2))
    own = "pod/kubereach/endpoint-0"
    assert sorted(brief(p) for p in plan.paths.values() if p.source_node == "node-a") == sorted(
        [
            ("host", "host", "udp", "10.77.2.12", 8701, 1.0),
            ("host", "host", "tcp", "10.77.2.12", 8701, 3.0),
            ("host", "host", "icmp", "10.77.2.12", 0, 5.0),
            ("pod", own, "udp", "10.244.0.3", 8700, 1.0),
            ("pod", own, "tcp", "10.244.0.3", 8700, 3.0),
            ("pod", own, "icmp", "10.244.0.3", 0, 5.0),
            ("pod", "host", "udp", "10.244.0.2", 8700, 1.0),
            ("pod", "host", "tcp", "10.244.0.2", 8700, 3.0),
        ]
    )


def test_tasks_are_those_of_the_paths() -> None:
    """An agent's plan has just the tasks of the paths that begin on its node, each with its vantage."""
    plan = plan_of(cluster(3))
    for name, own in plan.plans.items():
        paths = [p for p in plan.paths.values() if p.source_node == name]
        assert {t.id: own.vantages[t.vantage] for t in own.tasks} == {p.id: p.vantage for p in paths}


@given(st.permutations(list(cluster(4).pods.values())), st.permutations(list(cluster(4).nodes.values())))
def test_the_same_cluster_gives_the_same_plan(pods: list, nodes: list) -> None:  # type: ignore[type-arg]
    """The order in which the API told of things does not matter."""
    state = cluster(4)
    shuffled = cluster(4, pods={p.uid: p for p in pods}, nodes={n.name: n for n in nodes})
    assert plan_of(shuffled).plans == plan_of(state).plans


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        pytest.param({"ready": False, "was_ready": True}, True, id="its node broke"),
        pytest.param({"ready": False, "was_ready": False}, False, id="it has never been ready"),
        pytest.param({"deleting": True}, False, id="it is ending"),
        pytest.param({"phase": "Succeeded"}, False, id="it has ended"),
        pytest.param({"addresses": ()}, False, id="it has no address"),
    ],
)
def test_an_endpoint_stays_a_target_while_it_should_answer(changes: dict[str, object], stays: bool) -> None:
    """A pod that was ready once is probed until it goes away; one that is still starting is not."""
    state = cluster(2)
    other = msgspec.structs.replace(endpoint(1, "node-b"), **changes)
    plan = plan_of(cluster(2, pods=with_pods(state, other)))
    probed = [p for p in plan.paths.values() if p.kind is MatrixKind.POD and p.address == "10.244.0.3"]
    assert bool(probed) is stays


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        pytest.param({"ready": False}, True, id="NotReady"),
        pytest.param({"ready": None}, True, id="Unknown"),
        pytest.param({"unschedulable": True}, True, id="cordoned"),
        pytest.param({"deleting": True}, False, id="being deleted"),
    ],
)
def test_a_node_is_probed_while_its_object_exists(changes: dict[str, object], stays: bool) -> None:
    """A node whose network broke must stay in sight; one that is taken away is no fault."""
    state = cluster(3)
    broken = msgspec.structs.replace(state.nodes["node-b"], **changes)
    plan = plan_of(cluster(3, nodes={**state.nodes, "node-b": broken}))
    assert any(p.destination == "node-b" and p.kind is MatrixKind.HOST for p in plan.paths.values()) is stays


@pytest.mark.parametrize(
    ("ready", "methods"),
    [pytest.param(True, {Method.ICMP}, id="a Ready node answers ping"), pytest.param(False, set(), id="a new node")],
)
def test_a_host_without_agent_serves_no_port(ready: bool, methods: set[Method]) -> None:
    """Where no agent came yet, or it said goodbye, nothing listens: no probe is sent there to fail."""
    state = cluster(2)
    nodes = {**state.nodes, "node-b": node(1, ready=ready)}
    plan = plan_of(cluster(2, nodes=nodes), agents=frozenset({"node-a"}))
    found = {p.method for p in plan.paths.values() if p.kind is MatrixKind.HOST and p.destination == "node-b"}
    assert found == methods


def _shop(*, with_policy: bool, ready: bool = True) -> ClusterState:
    cart = pod("shop", "cart", "node-b", "10.244.1.9")
    front = pod("shop", "front", "node-a", "10.244.1.8")
    owner = service("cart", "10.96.0.7", 80, 8080)
    return cluster(
        3,
        pods=with_pods(cluster(3), cart, front),
        services={owner.key: owner},
        slices={"shop/cart-1": slice_of(owner, cart, ready=ready)},
        policies={"shop/only-front": DENY} if with_policy else {},
    )


def test_a_service_is_probed_from_where_policy_lets_through() -> None:
    """From the endpoint where it may; else from a pod of the node that may; else it is unsampled, with the reason."""
    plan = plan_of(_shop(with_policy=True))
    front = [p for p in plan.paths.values() if p.target_kind == "Service"]
    assert [(p.source_node, p.vantage.name, p.expected.allowed) for p in front] == [("node-a", "front", True)]
    # cart itself: a pod to itself is left open where a policy applies.
    assert {(u.source, u.destination) for u in plan.unsampled} == {
        ("node-b", "shop/cart:80/tcp"),
        ("node-c", "shop/cart:80/tcp"),
    }
    assert all("NetworkPolicy shop/only-front" in u.reason for u in plan.unsampled if u.source == "node-c")
    free = plan_of(_shop(with_policy=False))
    vantages = [p.vantage.name for p in free.paths.values() if p.target_kind == "Service"]
    assert vantages == ["endpoint-0", "endpoint-1", "endpoint-2"]


def test_a_service_without_backends_is_probed_all_the_same() -> None:
    """Nobody meant it to refuse: it must be seen."""
    plan = plan_of(_shop(with_policy=True, ready=False))
    front = [p for p in plan.paths.values() if p.target_kind == "Service"]
    assert {(p.source_node, p.vantage.name, p.expected.allowed, p.destination_nodes) for p in front} == {
        (f"node-{x}", f"endpoint-{i}", True, frozenset()) for i, x in enumerate("abc")
    }


def test_each_host_probes_the_backends_on_it() -> None:
    """At the target port, since that is what a Service with a wrong one leads to."""
    plan = plan_of(_shop(with_policy=True))
    behind = [p for p in plan.paths.values() if p.target_kind == "Backend"]
    assert [(p.source_node, str(p.vantage), p.address, p.port, p.interval_s, p.destination) for p in behind] == [
        ("node-b", "host", "10.244.1.9", 8080, 5.0, "shop/cart:80/tcp")
    ]


def test_dns_is_asked_at_the_service_and_at_each_replica() -> None:
    """UDP and TCP at the Service, UDP at each replica, and an outside name where there is one."""
    dns = service("kube-dns", "10.96.0.10", 53, 53, namespace="kube-system", protocol="UDP")
    one = pod("kube-system", "dns-1", "node-a", "10.244.1.3", labels={"app": "kube-dns"})
    two = pod("kube-system", "dns-2", "node-b", "10.244.1.4", labels={"app": "kube-dns"}, ready=False)
    state = cluster(
        2,
        pods=with_pods(cluster(2), one, two),
        services={dns.key: dns},
        slices={"kube-system/kube-dns-1": slice_of(dns, one, two)},
    )
    settings = PlanSettings(egress_targets=(EgressTarget("http://web.test/", "web.test", 80, ("203.0.113.10",)),))
    plan = make_plans(state, policy_model(state), settings)
    asked = {
        (p.destination, p.target_kind, p.address, p.task.name)
        for p in plan.paths.values()
        if p.kind is MatrixKind.DNS and p.source_node == "node-a"
    }
    inside = "kubernetes.default.svc.cluster.local."
    assert asked == {
        ("kube-system/kube-dns", "DNSService", "10.96.0.10", inside),
        ("web.test", "DNSService", "10.96.0.10", "web.test."),
        ("kube-system/dns-1", "DNSReplica", "10.244.1.3", inside),
        ("kube-system/dns-2", "DNSReplica", "10.244.1.4", inside),
    }
    egress = [p for p in plan.paths.values() if p.kind is MatrixKind.EGRESS and p.source_node == "node-a"]
    assert {(p.destination, str(p.vantage)) for p in egress} == {
        ("http://web.test/", "pod/kubereach/endpoint-0"),
        ("http://web.test/ (host)", "host"),
    }


@pytest.mark.parametrize("count", [2, 20, 100], ids=str)
def test_the_budget_is_kept(count: int) -> None:
    """No agent sends more than 16 node-to-node probes a second by UDP, nor 4 by TCP and 2 by ICMP."""
    plan = plan_of(cluster(count))
    rates: Counter[tuple[str, Method]] = Counter()
    for path in plan.paths.values():
        rates[path.source_node, path.method] += 1 / path.interval_s  # type: ignore[assignment]
    limits = {Method.UDP: 16.0, Method.TCP: 4.0, Method.ICMP: 1.5}
    assert all(rate <= limits[method] + 0.01 for (_, method), rate in rates.items())


def test_a_full_mesh_probes_every_pair() -> None:
    """Every ordered pair of nodes on both networks, and each diagonal on the pod network."""
    plan = plan_of(cluster(5))
    names = plan.nodes
    cells = {(p.kind, p.source_node, p.destination) for p in plan.paths.values()}
    assert cells == {(MatrixKind.POD, a, b) for a in names for b in names} | {
        (MatrixKind.HOST, a, b) for a in names for b in names if a != b
    }


@pytest.mark.parametrize("count", [482, 700, 1000, 5000], ids=str)
def test_fixed_offsets_differ_pairwise(count: int) -> None:
    """No two pairs of fixed offsets lie equally far apart, so two nodes share at most one target."""
    offsets = fixed_offsets(count, "k")
    assert len(offsets) == FIXED
    differences = [(a - b) % count for a in offsets for b in offsets if a != b]
    assert len(differences) == len(set(differences))


@pytest.mark.parametrize("count", [482, 1000, 5000], ids=str)
def test_all_pairs_have_their_turn(count: int) -> None:
    """Fixed and stepping offsets together are all there are, and the steps need (N − 1) / STEP_RATE seconds."""
    fixed = set(fixed_offsets(count, "k"))
    seen: set[int] = set()
    spent_s = 0.0
    epoch = 0
    while len(seen) + len(fixed) < count - 1:
        block = set(step_offsets(count, "k", epoch))
        assert not block & seen
        seen |= block
        spent_s += len(block) / STEP_RATE
        epoch += 1
    assert seen | fixed == set(range(1, count))
    assert spent_s <= (count - 1) / STEP_RATE


def test_a_ring_joins_every_pair_of_zones() -> None:
    """Four edges at least between every two zones, and within each."""
    zones = {f"n{i}": f"z{i % 7}" for i in range(700)}
    ring = ring_of(zones, "k")
    assert sorted(ring) == sorted(zones)
    assert fewest_zone_edges(ring, fixed_offsets(700, "k"), zones) >= 4


def test_a_target_that_left_is_replaced_locally() -> None:
    """Only those who probed it get another; nobody else's targets move."""
    ring = tuple(f"n{i}" for i in range(20))
    offsets = (1, 5, 7)
    everyone, rest = frozenset(ring), frozenset(ring) - {"n5"}
    for index in range(20):
        before, after = targets(ring, everyone, index, offsets), targets(ring, rest, index, offsets)
        assert len(after) == 3
        assert [a for a, b in zip(before, after, strict=True) if a != b] == (["n5"] if "n5" in before else [])


def test_relays_stand_in_other_zones_too() -> None:
    """Two neighbours of other zones and one of its own; each node serves as many as it is served by, about."""
    zones = {f"n{i}": f"z{i % 2}" for i in range(20)}
    chosen = relays_of(zones, "k")
    for name, near in chosen.items():
        assert name not in near
        assert Counter(zones[n] == zones[name] for n in near) == {True: 1, False: 2}
    assert max(Counter(n for near in chosen.values() for n in near).values()) <= 9


def test_relays_know_their_clients() -> None:
    """Whoever is named as a relay accepts the addresses of those to whom it is named."""
    state = cluster(4)
    plan = plan_of(state)
    for name, own in plan.plans.items():
        assert own.relays
        for peer in own.relays:
            assert set(state.nodes[name].addresses) <= set(plan.plans[peer.node].relay_clients)


def test_a_sampled_plan_keeps_its_budget() -> None:
    """Above the full mesh each agent has fixed targets on both networks and steps on one, within its rate."""
    state = cluster(490)
    plan = plan_of(state, epoch=4)
    for name in plan.nodes[:20]:
        own = [p for p in plan.paths.values() if p.source_node == name]
        assert sum(1 / p.interval_s for p in own) <= SETTINGS.node_rate + 0.5
        assert len({p.destination for p in own if p.kind is MatrixKind.POD}) > FIXED
