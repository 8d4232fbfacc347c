"""In every combination of plugin and proxy, what reaches what is what the sample says, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import dns.message
import dns.query
import dns.rcode
import dns.reversename
import pytest

from lab import netns
from tests.lab.labs import ALLOWED, Lab, Probe, eventually, settle


def allowed() -> list[dict[str, Any]]:
    """The hand-written relation."""
    entries: list[dict[str, Any]] = json.loads(ALLOWED.read_text())["allowed"]
    return entries


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_every_pod_reaches_just_the_pods_that_it_may(lab: Lab, family: int) -> None:
    """Every pod, put to every port of every other pod, gets through if and only if allowed.json lists it."""
    pods = lab.pods()
    assert len(pods) == 18
    expected = {}
    for entry in allowed():
        protocol, port = entry["port"].split("/")
        for destination in (pod for pod in pods if pod.workload == entry["destination"]):
            for source in pods:
                if source != destination:
                    probe = Probe(source.netns, destination.ips[family], int(port), protocol)
                    expected[probe] = source.workload in entry["sources"]
    assert any(expected.values())
    assert not all(expected.values())
    assert settle(expected) == []


def test_pods_reach_the_outside_just_as_they_may(lab: Lab) -> None:
    """Egress leaves through the node's and the router's address translation, where policies let it."""
    plan = lab.plan
    expected = {}
    for entry in (one for one in allowed() if one["destination"] == "outside"):
        port = int(entry["port"].split("/")[1])
        for source in lab.pods():
            for address in (plan.outside_ipv4, plan.outside_ipv6 or ""):
                expected[Probe(source.netns, address, port)] = source.workload in entry["sources"]
    assert settle(expected) == []


def test_nothing_leads_out_of_a_lab(lab: Lab) -> None:
    """An address that is not the lab's own is unreachable from pods, nodes, router and outside."""
    places = [lab.pod("ops/jumpbox").netns, lab.plan.nodes[0].netns, lab.plan.router_netns, lab.plan.outside_netns]
    assert settle({Probe(place, "192.0.2.1", 80): False for place in places}) == []


SERVICES = [
    ("shop/frontend", "shop/checkout", 8080, "shop/checkout", True),
    ("shop/frontend", "shop/catalog", 80, "shop/catalog", True),
    ("shop/checkout", "pay/payments", 8443, "pay/payments", True),
    ("shop/frontend", "pay/payments", 8443, "pay/payments", False),
    ("ops/metrics", "pay/payments", 9100, "pay/payments", True),
    ("ops/metrics", "shop/cart", 6379, "shop/cart", False),
]


@pytest.mark.parametrize(
    ("source", "service", "port", "_backend", "passes"), SERVICES, ids=[f"{a}-{b}:{c}" for a, b, c, _, _ in SERVICES]
)
def test_service_addresses_lead_to_their_pods(
    lab: Lab, source: str, service: str, port: int, _backend: str, passes: bool
) -> None:
    """Both cluster addresses of a Service lead to its pods, and policies hold behind them."""
    namespace, name = service.split("/")
    addresses = json.loads(lab.kubectl("get", "service", "-n", namespace, name, "-o", "json"))["spec"]["clusterIPs"]
    assert len(addresses) == 2
    place = lab.pod(source).netns
    assert settle({Probe(place, address, port): passes for address in addresses}) == []


def test_node_ports_and_load_balancers_lead_in_from_outside(lab: Lab) -> None:
    """From outside, a NodePort answers on every node, and a load balancer's address by way of the router."""
    jumpbox = json.loads(lab.kubectl("get", "service", "-n", "ops", "jumpbox", "-o", "json"))
    node_port = jumpbox["spec"]["ports"][0]["nodePort"]
    web = json.loads(lab.kubectl("get", "service", "-n", "shop", "web", "-o", "json"))
    address = web["status"]["loadBalancer"]["ingress"][0]["ip"]
    expected = {Probe(lab.plan.outside_netns, node.ipv4, node_port): True for node in lab.plan.nodes}
    expected[Probe(lab.plan.outside_netns, address, 80)] = True
    assert settle(expected) == []


def _ask(lab: Lab, name: str, kind: str, server: str) -> list[str]:
    query = dns.message.make_query(name, kind)

    def exchange() -> dns.message.Message:
        return dns.query.udp(query, server, timeout=1.0)

    try:
        answer = netns.call_in(lab.pod("ops/jumpbox").netns, exchange)
    except OSError:
        return ["no answer"]
    if answer.rcode() != dns.rcode.NOERROR:
        return [dns.rcode.to_text(answer.rcode())]
    texts = {item.to_text() for rrset in answer.answer for item in rrset}
    # Priority and weight of an SRV record are left to the server, and with them how many there are.
    return sorted({" ".join(text.split()[2:]) for text in texts} if kind == "SRV" else texts)


@pytest.mark.parametrize("server", [0, 1], ids=["IPv4", "IPv6"])
def test_names_are_what_the_specification_says(lab: Lab, server: int) -> None:
    """A, AAAA, SRV, PTR of Services and pods, CNAME, names outside, and NXDOMAIN for what is not there."""
    address = (lab.plan.dns_service4, lab.plan.dns_service6 or "")[server]
    payments = json.loads(lab.kubectl("get", "service", "-n", "pay", "payments", "-o", "json"))
    four, six = payments["spec"]["clusterIPs"]
    ledger = lab.pod("pay/ledger")
    base = "svc.cluster.local."
    dashed = ledger.ips[0].replace(".", "-")
    expected = {
        (f"payments.pay.{base}", "A"): [four],
        (f"payments.pay.{base}", "AAAA"): [six],
        (f"_api._tcp.payments.pay.{base}", "SRV"): [f"8443 payments.pay.{base}"],
        (str(dns.reversename.from_address(four)), "PTR"): [f"payments.pay.{base}"],
        (str(dns.reversename.from_address(six)), "PTR"): [f"payments.pay.{base}"],
        (f"ledger.pay.{base}", "A"): [ledger.ips[0]],
        (f"{dashed}.ledger.pay.{base}", "A"): [ledger.ips[0]],
        (f"{dashed}.pay.pod.cluster.local.", "A"): [ledger.ips[0]],
        (f"partner.shop.{base}", "A"): sorted(["web.outside.test.", lab.plan.outside_ipv4]),
        ("web.outside.test.", "A"): [lab.plan.outside_ipv4],
        ("registry.outside.test.", "AAAA"): [lab.plan.outside_ipv6],
        (f"nothing.pay.{base}", "A"): ["NXDOMAIN"],
        ("nothing.outside.test.", "A"): ["NXDOMAIN"],
    }
    for (name, kind), want in expected.items():
        eventually(lambda name=name, kind=kind, want=want: _ask(lab, name, kind, address) == want, f"{kind} {name}")


def test_pods_resolve_short_names_by_their_own_resolv_conf(lab: Lab) -> None:
    """Inside a pod the system's resolver finds a Service by its short name, through the search path."""
    from lab.api import exec_argv

    pod = lab.pod("shop/frontend")
    argv = exec_argv(lab.spec.name, f"pod/{pod.namespace}/{pod.name}", ["getent", "ahostsv4", "payments.pay"])
    service = json.loads(lab.kubectl("get", "service", "-n", "pay", "payments", "-o", "json"))
    found = service["spec"]["clusterIP"]
    eventually(lambda: found in netns.run_sync(None, argv, check=False).stdout, "the Service's address")


def test_a_pod_applied_is_answered_for_in_a_second(lab: Lab) -> None:
    """A new pod and Service are reachable by address and by name soon, and gone soon after their deletion."""
    manifest = """
apiVersion: v1
kind: Pod
metadata: {name: fresh, namespace: ops, labels: {app: fresh}}
spec:
  nodeName: node-b
  containers: [{name: a, image: anything, ports: [{containerPort: 7000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: fresh, namespace: ops}
spec: {selector: {app: fresh}, ports: [{port: 80, targetPort: 7000}]}
"""
    lab.kubectl("apply", "-f", "-", stdin=manifest)
    lab.kubectl("wait", "-n", "ops", "--for=condition=Ready", "pod/fresh", "--timeout=10s")
    fresh = next(pod for pod in lab.pods() if pod.name == "fresh")
    assert fresh.node == "node-b"
    address = json.loads(lab.kubectl("get", "service", "-n", "ops", "fresh", "-o", "json"))["spec"]["clusterIP"]
    place = lab.pod("ops/metrics").netns
    assert settle({Probe(place, fresh.ips[0], 7000): True, Probe(place, address, 80): True}) == []
    name = "fresh.ops.svc.cluster.local."
    assert _ask(lab, name, "A", lab.plan.dns_service4) == [address]
    lab.kubectl("delete", "-f", "-", stdin=manifest)
    eventually(lambda: _ask(lab, name, "A", lab.plan.dns_service4) == ["NXDOMAIN"], name)
    eventually(lambda: not netns.exists(fresh.netns), "namespace gone")


def test_an_uplink_that_comes_back_brings_its_routes(lab: Lab) -> None:
    """After eth0 of a node was down, pods and hosts reach one another again, over both families."""
    node = lab.plan.nodes[1]
    pods = lab.pods()
    there = next(pod for pod in pods if pod.workload == "kubereach/kubereach-endpoint" and pod.node == node.name)
    here = next(pod for pod in pods if pod.workload == "kubereach/kubereach-endpoint" and pod.node != node.name)
    probes = [Probe(here.netns, ip, 8700) for ip in there.ips]
    probes += [Probe(there.netns, ip, 8700) for ip in here.ips]
    probes += [Probe(there.netns, lab.plan.outside_ipv4, 80), Probe(there.netns, lab.plan.outside_ipv6 or "", 80)]
    netns.run_sync(node.netns, ["ip", "link", "set", "eth0", "down"])
    assert settle(dict.fromkeys(probes, False)) == []
    netns.run_sync(node.netns, ["ip", "link", "set", "eth0", "up"])
    assert settle(dict.fromkeys(probes, True)) == []


def test_a_route_taken_away_by_hand_stays_away(lab: Lab) -> None:
    """The lab heals nothing but the uplink: a deleted route to another node's pods is there no more."""
    node, peer = lab.plan.nodes[0], lab.plan.nodes[2]
    shown = ["ip", "route", "show", peer.pod_cidr4]
    line = netns.run_sync(node.netns, shown).stdout.strip().replace("onlink", "").replace("  ", " ")
    before = netns.run_sync(node.netns, shown).stdout.split()
    assert line
    netns.run_sync(node.netns, ["ip", "route", "delete", peer.pod_cidr4])
    pods = {pod.node: pod for pod in lab.pods() if pod.workload == "kubereach/kubereach-endpoint"}
    probe = Probe(pods[node.name].netns, pods[peer.name].ips[0], 8700)
    try:
        assert settle({probe: False}) == []
        assert netns.run_sync(node.netns, shown).stdout == ""
    finally:
        netns.run_sync(node.netns, ["ip", "route", "add", *before])
    assert settle({probe: True}) == []
