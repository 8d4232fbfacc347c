"""IPVS of a real kernel: its tables as `ipvsadm` has them, and the walk against where its packets arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from model.facts import FactsOrder, Packet, Walk
from model.probes import Vantage
from model.tables import IpvsServer, IpvsService
from tests.agent.host.kernel import CLIENT, Router, disagreements, facts, run

VIP, VIP6 = "10.50.9.9", "fd50:9::9"
SETUP = f"""
ip addr add {VIP}/32 dev lo; ip -6 addr add {VIP6}/128 dev lo
ip addr add 10.50.9.8/32 dev lo
sysctl -qw net.ipv4.vs.conntrack=1
ipvsadm -A -t {VIP}:80 -s wrr
ipvsadm -a -t {VIP}:80 -r 10.50.2.2:8080 -m -w 3
ipvsadm -a -t {VIP}:80 -r 10.50.2.3:8080 -m -w 1
ipvsadm -a -t {VIP}:80 -r 10.50.2.4:8080 -m -w 0
ipvsadm -A -u {VIP}:53 -s rr -p 60
ipvsadm -a -u {VIP}:53 -r 10.50.2.3:5353 -m
ipvsadm -A -t {VIP}:81 -s rr
ipvsadm -A -t {VIP}:82 -s rr
ipvsadm -a -t {VIP}:82 -r 10.50.2.2:8080 -m -w 0
ipvsadm -A -t {VIP}:83 -s rr
ipvsadm -a -t {VIP}:83 -r 10.50.2.2:83 -i
ipvsadm -A -t {VIP}:84 -s rr
ipvsadm -a -t {VIP}:84 -r 10.50.9.8:84 -m
ipvsadm -A -f 7 -s rr
ipvsadm -a -f 7 -r 10.50.2.2:9000 -m
ipvsadm -A -t [{VIP6}]:80 -s rr
ipvsadm -a -t [{VIP6}]:80 -r [fd50:2::2]:8080 -m
"""


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """A router with virtual services, between a client and the servers."""
    with Router() as made:
        run(made.router, SETUP)
        yield made


def tcp(port: int, *, destination: str = VIP, source_port: int = 40001, incoming: str = "in0") -> Packet:
    """A client's SYN to the virtual address."""
    return Packet(
        family=4, source=CLIENT, destination=destination, protocol="tcp", source_port=source_port,
        destination_port=port, incoming=incoming,
    )  # fmt: skip


def services(router: Router) -> dict[tuple[str, int], IpvsService]:
    """Services by address (or mark) and port."""
    found = facts(router.router, FactsOrder(vantage=Vantage(), subjects=("ipvs",)))
    assert found.errors == {} and found.ipvs is not None
    return {(one.address or f"mark {one.mark}", one.port): one for one in found.ipvs}


def walks(router: Router, *packets: Packet) -> tuple[Walk, ...]:
    """The agent's walks."""
    found = facts(router.router, FactsOrder(vantage=Vantage(), walks_asked=packets))
    assert found.errors == {} and found.walks
    return found.walks


def test_services_and_servers(router: Router) -> None:
    """Every service, by address, port and mark, with scheduler, persistence, servers, weights and forwarding."""
    found = services(router)
    assert len(found) == run(router.router, "ipvsadm -Sn").count("-A ") == 8
    web = found[VIP, 80]
    assert (web.family, web.protocol, web.scheduler, web.persistent_s) == (4, "tcp", "wrr", 0)
    assert {(one.address, one.port, one.weight, one.forwarding) for one in web.servers} == {
        ("10.50.2.2", 8080, 3, "masquerade"),
        ("10.50.2.3", 8080, 1, "masquerade"),
        ("10.50.2.4", 8080, 0, "masquerade"),
    }  # fmt: skip
    assert (found[VIP, 53].protocol, found[VIP, 53].persistent_s) == ("udp", 60)
    assert (found[VIP, 81].servers, found[VIP, 83].servers[0].forwarding) == ((), "tunnel")
    marked = found["mark 7", 0]
    assert (marked.mark, marked.protocol, marked.servers[0].address) == (7, "", "10.50.2.2")
    assert found[VIP6, 80].servers == (IpvsServer(address="fd50:2::2", port=8080),)


def test_counters_move_with_packets(router: Router) -> None:
    """Packets and connections of a service, and of the server that got them, as `ipvsadm --stats` counts them."""
    router.send([tcp(80, source_port=41000 + at) for at in range(8)])
    ends = time.monotonic() + 10
    # The kernel sums up what its processors counted every two seconds.
    while (web := services(router)[VIP, 80]).connections < 8 and time.monotonic() < ends:
        time.sleep(0.2)
    by_server = {one.address: one.connections for one in web.servers}
    assert web.connections == 8 == sum(by_server.values()) and web.packets_in >= 8
    # Weights of 3 and 1.
    assert by_server == {"10.50.2.2": 6, "10.50.2.3": 2, "10.50.2.4": 0}
    printed = run(router.router, f"ipvsadm -Ln --stats -t {VIP}:80").splitlines()
    line = next(one for one in printed if one.startswith("TCP"))
    assert line.split()[2:4] == [str(web.connections), str(web.packets_in)]
    assert sum(one.inactive + one.active for one in web.servers) == 8


WALKED = {
    "two servers": tcp(80), "no server": tcp(81), "only servers of weight 0": tcp(82),
    "datagram": Packet(family=4, source=CLIENT, destination=VIP, protocol="udp", source_port=40053,
                       destination_port=53, incoming="in0"),
    "ipv6": Packet(family=6, source="fd50:1::2", destination=VIP6, protocol="tcp", source_port=40001,
                   destination_port=80, incoming="in0"),
    "not through IPVS": tcp(8080, destination="10.50.2.2"),
}  # fmt: skip


def test_the_walk_agrees_with_the_kernel(router: Router) -> None:
    """Where the walk says that a packet goes to one of the servers, it arrives there, and nowhere where it says not."""
    differing, unsure = disagreements(router, list(WALKED.values()))
    assert (differing, unsure) == ([], 0)


def test_what_the_walk_says(router: Router) -> None:
    """The servers that take connections, and which service decides; what leaves in a tunnel is not judged."""
    itself = Packet(family=4, source="", destination=VIP, protocol="tcp", source_port=1, destination_port=80)
    asked = (tcp(80), tcp(81), tcp(82), tcp(79), tcp(83), tcp(84), itself)
    web, *refused, plain, tunnel, local, own = walks(router, *asked)
    assert web.verdict == "accept"
    assert {(one.destination, one.destination_port, one.outgoing) for one in web.alternatives} == {
        ("10.50.2.2", 8080, "out0"), ("10.50.2.3", 8080, "out0"),
    }  # fmt: skip
    assert any(step.rule.backend == "ipvs" and step.rule.text == f"-A -t {VIP}:80 -s wrr" for step in web.steps)
    for port, one in zip((81, 82), refused, strict=True):
        assert one.verdict == "reject" and one.decided_by is not None
        assert (one.decided_by.backend, one.decided_by.target) == ("ipvs", f"IPVS service {VIP}:{port}/tcp")
    assert (plain.verdict, plain.packet.destination) == ("accept", VIP)
    assert (tunnel.verdict, tunnel.unsure) == ("unsure", ("IPVS forwards by tunnel to 10.50.2.2",))
    assert (local.verdict, local.packet.destination) == ("accept", "10.50.9.8")
    assert own.verdict == "accept"
    assert {one.destination for one in own.alternatives} == {"10.50.2.2", "10.50.2.3"}


RULES = {
    "INPUT": ("filter", f"-d {VIP} -p tcp --dport 80"),
    "OUTPUT": ("filter", "-d 10.50.2.0/24 -p tcp --dport 8080"),
    "POSTROUTING": ("mangle", "-d 10.50.2.0/24 -p tcp --dport 8080"),
}


@pytest.mark.parametrize("hook", RULES)
def test_rules_on_the_way_of_a_virtual_service(router: Router, hook: str) -> None:
    """INPUT sees the virtual address, OUTPUT and POSTROUTING the server's; FORWARD is never asked."""
    table, match = RULES[hook]
    rule = f"iptables-legacy -w -t {table} {{}} {hook} {match} -j DROP"
    run(router.router, "iptables-legacy -w -A FORWARD -p tcp -j DROP; " + rule.format("-A"))
    try:
        (found,) = walks(router, tcp(80))
        (arrived,) = router.send([tcp(80, source_port=42001)])
    finally:
        run(router.router, "iptables-legacy -w -D FORWARD -p tcp -j DROP; " + rule.format("-D"))
    assert found.verdict == "drop" and found.decided_by is not None and found.decided_by.chain == hook
    assert arrived is None


def test_a_mark_chooses_the_service(router: Router) -> None:
    """A service by mark takes what a rule has marked, whatever its address; it must be routed to this host."""
    rule = "iptables-legacy -w -t mangle {} PREROUTING -d 10.50.9.8 -p tcp --dport 99 -j MARK --set-mark 7"
    run(router.router, rule.format("-A"))
    try:
        (found,) = walks(router, tcp(99, destination="10.50.9.8"))
        (arrived,) = router.send([tcp(99, destination="10.50.9.8", source_port=43001)])
    finally:
        run(router.router, rule.format("-D"))
    assert arrived is not None
    for one in (found.packet, arrived):
        assert (one.destination, one.destination_port) == ("10.50.2.2", 9000)
