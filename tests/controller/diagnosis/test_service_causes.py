"""Causes of Services, by values alone: what stands behind a Service, whether it is Ready, and where it listens."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from controller.cluster.state import ClusterState, Condition, Namespace, Pod, Workload
from controller.diagnosis import explain
from controller.diagnosis.case import Place
from controller.diagnosis.causes.service_not_synced import CAUSE
from controller.diagnosis.examine import first_orders
from model.facts import Packet, Walk
from model.netfilter import RuleRef
from model.words import Method, Outcome
from tests.controller.diagnosis import world
from tests.controller.diagnosis.test_causes import answer, best


def service_flow():
    """From a pod to the Service's address."""
    return replace(world.pod_flow(Method.TCP, 8080), service=world.SERVICE, service_port=world.SERVICE.ports[0])


def without_backends(state: ClusterState) -> ClusterState:
    """The Service's slice holds nobody."""
    empty = msgspec.structs.replace(state.slices["shop/web-1"], endpoints=())
    return replace(state, slices={**state.slices, "shop/web-1": empty})


def with_workload(state: ClusterState, **changes: object) -> dict[str, Workload]:
    """The Deployment behind the Service, changed."""
    key = "Deployment/shop/web"
    return {key: msgspec.structs.replace(state.workloads[key], **changes)}


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        pytest.param({"app": "wed"}, "app is wed where app=web is wanted", id="label misspelt"),
        pytest.param({}, None, id="no label at all"),
    ],
)
def test_selector_that_matches_nothing_names_the_difference(labels, says):
    """A Service without pods is named, with the pod that comes nearest."""
    state = world.cluster()
    pods = {
        uid: world.replace_struct(p, labels=labels) if p.namespace == "shop" else p for uid, p in state.pods.items()
    }
    changed = replace(without_backends(state), pods=pods, workloads=with_workload(state, template_labels=labels))
    case = world.case(service_flow(), state=changed)
    assert answer(case)[0] == "service.no_endpoints"
    assert str(best(case)) == "Service shop/web"
    if says:
        assert says in explain.early(case)[0].cause.summary


QUOTA = 'pods "web-1" is forbidden: exceeded quota: small'
WITHOUT_PODS = [
    pytest.param({"replicas": 0}, True, "its workload web is scaled to 0", id="scaled to nothing"),
    pytest.param({"replicas": 0, "written_at": 100.0}, True, "its workload web is scaled to 0", id="long ago"),
    pytest.param({"written_at": 195.0}, True, "its Deployment web wants 3 pods and has none", id="just scaled"),
    pytest.param({"written_at": 100.0}, False, "its Deployment web wants 3 pods and has none", id="nobody makes them"),
    pytest.param({"written_at": 195.0, "failure": QUOTA}, False, QUOTA, id="they cannot be made"),
]


@pytest.mark.parametrize(("changes", "intended", "says"), WITHOUT_PODS)
def test_a_workload_without_pods_is_told_from_a_wrong_selector(changes, intended, says):
    """Scaled to 0 is nobody's fault, and neither is a moment without pods; pods that cannot be made are one."""
    state = world.cluster()
    pods = {uid: p for uid, p in state.pods.items() if p.namespace != "shop"}
    changed = replace(without_backends(state), pods=pods, workloads=with_workload(state, **changes))
    (finding,) = explain.early(world.case(service_flow(), state=changed, at=200.0))
    assert (finding.cause.code, finding.intended) == ("service.no_endpoints", intended)
    assert says in finding.cause.summary
    assert "selector" not in finding.cause.fix


@pytest.mark.parametrize(
    ("sockets", "outcome", "expected"),
    [
        pytest.param(world.listens(9090), Outcome.REFUSED, ("service.target_port_mismatch",), id="listens elsewhere"),
        pytest.param(world.listens(8080), Outcome.REFUSED, (), id="listens there"),
        pytest.param(world.listens(9090), Outcome.TIMEOUT, (), id="not refused: something else"),
        pytest.param(world.listens(8080, address="127.0.0.1"), Outcome.REFUSED, (), id="on loopback: another cause"),
    ],
)
def test_target_port_is_held_against_the_sockets(sockets, outcome, expected):
    """The Service is blamed only if the pod refuses and listens on another port."""
    flow = service_flow()
    case = world.case(flow, burst=world.failed(outcome))
    case = replace(case, facts={**case.facts, flow.destination.site: sockets})
    assert answer(case) == expected


def unready(pod: Pod, since: float, **changes: object) -> Pod:
    """A pod that has not been Ready for a while."""
    told = Condition(type="Ready", status="False", reason="ContainersNotReady", changed_at=since)
    return msgspec.structs.replace(pod, **{"ready": False, "conditions": (told,), **changes})


# As the node lifecycle controller leaves a pod behind, see MarkPodsNotReady of Kubernetes' pkg/controller/util/node.
MARKED = (
    Condition(type="Ready", status="False", changed_at=100.0),
    Condition(type="ContainersReady", status="True", changed_at=1.0),
)
CREATING = ("ContainerCreating",)
UNREADY = [
    pytest.param({"conditions": MARKED}, 100.0, False, "although its containers are", id="marked with its node"),
    pytest.param({}, 100.0, False, "is not Ready (ContainersNotReady)", id="for long"),
    pytest.param({"waiting_reasons": ("CrashLoopBackOff",)}, 100.0, False, "CrashLoopBackOff", id="it crashes"),
    pytest.param({}, 195.0, True, "is not Ready", id="only just"),
    pytest.param({"started_at": 195.0}, 100.0, True, "is not Ready", id="its containers only just started"),
    pytest.param({"waiting_reasons": CREATING, "created_at": 150.0}, 151.0, True, "ContainerCreating", id="is made"),
    pytest.param({"waiting_reasons": CREATING}, 100.0, False, "ContainerCreating", id="is made for too long"),
    pytest.param(
        {"waiting_reasons": (*CREATING, "ErrImagePull"), "created_at": 180.0},
        180.0,
        False,
        "ErrImagePull",
        id="no image",
    ),
    pytest.param({"deleting": True}, 100.0, True, "is being deleted", id="it goes"),
    pytest.param({"node": "node-z"}, 100.0, True, "node-z, which has left the cluster", id="its node has left"),
]


@pytest.mark.parametrize(("changes", "since", "intended", "says"), UNREADY)
def test_pods_that_are_not_ready_are_named_with_their_reason(changes, since, intended, says):
    """A Service whose pods are all unready is a fault once it lasts; while pods come and go it is nobody's."""
    state = world.cluster()
    pods = {u: unready(p, since, **changes) if p.namespace == "shop" else p for u, p in state.pods.items()}
    part = state.slices["shop/web-1"]
    endpoints = tuple(msgspec.structs.replace(e, ready=False) for e in part.endpoints)
    slices = {"shop/web-1": msgspec.structs.replace(part, endpoints=endpoints)}
    case = world.case(service_flow(), state=replace(state, pods=pods, slices=slices), at=200.0)
    (finding,) = explain.early(case)
    assert (finding.cause.code, finding.intended) == ("service.endpoints_not_ready", intended)
    assert says in finding.cause.summary
    one = {**state.pods, next(u for u, p in pods.items() if p.namespace == "shop"): next(iter(pods.values()))}
    assert explain.early(world.case(service_flow(), state=replace(state, pods=one), at=200.0)) == []


@pytest.mark.parametrize("cause", ["no pods", "unready pods"])
def test_a_service_that_goes_with_its_namespace_is_no_fault(cause):
    """Deployments go before Services when a namespace is deleted; nobody is to mend that."""
    state = world.cluster()
    ending = Namespace(name="shop", deleting=True)
    pods = {u: unready(p, 100.0) if p.namespace == "shop" else p for u, p in state.pods.items()}
    if cause == "no pods":
        pods = {u: p for u, p in pods.items() if p.namespace != "shop"}
    empty = msgspec.structs.replace(state.slices["shop/web-1"], endpoints=())
    changed = replace(state, pods=pods, slices={"shop/web-1": empty}, namespaces={"shop": ending})
    (finding,) = explain.early(world.case(service_flow(), state=changed, at=200.0))
    assert finding.intended


def asking(address: str = "10.96.3.7", port: int = 80, protocol: str = "tcp") -> Packet:
    """A packet of the pod on node-a to a Service's address."""
    return Packet(
        family=4,
        source=service_flow().source.address,
        destination=address,
        protocol=protocol,
        source_port=40000,
        destination_port=port,
    )


def walked(asked: Packet, *destinations: str, by: RuleRef | None = None) -> Walk:
    """What becomes of it: translated to one of these, left as it is without any, or refused."""
    ways = tuple(msgspec.structs.replace(asked, destination=d) for d in destinations) or (asked,)
    return Walk(
        asked=asked,
        verdict="accept" if by is None else "reject",
        packet=ways[0],
        decided_by=by,
        alternatives=ways if len(ways) > 1 else (),
    )


TO_DNS = walked(asking("10.96.0.10", 53, "udp"), "10.244.1.9", "10.244.2.9")
REFUSED = RuleRef(
    backend="nft",
    family=4,
    table="kube-proxy",
    chain="cluster-ips-check",
    position=1,
    text="reject",
    owner="kube-proxy",
)
SYNCED = [
    pytest.param([walked(asking()), TO_DNS], 0.0, False, id="left as it is"),
    pytest.param([walked(asking(), by=REFUSED), TO_DNS], 0.0, False, id="refused by the proxy itself"),
    pytest.param([walked(asking()), TO_DNS], 195.0, True, id="the Service has only just been written"),
    pytest.param([walked(asking(), "10.244.2.2"), TO_DNS], 0.0, None, id="translated"),
    pytest.param([walked(asking(), "10.244.2.2", "10.244.3.2"), TO_DNS], 0.0, None, id="to one of several"),
    pytest.param([walked(asking()), walked(TO_DNS.asked)], 0.0, None, id="so is every other: no kube-proxy here"),
    pytest.param([walked(asking())], 0.0, None, id="of others nothing is known"),
    pytest.param([TO_DNS], 0.0, None, id="nothing is known"),
    pytest.param(
        [walked(asking(), by=msgspec.structs.replace(REFUSED, owner="administrator")), TO_DNS],
        0.0,
        None,
        id="a firewall",
    ),
    pytest.param(
        [msgspec.structs.replace(walked(asking()), verdict="unsure", unsure=("bpf",)), TO_DNS], 0.0, None, id="unsure"
    ),
]


@pytest.mark.parametrize(("walks", "written_at", "intended"), SYNCED)
def test_a_node_that_translates_other_services_lacks_the_rules_of_one(walks, written_at, intended):
    """Named with its node; never where the walk is unsure, or where nothing of kube-proxy is at work."""
    state = world.cluster()
    service = msgspec.structs.replace(world.SERVICE, written_at=written_at)
    flow = service_flow()
    flow = replace(flow, service=service, virtual_address="10.96.3.7", port=80, destination=Place(address="10.96.3.7"))
    facts = msgspec.structs.replace(world.healthy_facts("node-a"), walks=tuple(walks))
    found = [
        f
        for f in explain.early(world.case(flow, {"node-a": facts}, state=state, at=200.0))
        if f.cause.code == "service.not_synced"
    ]
    assert [f.intended for f in found] == ([] if intended is None else [intended])
    if found:
        thing = found[0].cause.object
        assert (thing.kind, thing.node, thing.namespace, thing.name) == ("Service", "node-a", "shop", "web")


def test_the_examiner_asks_for_another_service_beside_one_that_fails():
    """One packet more at the source's node, to a Service that is there for certain."""
    flow = replace(service_flow(), virtual_address="10.96.3.7", port=80, destination=Place(address="10.96.3.7"))
    orders = first_orders(world.case(flow), (CAUSE,))
    asked = {(p.destination, p.destination_port, p.protocol) for p in orders["node-a", ""].walks_asked}
    assert asked >= {("10.96.3.7", 80, "tcp"), ("10.96.0.10", 53, "udp")}
