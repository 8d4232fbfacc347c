"""Services work in the kernel in both modes, and only what changed is written anew."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from lab import netns
from lab.embedded.proxy.decision import NodeView
from lab.embedded.proxy.flows import stale_flows
from lab.embedded.proxy.keeper import Keeper, make_keeper
from lab.embedded.proxy.services import FAMILIES, Family, ServicePort, read_service_ports
from lab.ruler import Children
from tests.lab.bed import NODE, OUTSIDE, Bed, make_bed, pod_address

Object = dict[str, Any]
CLUSTER_CIDR = {4: "10.244.0.0/16", 6: "fd44::/56"}
SERVICE_CIDR = {4: "10.96.0.0/16", 6: "fd96::/112"}
LOAD_BALANCER = {4: "198.51.100.9", 6: "2001:db8:1::9"}
WEBS = (0, 1)


def address(number: int, family: int) -> str:
    """A cluster address."""
    return f"10.96.0.{number}" if family == 4 else f"fd96::{number}"


class Cluster:
    """Services and their endpoints, as the API would show them."""

    def __init__(self) -> None:
        self.services: dict[str, Object] = {}
        self.slices: dict[tuple[str, int], Object] = {}

    def add(self, name: str, number: int, pods: tuple[int, ...], node: str = "node-a", **spec: Any) -> None:
        """Add or replace a Service with TCP 80 and UDP 80 to port 8080 of some pods, which are all on `node`."""
        node_port = spec.pop("node_port", None)
        status = spec.pop("status", {})
        ports = [
            {"name": kind, "port": 80, "protocol": kind.upper(), **({"nodePort": node_port} if node_port else {})}
            for kind in ("tcp", "udp")
        ]
        self.services[name] = {
            "metadata": {"namespace": "shop", "name": name},
            "spec": {
                "clusterIP": address(number, 4),
                "clusterIPs": [address(number, f) for f in (4, 6)],
                "ports": ports,
                **spec,
            },
            "status": status,
        }
        for family in FAMILIES:
            self.slices[name, family] = {
                "metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
                "addressType": f"IPv{family}",
                "ports": [{"name": kind, "port": 8080, "protocol": kind.upper()} for kind in ("tcp", "udp")],
                "endpoints": [
                    {"addresses": [pod_address(pod, family)], "nodeName": node, "conditions": {"ready": True}}
                    for pod in pods
                ],
            }

    def ports(self, family: Family) -> tuple[ServicePort, ...]:
        """What the proxy reads of it."""
        return read_service_ports(self.services.values(), self.slices.values(), family)


class Proxied:
    """A bed whose node has a proxy, and the cluster it serves."""

    def __init__(self, bed: Bed, mode: str) -> None:
        self.bed = bed
        self.mode = mode
        self.children = Children()
        self.cluster = Cluster()
        self.keepers = {family: self.keeper(family) for family in FAMILIES}

    def keeper(self, family: Family) -> Keeper:
        """A keeper that knows nothing, as after a restart."""
        view = NodeView("node-a", family, NODE[family], CLUSTER_CIDR[family], SERVICE_CIDR[family])
        return make_keeper(self.mode, self.children, self.bed.node, view)

    async def sync(self) -> list[bool]:
        """Bring both families to the cluster's state; whether each had something to write."""
        return [await keeper.apply(self.cluster.ports(family)) for family, keeper in self.keepers.items()]

    async def run(self, *argv: str) -> str:
        """A command in the node."""
        return (await netns.run(self.bed.node, list(argv))).stdout


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["iptables", "nftables"])
async def proxied(request: pytest.FixtureRequest) -> AsyncIterator[Proxied]:
    """One bed for each mode."""
    async with make_bed("bridge") as bed:
        yield Proxied(bed, request.param)


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(proxied: Proxied) -> Proxied:
    """The same with one plain Service "web" alone."""
    proxied.cluster = Cluster()
    proxied.cluster.add("web", 10, WEBS)
    await proxied.sync()
    return proxied


pytestmark = [pytest.mark.parametrize("family", FAMILIES)]


async def refuses(bed: Bed, source: str, target: str, port: int) -> bool:
    """Whether nobody answers and one of a few questions, one after the other, is refused.

    Asked by UDP and more than once, since a client on this kernel does not act on every ICMPv6 refusal that it gets
    (seen by capture: the refusal arrives, connect() to TCP goes on waiting, and so does a first datagram's sender).
    """
    found = [await bed.ask(source, target, port, "udp") for _ in range(4)]
    return "refused" in found and set(found) <= {"refused", "silent"}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("source", ["visitor", "node", "web-0"])
async def test_a_cluster_address_leads_to_all_endpoints(
    fresh: Proxied, family: Family, protocol: str, source: str
) -> None:
    """Pods, also endpoints themselves, and the node reach every endpoint by the Service's address."""
    found = await fresh.bed.ask_all(source, address(10, family), 80, protocol, times=24)
    assert found == {"web-0", "web-1"}


async def test_without_endpoints_a_service_refuses(fresh: Proxied, family: Family) -> None:
    """Refused at once, from pod and from node; and served as soon as there is an endpoint."""
    fresh.cluster.add("empty", 11, ())
    await fresh.sync()
    for source in ("visitor", "node"):
        assert await refuses(fresh.bed, source, address(11, family), 80)
    fresh.cluster.add("empty", 11, (0,))
    await fresh.sync()
    assert await fresh.bed.ask("visitor", address(11, family), 80) == "web-0"


async def test_a_node_port_serves_the_outside(fresh: Proxied, family: Family) -> None:
    """Through the node's address, by both protocols; not any more when the Service has no endpoints."""
    fresh.cluster.add("np", 12, (1,), type="NodePort", node_port=30081)
    await fresh.sync()
    for protocol in ("tcp", "udp"):
        assert await fresh.bed.ask("outside", NODE[family], 30081, protocol) == "web-1"
    fresh.cluster.add("np", 12, (), type="NodePort", node_port=30081)
    await fresh.sync()
    assert await refuses(fresh.bed, "outside", NODE[family], 30081)


@pytest.mark.parametrize("policy", ["externalTrafficPolicy", "internalTrafficPolicy"])
async def test_local_traffic_policy_without_local_endpoints_drops(fresh: Proxied, family: Family, policy: str) -> None:
    """What is to stay on the node finds silence there when all endpoints are elsewhere; the other kind is served."""
    fresh.cluster.add("local", 13, (0,), node="node-b", type="NodePort", node_port=30082, **{policy: "Local"})
    await fresh.sync()
    outside = await fresh.bed.ask("outside", NODE[family], 30082)
    inside = await fresh.bed.ask("visitor", address(13, family), 80)
    expected = ("silent", "web-0") if policy == "externalTrafficPolicy" else ("web-0", "silent")
    assert (outside, inside) == expected


async def test_clients_stick_to_an_endpoint(fresh: Proxied, family: Family) -> None:
    """With ClientIP affinity a client meets one endpoint again and again."""
    fresh.cluster.add("sticky", 14, WEBS, sessionAffinity="ClientIP")
    await fresh.sync()
    first = await fresh.bed.ask("visitor", address(14, family), 80)
    assert await fresh.bed.ask_all("visitor", address(14, family), 80) == {first}


@pytest.mark.parametrize(("ranges", "served"), [(OUTSIDE, True), ({4: "192.0.2.1", 6: "2001:db8:2::1"}, False)])
async def test_source_ranges_guard_a_load_balancer_address(
    fresh: Proxied, family: Family, ranges: dict[int, str], served: bool
) -> None:
    """Only sources within the ranges are served at the load balancer's address."""
    fresh.cluster.add(
        "lb",
        15,
        (0,),
        type="LoadBalancer",
        node_port=30083,
        loadBalancerSourceRanges=[f"{ranges[4]}/32", f"{ranges[6]}/128"],
        status={"loadBalancer": {"ingress": [{"ip": LOAD_BALANCER[4]}, {"ip": LOAD_BALANCER[6]}]}},
    )
    await fresh.sync()
    found = await fresh.bed.ask("outside", LOAD_BALANCER[family], 80)
    assert found == ("web-0" if served else "silent")


async def test_a_terminating_endpoint_serves_while_there_is_no_other(fresh: Proxied, family: Family) -> None:
    """Serving and terminating endpoints are the last resort, and no more than that."""
    endpoints = fresh.cluster.slices["web", family]["endpoints"]
    endpoints[0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    await fresh.sync()
    assert await fresh.bed.ask_all("visitor", address(10, family), 80) == {"web-1"}
    endpoints[1]["conditions"] = {"ready": False, "serving": False, "terminating": True}
    await fresh.sync()
    assert await fresh.bed.ask_all("visitor", address(10, family), 80) == {"web-0"}


async def test_nothing_is_written_without_need(fresh: Proxied, family: Family) -> None:
    """The same objects write nothing; a change elsewhere leaves a chain broken by hand as it is; a restart mends it."""
    assert await fresh.sync() == [False, False]
    ip, tables = ("ip", "iptables-nft") if family == 4 else ("ip6", "ip6tables-nft")
    if fresh.mode == "iptables":
        saved = await fresh.run(f"{tables}-save", "-t", "nat")
        chain = next(line.split()[-1] for line in saved.splitlines() if "shop/web:tcp cluster IP" in line)
        await fresh.run(tables, "-t", "nat", "-F", chain)
    else:
        listing = await fresh.run("nft", "list", "map", ip, "kube-proxy", "service-ips")
        chain = next(word.rstrip(",") for word in listing.split() if "shop/web/tcp" in word)
        await fresh.run("nft", "flush", "chain", ip, "kube-proxy", chain)
    fresh.cluster.add("other", 16, (0,))
    await fresh.sync()
    assert await fresh.bed.ask("visitor", address(16, family), 80) == "web-0"
    assert await fresh.bed.ask("visitor", address(10, family), 80) not in ("web-0", "web-1")
    fresh.keepers = {each: fresh.keeper(each) for each in FAMILIES}
    await fresh.sync()
    assert await fresh.bed.ask_all("visitor", address(10, family), 80) == {"web-0", "web-1"}


async def test_counters_of_unchanged_services_live_on(fresh: Proxied, family: Family) -> None:
    """A change of one Service does not rewrite another's chains (counted in iptables, remembered in nftables)."""
    fresh.cluster.add("sticky", 14, WEBS, sessionAffinity="ClientIP")
    await fresh.sync()
    first = await fresh.bed.ask("visitor", address(14, family), 80)
    fresh.cluster.add("other", 16, (1,))
    await fresh.sync()
    assert await fresh.bed.ask_all("visitor", address(14, family), 80) == {first}
    if fresh.mode == "iptables":
        saved = await fresh.run("iptables-nft-save" if family == 4 else "ip6tables-nft-save", "-c", "-t", "nat")
        dnat = [line for line in saved.splitlines() if "shop/sticky:tcp" in line and "DNAT" in line]
        assert sum(int(line[1 : line.index(":")]) for line in dnat) >= 12


async def test_what_is_gone_leaves_no_trace(fresh: Proxied, family: Family) -> None:
    """After a Service is deleted, by a process that started since, nothing names it."""
    fresh.cluster.add("gone", 17, WEBS, type="NodePort", node_port=30084, sessionAffinity="ClientIP")
    await fresh.sync()
    program = {("iptables", 4): "iptables-nft-save", ("iptables", 6): "ip6tables-nft-save"}.get((fresh.mode, family))
    show = (program,) if program else ("nft", "list", "ruleset")
    assert "shop/gone" in await fresh.run(*show)
    chains = (await fresh.run(*show)).count("\n:KUBE-S")
    del fresh.cluster.services["gone"]
    fresh.keepers = {each: fresh.keeper(each) for each in FAMILIES}
    await fresh.sync()
    listing = await fresh.run(*show)
    assert "shop/gone" not in listing
    assert not chains or listing.count("\n:KUBE-S") < chains


async def test_a_udp_client_is_freed_from_an_endpoint_that_is_gone(fresh: Proxied, family: Family) -> None:
    """A flow that is tracked to a removed endpoint is forgotten, so its client reaches one that is there."""
    fresh.cluster.add("dns", 18, (0,))
    await fresh.sync()
    before = fresh.cluster.ports(family)
    assert await fresh.bed.ask("visitor", address(18, family), 80, "udp") == "web-0"
    listing = ("conntrack", "-L", "-f", f"ipv{family}", "-p", "udp", "--orig-dst", address(18, family))
    assert pod_address(0, family) in await fresh.run(*listing)
    fresh.cluster.add("dns", 18, (1,))
    await fresh.sync()
    commands = stale_flows(before, fresh.cluster.ports(family), family)
    await asyncio.gather(*(netns.run(fresh.bed.node, ["conntrack", *command], check=False) for command in commands))
    assert pod_address(0, family) not in await fresh.run(*listing)
    assert await fresh.bed.ask("visitor", address(18, family), 80, "udp") == "web-1"
