"""The cluster service's decisions, without a lab: where pods go, what Services and names come to."""

from __future__ import annotations

from typing import Any

import pytest

from lab.embedded import dns
from lab.embedded.cluster import balancers, changes, endpoints, scheduling, workloads
from lab.embedded.cluster.podspec import image_name, program
from lab.topology import Uplink, uplink_batch

Object = dict[str, Any]


def node(name: str, **spec: Any) -> Object:
    """A Ready node."""
    ready = {"type": "Ready", "status": "True"}
    labels = {"kubernetes.io/hostname": name}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"conditions": [ready]}}


def pod(name: str, ip: str = "", *, ready: bool = True, labels: Object | None = None, **spec: Any) -> Object:
    """A pod in namespace `a`."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status: Object = {"phase": "Running", "conditions": conditions}
    if ip:
        status["podIPs"] = [{"ip": ip}]
    metadata = {"name": name, "namespace": "a", "uid": f"uid-{name}", "labels": labels or {"app": "web"}}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [], **spec}, "status": status}


def service(**spec: Any) -> Object:
    """A Service `web` in namespace `a` that selects app=web."""
    base = {"selector": {"app": "web"}, "ports": [{"port": 80}], "ipFamilies": ["IPv4"], "clusterIP": "10.96.0.7"}
    return {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "a", "uid": "u"},
        "spec": {**base, **spec},
    }


TAINT = {"key": "k", "value": "v", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("where", "what", "goes"),
    [
        (node("n"), pod("p"), True),
        (node("n", unschedulable=True), pod("p"), False),
        (node("n", taints=[TAINT]), pod("p"), False),
        (node("n", taints=[TAINT]), pod("p", tolerations=[{"key": "k", "value": "v"}]), True),
        (node("n", taints=[TAINT]), pod("p", tolerations=[{"key": "k", "value": "w"}]), False),
        (node("n", taints=[TAINT]), pod("p", tolerations=[{"operator": "Exists"}]), True),
        (node("n"), pod("p", nodeSelector={"kubernetes.io/hostname": "n"}), True),
        (node("n"), pod("p", nodeSelector={"kubernetes.io/hostname": "m"}), False),
    ],
    ids=["plain", "cordon", "taint", "tolerated", "other value", "tolerates all", "selected", "not selected"],
)
def test_a_pod_goes_only_where_it_may(where: Object, what: Object, goes: bool) -> None:
    """Cordon, taints and selectors are obeyed, and a refusal says how many nodes there are."""
    placement = scheduling.place(what, [where], [])
    assert (placement.node == "n") is goes
    assert goes or placement.message.startswith("0/1 nodes are available: 1 node(s) ")


def test_siblings_spread_over_the_nodes() -> None:
    """The second pod of an owner goes to a node that has none of it yet."""
    owner = [{"controller": True, "uid": "rs"}]
    first, second = pod("p1", nodeName="n1"), pod("p2")
    for one in (first, second):
        one["metadata"]["ownerReferences"] = owner
    assert scheduling.place(second, [node("n1"), node("n2")], [first]).node == "n2"


def test_endpoints_carry_readiness_node_and_zone() -> None:
    """An unready pod is listed and not ready; a terminating one is serving, not ready."""
    going = pod("gone", "10.244.1.4", nodeName="n1")
    going["metadata"]["deletionTimestamp"] = "now"
    pods = [pod("up", "10.244.1.2", nodeName="n1"), pod("sick", "10.244.1.3", ready=False), going]
    (one,) = endpoints.slices_for(service(), pods, {"n1": "zone-1"})
    by_name = {entry["targetRef"]["name"]: entry for entry in one["endpoints"]}
    assert by_name["up"]["conditions"] == {"ready": True, "serving": True, "terminating": False}
    assert (by_name["up"]["nodeName"], by_name["up"]["zone"]) == ("n1", "zone-1")
    assert by_name["sick"]["conditions"]["ready"] is False
    assert by_name["gone"]["conditions"] == {"ready": False, "serving": True, "terminating": True}


def test_a_named_port_is_looked_up_in_each_pod() -> None:
    """Pods that give the name to different numbers get slices of their own; one without it has no port."""
    old = pod("old", "10.244.1.2")
    old["spec"]["containers"] = [{"name": "c", "ports": [{"name": "api", "containerPort": 8080}]}]
    new = pod("new", "10.244.1.3")
    new["spec"]["containers"] = [{"name": "c", "ports": [{"name": "api", "containerPort": 9090}]}]
    found = endpoints.slices_for(
        service(ports=[{"port": 80, "targetPort": "api"}]), [old, new, pod("x", "10.244.1.4")], {}
    )
    assert sorted([port["port"] for port in one["ports"]] for one in found) == [[], [8080], [9090]]


def test_a_service_that_selects_nothing_has_an_empty_slice() -> None:
    """As in a real cluster: the slice is there, without endpoints."""
    (one,) = endpoints.slices_for(service(selector={"app": "other"}), [pod("up", "10.244.1.2")], {})
    assert one["endpoints"] == []


def test_an_update_of_names_touches_only_what_changed() -> None:
    """A name that gains a record is added to; one that loses a record is written anew; others stay."""
    before = {
        "a.": frozenset({"5 IN A 1.1.1.1"}),
        "b.": frozenset({"5 IN A 2.2.2.2"}),
        "c.": frozenset({"5 IN A 3.3.3.3"}),
    }
    after = {**before, "a.": before["a."] | {"5 IN A 1.1.1.9"}, "b.": frozenset({"5 IN A 2.2.2.9"})}
    assert dns.changes(before, after) == [
        ("local_datas_remove", "b.\n"),
        ("local_datas", "a. 5 IN A 1.1.1.9\nb. 5 IN A 2.2.2.9\n"),
    ]
    assert dns.changes(after, after) == []


def test_a_load_balancer_with_local_policy_leads_to_a_node_with_an_endpoint() -> None:
    """ExternalTrafficPolicy Local: the next hop has a ready endpoint, or there is no route."""
    balanced = service(type="LoadBalancer", externalTrafficPolicy="Local")
    balanced["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
    slices = endpoints.slices_for(balanced, [pod("up", "10.244.2.2", nodeName="n2")], {})
    addresses = {"n1": "10.77.1.11", "n2": "10.77.2.12"}
    assert balancers.next_hops([balanced], slices, addresses) == {"198.51.100.1": "10.77.2.12"}
    assert balancers.next_hops([balanced], [], addresses) == {}


def test_load_balancer_addresses_are_given_once() -> None:
    """Two Services get two addresses; one that has an address keeps it."""
    first, second = service(type="LoadBalancer"), service(type="LoadBalancer")
    second["metadata"] = {"name": "web2", "namespace": "a", "uid": "u2"}
    given = [address for _, address in balancers.assign([first, second], "198.51.100.0/24")]
    assert given == ["198.51.100.1", "198.51.100.2"]
    first["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
    assert [address for _, address in balancers.assign([first, second], "198.51.100.0/24")] == ["198.51.100.2"]


def test_asking_twice_makes_no_pod_twice() -> None:
    """A ReplicaSet names its missing pods the same each time, until they are there."""
    item = {
        "metadata": {"name": "rs", "namespace": "a", "uid": "u"},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {}}, "spec": {}}},
    }
    names = [
        [one.body["metadata"]["name"] for one in workloads.replica_set(item, []) if isinstance(one, changes.Create)]
        for _ in range(2)
    ]
    assert names[0] == names[1]
    assert len(set(names[0])) == 2


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("kubereach-lab", "kubereach-lab"),
        ("registry:5000/x/kubereach-lab:1.2", "kubereach-lab"),
        ("nginx@sha256:00", "nginx"),
    ],
)
def test_images_are_known_by_their_last_name(image: str, name: str) -> None:
    """Registry, tag and digest do not matter."""
    assert image_name(image) == name


@pytest.mark.parametrize(
    ("image", "args", "listens"),
    [
        ("nginx", ["-g"], ["TCP/80", "UDP/53"]),
        ("kubereach-lab", [], ["TCP/80", "UDP/53"]),
        ("kubereach-lab", ["--listen", "TCP/127.0.0.1:9"], ["TCP/127.0.0.1:9"]),
        ("kubereach-lab", ["--listen=UDP/7"], ["UDP/7"]),
    ],
    ids=["other image", "no arguments", "arguments", "with equals sign"],
)
def test_a_pod_answers_where_the_contract_says(image: str, args: list[str], listens: list[str], tmp_path: Any) -> None:
    """By --listen of its arguments, else on every declared containerPort."""
    ports = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]
    container = {"name": "c", "image": image, "args": args, "ports": ports}
    argv = program(pod("p"), container, {}, tmp_path).argv
    assert [argv[index + 1] for index, word in enumerate(argv) if word == "--listen"] == listens


def test_an_uplink_is_restored_by_lines_that_may_be_run_twice() -> None:
    """Addresses and default routes are replaced, never added."""
    lines = uplink_batch(Uplink("n", "p", 1, ("10.77.1.11/24",), ("10.77.1.1",)))
    assert lines == ["address replace 10.77.1.11/24 dev eth0", "route replace default via 10.77.1.1 dev eth0"]
