"""The packet walk against the kernel: for each match that is judged, and for random rule sets, the same verdict."""

# ruff: noqa: E501, ISC004 - rules stand as one writes them
from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator

import msgspec
import pytest

from model.facts import FactsOrder, Packet
from model.probes import Vantage
from tests.agent.host.kernel import FENCE_PORT, Router, disagreements, facts, run
from tests.agent.host.random_rules import random_nft, random_packets, random_xt, syn

# Match, and whether a TCP SYN from 10.50.1.2:40001 to 10.50.2.2 is in it by the manual; one rule each, on its own port.
XT_MATCHES = {
    "source": "-s 10.50.1.2/32", "source-other": "-s 10.50.9.0/24", "not-source": "! -s 10.50.1.0/24",
    "sources-prefix": "-s 10.50.0.0/16", "destination": "-d 10.50.2.2/32", "not-destination": "! -d 10.50.2.2/32",
    "in": "-i in0", "in-wildcard": "-i in+", "not-in": "! -i in0", "out": "-o out0", "out-other": "-o eth+",
    "sport": "--sport 40000:41000", "sport-other": "--sport 1:1023", "not-sport": "! --sport 40000:41000",
    "syn": "--syn", "not-syn": "! --syn", "flags": "--tcp-flags SYN,ACK,FIN SYN", "flags-other": "--tcp-flags ALL ACK",
    "multiport-sports": "-m multiport --sports 22,40000:40100", "multiport-other": "-m multiport --sports 22,53",
    "multiport-not": "-m multiport ! --sports 22,53", "multiport-ports": "-m multiport --ports 40000:50000",
    "state-new": "-m conntrack --ctstate NEW", "state-established": "-m conntrack --ctstate ESTABLISHED,RELATED",
    "state-invalid": "-m conntrack --ctstate INVALID", "state-not": "-m conntrack ! --ctstate RELATED,ESTABLISHED",
    "state-dnat": "-m conntrack --ctstate DNAT", "old-state": "-m state --state NEW",
    "status-not": "-m conntrack ! --ctstatus ASSURED,SEEN_REPLY", "status": "-m conntrack --ctstatus CONFIRMED", "direction": "-m conntrack --ctdir ORIGINAL",
    "original-destination": "-m conntrack --ctorigdst 10.50.2.2", "original-source": "-m conntrack --ctorigsrc 10.50.9.9",
    "original-port": "-m conntrack --ctorigdstport 1:65000", "mark-zero": "-m mark --mark 0x0", "mark": "-m mark --mark 0x1/0x1",
    "not-mark": "-m mark ! --mark 0x4000/0x4000", "connmark": "-m connmark --mark 0x0", "connmark-not": "-m connmark ! --mark 0x0",
    "type-unicast": "-m addrtype --dst-type UNICAST", "type-local": "-m addrtype --dst-type LOCAL",
    "type-not-local": "-m addrtype ! --src-type LOCAL", "type-both": "-m addrtype --src-type UNICAST --dst-type UNICAST",
    "type-device": "-m addrtype ! --src-type LOCAL --limit-iface-in",
    "set": "-m set --match-set krh-net src", "set-not": "-m set ! --match-set krh-net src",
    "set-nomatch": "-m set --match-set krh-except src", "set-port": "-m set --match-set krh-port src,src",
    "set-list": "-m set --match-set krh-list src", "set-range": "-m set --match-set krh-ip dst",
    "set-net-port-protocol": "-m set --match-set krh-netport dst,src", "range": "-m iprange --src-range 10.50.1.1-10.50.1.5",
    "range-other": "-m iprange --dst-range 10.50.2.5-10.50.2.9", "not-range": "-m iprange ! --dst-range 10.50.2.5-10.50.2.9",
    "comment": '-m comment --comment "-j ACCEPT \\"quoted\\""', "physdev": "-m physdev --physdev-is-bridged",
    "reverse-path": "-m rpfilter", "reverse-path-invert": "-m rpfilter --invert", "certain": "-m statistic --mode random --probability 1",
    "never": "-m statistic --mode random --probability 0", "recent-set": "-m recent --set --name krh",
    "two": "-s 10.50.1.2 -m mark --mark 0x0/0xff -m conntrack --ctstate NEW,UNTRACKED",
}  # fmt: skip
SETS = """
create krh-net hash:net
add krh-net 10.50.1.0/24
create krh-except hash:net
add krh-except 10.50.0.0/16
add krh-except 10.50.1.2 nomatch
create krh-port hash:ip,port
add krh-port 10.50.1.2,tcp:40000-40200
create krh-ip hash:ip
add krh-ip 10.50.2.0/30
create krh-netport hash:net,port
add krh-netport 10.50.2.0/24,udp:40000-60000
create krh-list list:set
add krh-list krh-net
"""
NFT_MATCHES = {
    "saddr": "ip saddr 10.50.1.2", "saddr-prefix": "ip saddr 10.50.0.0/16", "saddr-not": "ip saddr != 10.50.1.0/24",
    "daddr-range": "ip daddr 10.50.2.1-10.50.2.9", "daddr-set": "ip daddr { 10.50.2.2, 10.60.0.0/16 }",
    "daddr-not-set": "ip daddr != { 10.50.2.2, 10.60.0.0/16 }", "bits": "ip saddr & 0.0.0.255 == 2",
    "bits-other": "ip saddr & 0.0.0.255 == 3", "protocol": "ip protocol tcp", "l4proto": "meta l4proto { tcp, udp }",
    "l4proto-not": "meta l4proto != tcp", "nfproto": "meta nfproto ipv4", "nfproto-6": "meta nfproto ipv6",
    "sport": "tcp sport 40000-40999",
    "sport-above": "tcp sport > 1023", "sport-below": "tcp sport < 1023", "th": "th sport { 22, 40000-50000 }",
    "flags": "tcp flags & (fin|syn|rst|ack) == syn", "flags-in": "tcp flags syn",
    "flags-not": "tcp flags & (syn|ack) == ack", "iifname": 'iifname "in0"', "iifname-wildcard": 'iifname "in*"',
    "oif": "oif out0", "oifname-set": 'oifname { "out0", "x*" }', "oifname-not": 'oifname != "out0"',
    "state": "ct state new", "state-set": "ct state { established, related }", "state-list": "ct state established,related",
    "state-not": "ct state != new", "state-vmap": "ct state vmap { invalid : drop, new : drop }",
    "status": "ct status dnat", "status-not": "ct status ! dnat", "status-other": "ct status != dnat",
    "direction": "ct direction original", "original": "ct original ip daddr 10.50.2.2", "ct-mark": "ct mark 0",
    "mark": "meta mark & 0x4000 == 0x4000", "mark-zero": "meta mark 0x0", "mark-not": "meta mark != 0x1",
    "fib-unicast": "fib daddr type unicast", "fib-local": "fib daddr type local", "fib-source": "fib saddr type != local",
    "fib-reverse": "fib saddr . iif oif exists", "fib-missing": "fib saddr . iif oif missing",
    "named-set": "ip saddr @nets", "named-not": "ip saddr != @nets", "concat": "ip saddr . tcp sport @pairs",
    "concat-anonymous": "ip daddr . meta l4proto { 10.50.2.2 . tcp, 10.50.2.3 . udp }",
    "concat-not": "ip daddr . meta l4proto != { 10.50.2.2 . udp }", "pkttype": "meta pkttype host",
    "empty-set": "ip saddr @nobody", "comment": 'ip saddr 10.50.1.2 comment "a \' word"',
    "vmap-range": "tcp sport vmap { 1-1023 : accept, 40000-50000 : drop }", "vmap-named": "ip saddr vmap @verdicts",
    "vmap-jump": 'iifname vmap { "in0" : jump dropping }',
}  # fmt: skip
NFT_HEAD = """
table inet krh {
 set nets { type ipv4_addr; flags interval; elements = { 10.50.1.0/24, 10.70.0.1-10.70.0.9 } }
 set nobody { type ipv4_addr; }
 set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.50.1.0/24 . 40000-40999 } }
 map verdicts { type ipv4_addr : verdict; flags interval; elements = { 10.50.1.0/25 : goto dropping, 10.50.1.128/25 : accept } }
 chain dropping { counter drop; }
"""


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """One router for all tests of this file; each test loads its own rules."""
    with Router() as made:
        yield made


@pytest.fixture(autouse=True)
def clean(router: Router) -> Iterator[None]:
    """No rules are left over."""
    yield
    run(router.router, "nft flush ruleset; printf '%s\\n' '*filter' ':FORWARD ACCEPT' COMMIT '*mangle' COMMIT '*raw' "
        "COMMIT '*nat' COMMIT | iptables-legacy-restore; ipset flush; ipset destroy")  # fmt: skip


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_each_iptables_match(router: Router, backend: str) -> None:
    """For every match module the walk gives the verdict that the kernel gives, and is sure of it."""
    run(router.router, "ipset restore", SETS)
    rules = [f"-A FORWARD -p tcp --dport {1000 + at} {text} -j DROP" for at, text in enumerate(XT_MATCHES.values())]
    early = [rule.replace("FORWARD", "PREROUTING") for rule in rules if "rpfilter" in rule]
    late = [rule for rule in rules if "rpfilter" not in rule]
    save = ["*filter", ":FORWARD ACCEPT", *late, "COMMIT", "*raw", ":PREROUTING ACCEPT", *early, "COMMIT", ""]
    run(router.router, f"iptables-{backend}-restore", "\n".join(save))
    differing, unsure = disagreements(router, [syn(1000 + at) for at in range(len(XT_MATCHES))])
    assert not differing, "\n".join(differing)
    assert unsure == 0


def test_each_nftables_match(router: Router) -> None:
    """For every native expression the walk gives the verdict that the kernel gives, and is sure of it."""
    rules = [
        f"tcp dport {1000 + at} {text}{'' if 'vmap' in text else ' drop' if 'comment' not in text else ''}"
        for at, text in enumerate(NFT_MATCHES.values())
    ]
    rules = [rule.replace(' comment "', ' drop comment "') for rule in rules]
    body = "\n".join(["chain forward {\ntype filter hook forward priority 0;", *rules, "}\n}\n"])
    run(router.router, "nft -f -", NFT_HEAD + body)
    differing, unsure = disagreements(router, [syn(1000 + at) for at in range(len(NFT_MATCHES))])
    assert not differing, "\n".join(differing)
    assert unsure == 0


UNJUDGED = {
    "limit": "-m limit --limit 1/hour --limit-burst 1000", "length": "-m length --length 1:10", "ttl": "-m ttl --ttl-lt 3",
    "random": "-m statistic --mode random --probability 0.5", "hashlimit": "-m hashlimit --hashlimit-above 9/sec --hashlimit-name k",
    "string": "-m string --string x --algo bm", "time": "-m time --timestart 01:00 --timestop 02:00",
}  # fmt: skip


@pytest.mark.parametrize("text", UNJUDGED.values(), ids=UNJUDGED)
def test_what_cannot_be_judged_is_unsure(router: Router, text: str) -> None:
    """A match that cannot be judged makes its rule unsure and names it; where both ways end alike, the end is told."""
    module = text.split()[1]
    rules = f"""*filter
:FORWARD ACCEPT
:USER -
-A FORWARD -p tcp --dport 1 {text} -j DROP
-A FORWARD -p tcp --dport 2 {text} -j USER
-A FORWARD -p tcp --dport 2 -j REJECT
-A FORWARD -p tcp --dport 3 {text} -j LOG
-A FORWARD -p tcp --dport 4 {text} -j MARK --set-mark 1
-A USER -j DROP
COMMIT
"""
    run(router.router, "iptables-nft-restore", rules)
    order = FactsOrder(vantage=Vantage(), walks_asked=tuple(syn(port) for port in (1, 2, 3, 4, 5)))
    walks = facts(router.router, order).walks or ()
    assert [walk.verdict for walk in walks[2:]] == ["accept"] * 3
    assert walks[1].verdict in {"drop", "reject"}
    assert (walks[0].verdict, walks[0].unsure) == ("unsure", (module,))


def test_translations(router: Router) -> None:
    """DNAT, REDIRECT, SNAT and MASQUERADE by iptables and nft: the packet leaves as the walk says."""
    run(router.router, "iptables-nft-restore", f"""*nat
:PREROUTING ACCEPT
:POSTROUTING ACCEPT
:PICK -
-A PREROUTING -p udp --dport {FENCE_PORT} -j ACCEPT
-A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.50.2.3:8080
-A PREROUTING -p tcp --dport 81 -j DNAT --to-destination 10.50.2.3
-A PREROUTING -p tcp --dport 82 -j PICK
-A PREROUTING -p tcp --dport 83 -j DNAT --to-destination 10.50.2.2-10.50.2.3
-A PREROUTING -p tcp --dport 84 -j MARK --set-xmark 0x4000/0x4000
-A PREROUTING -p tcp --dport 88 -j REDIRECT --to-ports 22
-A PICK -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.50.2.2:8080
-A PICK -p tcp -j DNAT --to-destination 10.50.2.3:8081
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
-A POSTROUTING -p tcp -m tcp --dport 85 -j SNAT --to-source 10.50.2.77
COMMIT
""")  # fmt: skip
    run(router.router, "nft -f -", """table ip more { map to { type inet_service : ipv4_addr . inet_service;
  elements = { 90 : 10.50.2.3 . 8090 } }
 map names { type inet_proto . inet_service : verdict; elements = { tcp . 91 : goto back } }
 chain back { numgen random mod 2 vmap { 0 : goto one, 1 : goto two }; }
 chain one { meta l4proto tcp dnat to 10.50.2.2:8091; }
 chain two { meta l4proto tcp dnat to 10.50.2.3:8091; }
 chain pre { type nat hook prerouting priority dstnat - 5;
  dnat ip to tcp dport map @to
  meta l4proto . th dport vmap @names
  tcp dport 92 meta mark set meta mark | 0x10
  tcp dport 93 dnat to 10.50.2.2-10.50.2.3
 }
 chain post { type nat hook postrouting priority srcnat - 5; meta mark & 0x10 == 0x10 masquerade; tcp dport 94 snat to 10.50.2.78; }
}
""")  # fmt: skip
    ports = [80, 81, 82, 83, 84, 85, 86, 88, 90, 91, 92, 93, 94, 95]
    packets = [syn(port, sport=30000 + at * 20 + turn) for at, port in enumerate(ports) for turn in range(3)]
    packets = [packet for packet in packets if packet.destination_port != 88]
    differing, unsure = disagreements(router, packets)
    assert not differing, "\n".join(differing)
    assert unsure == 0


@pytest.mark.parametrize("kind", ["legacy", "iptables-nft", "native"])
def test_random_rule_sets(router: Router, kind: str) -> None:
    """Whatever rules there are, the walk never contradicts the kernel (bounded to about seven seconds a backend)."""
    ends = time.monotonic() + 7
    rounds = unsure = total = 0
    while time.monotonic() < ends and rounds < 25:
        seed = int.from_bytes(kind.encode(), "big") + rounds
        dice = random.Random(seed)
        if kind == "native":
            rules = random_nft(dice)
            run(router.router, "nft -f -", "flush ruleset\n" + rules)
            packets = random_packets(dice, (4, 6))
        else:
            rules = random_xt(dice, 4)
            run(router.router, f"iptables-{kind.removeprefix('iptables-')}-restore", rules)
            packets = random_packets(dice, (4,))
        differing, doubtful = disagreements(router, packets)
        assert not differing, f"seed {seed}\n{rules}\n" + "\n".join(differing)
        rounds, unsure, total = rounds + 1, unsure + doubtful, total + len(packets)
    assert rounds >= 3
    assert unsure <= total / 3


def test_droppers_count_the_burst(router: Router) -> None:
    """Of all rules that might have dropped, exactly the one that did has moved by the packets that were sent."""
    rules = """*filter
:FORWARD ACCEPT
:DEEP -
-A FORWARD -p udp --dport 9999 -j ACCEPT
-A FORWARD -p tcp --dport 53 -j DROP
-A FORWARD -s 10.50.1.0/24 -j DEEP
-A FORWARD -p tcp --dport 80 -j DROP
-A DEEP -p tcp -m limit --limit 100/sec -j LOG
-A DEEP -d 10.99.0.0/16 -j DROP
-A DEEP -p tcp -m mark --mark 0x0/0x1 -m multiport --dports 80,81 -j REJECT
COMMIT
"""
    run(router.router, "iptables-nft-restore", rules)
    run(
        router.router,
        "nft -f -",
        "table inet fw {\nchain f {\ntype filter hook forward priority 10; policy drop;\naccept\n}\n}\n",
    )
    packets = [syn(80, sport=20000 + at) for at in range(4)]
    order = FactsOrder(vantage=Vantage(), droppers_asked=(packets[0],))
    before = facts(router.router, order).droppers or ()
    assert router.send(packets) == [None] * 4
    after = facts(router.router, order).droppers or ()
    moved = [
        (late.rule.chain, late.rule.position, late.verdict, late.matches, late.rule.packets - early.rule.packets)
        for early, late in zip(before, after, strict=True)
        if late.rule.packets != early.rule.packets
    ]
    assert moved == [("DEEP", 3, "reject", "unsure", 4)]
    assert {(one.rule.table, one.rule.chain, one.rule.position) for one in after} == {
        ("filter", "DEEP", 3), ("filter", "FORWARD", 4), ("fw", "f", 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "iptables-legacy -I FORWARD -p tcp --dport 80 -j DROP",
        "iptables-nft -I FORWARD -p tcp --dport 80 -j REJECT",
        "iptables-nft -A FORWARD -s 10.1.1.1 -j DROP; nft add rule ip filter FORWARD tcp dport '{ 80, 81 }' drop",
        "nft add table inet fw; nft add chain inet fw f '{ type filter hook forward priority 0; }'; "
        "nft add rule inet fw f tcp dport 80 drop",
        "nft add table inet fw; nft add chain inet fw f '{ type filter hook prerouting priority -300; }'; "
        "nft add rule inet fw f ip saddr 10.50.1.2 tcp dport 80 reject",
        "iptables-legacy -t raw -A PREROUTING -p tcp --dport 80 -j DROP",
    ],
    ids=["legacy", "iptables-nft", "nft-in-iptables-table", "native", "native-early", "raw"],
)
def test_the_delete_command_mends(router: Router, command: str) -> None:
    """The command that a walk names for its dropping rule, run as it stands, lets the packet through."""
    run(router.router, command)
    packet = syn(80, sport=25000)
    walk = (facts(router.router, FactsOrder(vantage=Vantage(), walks_asked=(packet,))).walks or ())[0]
    assert walk.decided_by and walk.decided_by.owner == "administrator"
    assert router.send([packet]) == [None]
    run(router.router, walk.decided_by.delete_command)
    assert router.send([syn(80, sport=25001)]) != [None]


def test_no_forwarding_ends_the_walk(router: Router) -> None:
    """Where the kernel would not forward, the walk ends at the routing decision, with the errno."""
    run(router.router, "sysctl -qw net.ipv4.ip_forward=0")
    try:
        walk = (facts(router.router, FactsOrder(vantage=Vantage(), walks_asked=(syn(80),))).walks or ())[0]
    finally:
        run(router.router, "sysctl -qw net.ipv4.ip_forward=1")
    assert (walk.verdict, walk.decided_by and walk.decided_by.backend) == ("drop", "route")
    assert walk.decided_by and "EHOSTUNREACH" in walk.decided_by.text


@pytest.mark.parametrize("called", ["1", "0"], ids=["bridge-nf-on", "bridge-nf-off"])
def test_bridged_packets(router: Router, called: str) -> None:
    """Between two ports of a bridge, iptables' FORWARD drops only where bridge-nf calls it."""
    packet = Packet(
        family=4, source="10.55.0.2", destination="10.55.0.3", protocol="tcp", source_port=4000, destination_port=80,
        incoming="kbr0", bridge_port="port0",
    )  # fmt: skip
    pods = [f"{router.router}-{end}" for end in ("p", "q")]
    run(router.router, f"ip link add kbr0 type bridge; ip addr add 10.55.0.1/24 dev kbr0; ip link set kbr0 up; "
        f"sysctl -qw net.bridge.bridge-nf-call-iptables={called}")  # fmt: skip
    try:
        for at, pod in enumerate(pods):
            run(
                "",
                f"ip netns add {pod}; ip link add eth0 netns {pod} type veth peer name port{at} netns {router.router}",
            )
            run(router.router, f"ip link set port{at} master kbr0 up")
            run(pod, f"ip addr add 10.55.0.{2 + at}/24 dev eth0; ip link set eth0 up")
        run(pods[0], "fping -q -c1 -t3000 10.55.0.3")
        run(router.router, "iptables-nft -A FORWARD -p icmp -m physdev --physdev-is-bridged --physdev-in port0 -j DROP; "
            "iptables-nft -A FORWARD -p tcp --dport 80 -j DROP")  # fmt: skip
        icmp = msgspec.structs.replace(packet, protocol="icmp", source_port=0, destination_port=0)
        found = facts(router.router, FactsOrder(vantage=Vantage(), walks_asked=(packet, icmp))).walks or ()
        assert [walk.verdict for walk in found] == (["drop"] * 2 if called == "1" else ["accept"] * 2)
        done = subprocess.run(["nsenter", f"--net=/run/netns/{pods[0]}", "fping", "-q", "-c1", "-t300", "10.55.0.3"],
                              check=False, capture_output=True, timeout=10)  # fmt: skip
        assert (done.returncode == 0) == (called == "0")
    finally:
        for pod in pods:
            subprocess.run(["ip", "netns", "del", pod], check=False, timeout=10)
        run(router.router, "ip link del kbr0")
