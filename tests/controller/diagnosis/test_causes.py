"""Each cause, by values alone: it finds its own break, names the object, and nothing else finds it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from controller.diagnosis import explain
from controller.diagnosis.case import Case
from controller.diagnosis.flows import vantage_of
from controller.plan.expectation import expect, pod_ref, policy_model
from controller.plan.paths import Path
from model.diagnosis import Cause
from model.facts import Dropper, Facts, Packet, PolicyRule, Resolution, Route, RouteAnswer, RouteQuery, Walk
from model.netfilter import RuleRef
from model.probes import Task
from model.words import MatrixKind, Method, Network, Outcome
from tests.controller.diagnosis import world


def answer(case: Case) -> tuple[str, ...]:
    """The codes that are found, best first."""
    return tuple(f.cause.code for f in explain.ordered([*explain.early(case), *explain.late(case)]))


def best(case: Case) -> object:
    """The object that the best finding names."""
    return explain.ordered([*explain.early(case), *explain.late(case)])[0].cause.object


def changed(facts: Facts, **fields: object) -> Facts:
    """Facts with some subjects replaced."""
    return msgspec.structs.replace(facts, **fields)


FLOWS = [
    pytest.param(world.pod_flow(), id="pod to pod"),
    pytest.param(world.host_flow(), id="host to host"),
    pytest.param(
        replace(world.pod_flow(Method.TCP, 8080), service=world.SERVICE, service_port=world.SERVICE.ports[0]),
        id="service",
    ),
]


@pytest.mark.parametrize("flow", FLOWS)
def test_healthy_facts_name_no_cause(flow):
    """Where every fact is as it should be, no cause fits, though the probes went unanswered."""
    trace = world.traced(flow, {
        "node-a": (world.seen("eth0", "out", 5), world.seen("eth0", "in", 5, reply=True)),
        "node-b": (world.seen("eth0", "in", 5), world.seen("eth0", "out", 5, reply=True)),
    })  # fmt: skip
    after = {(node, ""): Facts(droppers=()) for node in ("node-a", "node-b")}
    case = world.case(flow, burst=world.failed(), after=after, trace=trace)
    assert answer(case) == ()


def test_device_down_is_named_by_the_node_itself():
    """A node that can still speak is believed about its own link."""
    facts = world.healthy_facts("node-b")
    down = tuple(
        msgspec.structs.replace(link, up=False, carrier=False) if link.name == "eth0" else link for link in facts.links
    )
    case = world.case(world.host_flow(), {"node-b": changed(facts, links=down)})
    assert answer(case) == ("node.uplink_down",)
    assert best(case).name == "eth0"
    assert best(case).node == "node-b"


def test_lost_address_is_an_uplink_fault():
    """The address gone from an otherwise healthy device is named with that device."""
    facts = world.healthy_facts("node-b")
    gone = tuple(a for a in facts.addresses if a.device != "eth0")
    case = world.case(world.host_flow(), {"node-b": changed(facts, addresses=gone)})
    assert answer(case) == ("node.uplink_down",)


CUT = frozenset(
    (a, b, k) for k in MatrixKind for a in world.NODES for b in world.NODES if a != b and "node-b" in (a, b)
)


@pytest.mark.parametrize(
    ("macs", "failing", "expected"),
    [
        pytest.param((), CUT, ("node.uplink_down",), id="no ARP answer, nothing reaches it"),
        pytest.param(("02:00:00:00:00:77",), CUT, (), id="it answers ARP: not the device"),
        pytest.param((), frozenset({("node-a", "node-b", MatrixKind.HOST)}), (), id="others still reach it"),
    ],
)
def test_silent_node_is_judged_at_layer_two(macs, failing, expected):
    """A silent node's device is blamed only if its segment gets no ARP answer and nobody reaches it."""
    witness = Facts(resolved=(Resolution(address=world.node_address("node-b"), device="eth0", macs=macs),))
    case = world.case(
        world.host_flow(),
        failing=failing,
        silent={"node-b": "the agent of node-b did not answer"},
        witnesses={"node-c": witness},
    )
    case = replace(case, facts={site: f for site, f in case.facts.items() if site[0] != "node-b"})
    assert answer(case) == expected


@pytest.mark.parametrize(
    ("key", "incoming"),
    [
        pytest.param("net.ipv4.ip_forward", "cni0", id="host-wide"),
        pytest.param("net.ipv4.conf.cni0.forwarding", "cni0", id="one device"),
    ],
)
def test_forwarding_off_names_the_sysctl(key, incoming):
    """The kernel refuses to forward, and a sysctl is 0: that sysctl is named, on that node."""
    facts = world.healthy_facts("node-b")
    flow = world.pod_flow()
    query = RouteQuery(destination=flow.source.address, source=flow.destination.address)
    broken = changed(
        facts,
        sysctls={**facts.sysctls, key: "0"},
        route_answers=(RouteAnswer(query=query, incoming=incoming, errno=113),),
    )
    case = world.case(flow, {"node-b": broken})
    assert answer(case)[0] == "node.ip_forward_off"
    assert (best(case).node, best(case).name) == ("node-b", key)


def test_forwarding_off_does_not_concern_hosts():
    """Host to host needs no forwarding, so the sysctl explains nothing there."""
    facts = world.healthy_facts("node-b")
    case = world.case(world.host_flow(), {"node-b": changed(facts, sysctls={"net.ipv4.ip_forward": "0"})})
    assert answer(case) == ()


def test_route_to_the_peers_pods_missing():
    """Only the default route left for the peer's pods: the route is named, with its node and the command."""
    facts = world.healthy_facts("node-a")
    routes = tuple(r for r in facts.routes if r.destination != "10.244.2.0/24")
    case = world.case(world.pod_flow(), {"node-a": changed(facts, routes=routes)})
    assert answer(case) == ("cni.remote_route_missing",)
    assert (best(case).node, best(case).name) == ("node-a", "10.244.2.0/24")
    fix = explain.early(case)[0].cause.fix
    assert fix == "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"


def test_route_missing_on_the_way_back_is_found_too():
    """The reply needs a route as well."""
    facts = world.healthy_facts("node-b")
    routes = tuple(r for r in facts.routes if r.destination != "10.244.1.0/24")
    case = world.case(world.pod_flow(), {"node-b": changed(facts, routes=routes)})
    assert (best(case).node, best(case).name) == ("node-b", "10.244.1.0/24")


@pytest.mark.parametrize(
    ("subject", "kind"),
    [pytest.param("fdb", "fdb", id="FDB entry"), pytest.param("neighbours", "neighbour", id="neighbour entry")],
)
def test_tunnel_entry_missing(subject, kind):
    """The step of route → neighbour → FDB that is missing is the one named."""
    facts = world.healthy_facts("node-a")
    kept = tuple(e for e in getattr(facts, subject) if e.mac != world.mac("node-b"))
    case = world.case(world.pod_flow(), {"node-a": changed(facts, **{subject: kept})})
    assert answer(case) == ("cni.vtep_missing",)
    assert (best(case).kind, best(case).node) == (kind, "node-a")


def test_more_specific_route_of_another_device_overlaps():
    """A bridge with addresses of the peer's pods wins over the tunnel: both ranges are named."""
    facts = world.healthy_facts("node-a")
    stray = Route(family=4, destination="10.244.2.0/25", device="docker0", protocol=2, scope="link")
    case = world.case(world.pod_flow(), {"node-a": changed(facts, routes=(*facts.routes, stray))})
    assert answer(case) == ("cni.cidr_overlap",)
    assert best(case).name == "10.244.2.0/25 dev docker0"
    assert "10.244.2.0/24" in best(case).text


def test_more_specific_route_of_the_plugin_is_no_overlap():
    """Calico's own /32 of a pod that moved is not a fault."""
    facts = world.healthy_facts("node-a")
    own = Route(family=4, destination="10.244.2.2/32", device="flannel.1", gateway="10.244.2.0", protocol=80)
    assert answer(world.case(world.pod_flow(), {"node-a": changed(facts, routes=(*facts.routes, own))})) == ()


MAIN_RULE = PolicyRule(family=4, priority=32766, table=254)
STRAY = PolicyRule(family=4, priority=100, source="10.244.1.0/24", action="blackhole")
TO_TABLE = PolicyRule(family=4, priority=100, destination="10.244.2.0/24", table=77)
REFUSING = Route(family=4, destination="0.0.0.0/0", type="unreachable", table=77)
STRAY_RULES = [
    pytest.param([STRAY], [], 22, "100", id="blackhole"),
    pytest.param([TO_TABLE], [REFUSING], 113, "100", id="a table that refuses"),
    pytest.param([PolicyRule(family=4, priority=5, mark=1, table=77), STRAY], [], 22, "100", id="behind one of marks"),
    pytest.param(
        [msgspec.structs.replace(STRAY, source="10.9.0.0/16", inverted=True)], [], 22, "100", id="of all but others"
    ),
    pytest.param([STRAY], [], 113, None, id="the kernel says something else"),
    pytest.param([STRAY], [], 0, None, id="the kernel knows the way"),
    pytest.param([msgspec.structs.replace(STRAY, source="10.9.0.0/16")], [], 22, None, id="of others"),
    pytest.param([msgspec.structs.replace(STRAY, incoming="eth9")], [], 22, None, id="of another device"),
    pytest.param([msgspec.structs.replace(STRAY, priority=40000)], [], 22, None, id="behind the main table"),
    pytest.param([msgspec.structs.replace(STRAY, unread=(22,))], [], 22, None, id="with a condition that is not read"),
    pytest.param([TO_TABLE], [], 113, None, id="an empty table"),
    pytest.param([msgspec.structs.replace(TO_TABLE, suppressed=0)], [REFUSING], 113, None, id="its default left out"),
    pytest.param([TO_TABLE], [msgspec.structs.replace(REFUSING, type="throw")], 113, None, id="back to the next rule"),
]


@pytest.mark.parametrize(("rules", "routes", "errno", "named"), STRAY_RULES)
def test_the_rule_that_decides_over_the_packet_is_named_if_it_throws_it_away(rules, routes, errno, named):
    """As the kernel goes through them: by priority, the first with an action or with a route in its table."""
    flow = world.pod_flow()
    facts = world.healthy_facts("node-a")
    query = RouteQuery(destination=flow.destination.address, source=flow.source.address, incoming="cni0")
    broken = changed(
        facts,
        rules=(MAIN_RULE, *rules),
        routes=(*facts.routes, *routes),
        route_answers=(RouteAnswer(query=query, incoming="cni0", errno=errno),),
    )
    case = world.case(flow, {"node-a": broken})
    codes = answer(case)
    assert ("node.route_stray_rule" in codes) is (named is not None), codes
    if named:
        assert (codes[0], best(case).node, best(case).name) == ("node.route_stray_rule", "node-a", named)
        assert explain.early(case)


def test_two_nodes_with_one_pod_cidr():
    """Overlapping podCIDRs of two Nodes are named from the objects."""
    state = world.cluster()
    nodes = dict(state.nodes)
    nodes["node-c"] = msgspec.structs.replace(nodes["node-c"], pod_cidrs=("10.244.2.0/25",))
    case = world.case(world.pod_flow(), state=replace(state, nodes=nodes))
    assert answer(case)[0] == "cni.cidr_overlap"


RULE = RuleRef(
    backend="nft_compat",
    family=4,
    table="filter",
    chain="FORWARD",
    position=3,
    text="-A FORWARD -p udp --dport 8700 -j DROP",
    delete_command="iptables -D FORWARD 3",
)
PACKET = Packet(family=4, source="10.244.1.2", destination="10.244.2.2", protocol="udp", destination_port=8700)


def dropping(rule: RuleRef, packets: int, matches: str = "yes") -> Facts:
    """Facts with one dropping rule and its counter."""
    return Facts(
        droppers=(
            Dropper(rule=msgspec.structs.replace(rule, packets=packets), verdict="drop", matches=matches, asked=PACKET),
        )
    )


@pytest.mark.parametrize(
    ("moved", "target", "found"),
    [
        pytest.param(5, "", True, id="counted the burst"),
        pytest.param(2, "", False, id="counted less than the burst"),
        pytest.param(0, "", False, id="stood still"),
        pytest.param(5, "NetworkPolicy shop/deny", False, id="does a policy's duty"),
    ],
)
def test_rule_is_blamed_by_its_counter(moved, target, found):
    """A rule is blamed if it counted the burst, and not if it does what a Kubernetes object asked for."""
    rule = msgspec.structs.replace(RULE, target=target)
    before = changed(world.healthy_facts("node-b"), droppers=dropping(rule, 11).droppers)
    case = world.case(
        world.pod_flow(), {"node-b": before}, burst=world.failed(), after={("node-b", ""): dropping(rule, 11 + moved)}
    )
    assert (answer(case) == ("node.firewall_drop",)) is found
    if found:
        assert best(case).name == "filter/FORWARD/3"
        assert explain.late(case)[0].cause.fix == "iptables -D FORWARD 3"


def test_rule_without_counter_is_blamed_by_the_walk():
    """A native nftables rule need not count: then the walk that ends in it is the evidence."""
    rule = msgspec.structs.replace(RULE, backend="nft", table="fw", chain="forward", text="udp dport 8700 drop")
    walk = Walk(asked=PACKET, verdict="drop", packet=PACKET, decided_by=rule)
    facts = changed(world.healthy_facts("node-b"), walks=(walk,))
    case = world.case(
        world.pod_flow(), {"node-b": facts}, burst=world.failed(), after={("node-b", ""): Facts(droppers=())}
    )
    assert answer(case) == ("node.firewall_drop",)


def test_walk_is_refuted_by_a_counter_that_stood_still():
    """A rule that counts, and did not count the burst, did not drop it, whatever the walk says."""
    walk = Walk(asked=PACKET, verdict="drop", packet=PACKET, decided_by=RULE)
    facts = changed(world.healthy_facts("node-b"), walks=(walk,), droppers=dropping(RULE, 7).droppers)
    case = world.case(
        world.pod_flow(), {"node-b": facts}, burst=world.failed(), after={("node-b", ""): dropping(RULE, 7)}
    )
    assert answer(case) == ()


def dns_case(one: Outcome, two: Outcome) -> Case:
    """A DNS question, with what the two replicas answered to their own nodes' hosts."""
    flow = replace(world.pod_flow(Method.DNS, 53), service=world.DNS, service_port=world.DNS.ports[0])
    replicas = {"dns-node-a": world.failed(one, 2), "dns-node-b": world.failed(two, 2)}
    return world.case(flow, replicas=replicas)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        pytest.param(Outcome.TIMEOUT, Outcome.OK, ("dns.replica_down",), id="one is silent"),
        pytest.param(Outcome.REFUSED, Outcome.TIMEOUT, ("dns.all_down",), id="both are silent"),
        pytest.param(Outcome.OK, Outcome.OK, (), id="both answer"),
        pytest.param(Outcome.SERVER_FAILURE, Outcome.OK, (), id="SERVFAIL is an answer"),
        pytest.param(Outcome.NOT_MEASURED, Outcome.OK, (), id="a replica that cannot be asked is not blamed"),
        pytest.param(Outcome.NOT_MEASURED, Outcome.TIMEOUT, ("dns.replica_down",), id="not all are known to be down"),
    ],
)
def test_dns_servers_are_judged_by_their_own_hosts(one, two, expected):
    """Only a replica that does not answer its own node's host is down."""
    assert answer(dns_case(one, two)) == expected


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        pytest.param({"plain": Outcome.TIMEOUT}, "policy.not_enforced", id="only NetworkPolicy is enforced"),
        pytest.param({"plain": Outcome.TIMEOUT, "admin": Outcome.OK}, "policy.not_enforced", id="nor elsewhere"),
        pytest.param(
            {"plain": Outcome.TIMEOUT, "admin": Outcome.TIMEOUT}, "policy.enforcement_stale", id="elsewhere it is"
        ),
    ],
)
def test_an_admin_policy_may_be_what_the_plugin_does_not_know(tried, expected):
    """Nothing was stopped by its kind: the policy is named. Another node stops it: that node's rules are."""
    deny = {"action": "Deny", "from": [{"namespaces": {}}]}
    subject = {"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}
    policies = {
        "AdminNetworkPolicy/closed": {
            "apiVersion": "policy.networking.k8s.io/v1alpha1",
            "kind": "AdminNetworkPolicy",
            "metadata": {"name": "closed"},
            "spec": {"priority": 1, "subject": subject, "ingress": [deny]},
            "status": {"conditions": True},
        },
        "kube-system/closed": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "closed", "namespace": "kube-system"},
            "spec": {"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}, "policyTypes": ["Ingress"]},
        },
    }
    state = world.cluster(policies=policies)
    model, flow = policy_model(state), world.pod_flow(Method.TCP, 8080)
    targets = {"admin": world.pod_on("node-c"), "plain": next(iter(state.dns_pods()))}
    paths = {}
    for name in tried:
        source, pod = world.pod_on("node-a"), targets[name]
        expected_ = expect(model, pod_ref(source), pod_ref(pod), "TCP", 8080, 4)
        task = Task(id=name, vantage=0, method=Method.TCP, family=4, address=pod.addresses[0], port=8080)
        paths[name] = Path(
            kind=MatrixKind.POLICY,
            source_node="node-a",
            vantage=vantage_of(source),
            destination=pod.key,
            destination_nodes=frozenset({pod.node}),
            network=Network.POD,
            target_kind="Pod",
            expected=expected_,
            task=task,
        )
    found = best_of(world.case(flow, state=state, policy=model, passes=True, tried=tried, paths=paths))
    assert found.code == expected
    thing = ("AdminNetworkPolicy", "closed") if expected == "policy.not_enforced" else ("Node", "node-b")
    assert (found.object.kind, found.object.name) == thing


def best_of(case: Case) -> Cause:
    """The best finding."""
    return explain.ordered([*explain.early(case), *explain.late(case)])[0].cause
