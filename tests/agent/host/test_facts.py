"""The readers of facts against what `ip`, `bridge`, `sysctl` and `ss` say of the same namespace."""

# ruff: noqa: E501 - commands stand as one writes them
from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from model.facts import Facts, FactsOrder, Packet, PolicyRule, RouteQuery
from model.probes import Vantage
from tests.agent.host.kernel import facts, inside, ip_json, run

HOST = Vantage()
SETUP = """
ip link set lo up
ip link add br0 type bridge; ip addr add 10.70.0.1/24 dev br0; ip link set br0 up
ip link add va type veth peer name vb; ip link set va master br0 up; ip link set vb up mtu 1400
ip link set va type bridge_slave hairpin on
ip addr add 10.70.1.1/24 dev vb; ip addr add fd70::1/64 dev vb nodad
ip link add vxlan.1 type vxlan id 7 dev vb local 10.70.1.1 dstport 4789 nolearning; ip addr add 10.71.0.0/32 dev vxlan.1
ip link set vxlan.1 up
ip link add down0 type veth peer name down1
ip route add 10.72.1.0/24 via 10.71.0.9 dev vxlan.1 onlink proto 80
ip route add blackhole 10.72.2.0/26; ip route add unreachable 10.72.3.0/24; ip route add prohibit 10.72.4.0/24
ip route add 10.72.5.0/24 via 10.70.1.9 table 100 metric 7
ip route add 10.72.6.0/24 nexthop via 10.70.1.8 nexthop via 10.70.1.9
ip route add default via 10.70.1.254 src 10.70.1.1
ip -6 route add fd72::/64 via fd70::9; ip -6 route add blackhole fd73::/64
ip rule add from 10.70.0.0/24 fwmark 0x10/0xff table 100 priority 500
ip neigh add 10.70.1.9 lladdr 02:00:00:00:00:09 dev vb nud permanent
ip neigh add proxy 10.70.1.77 dev vb
ip -6 neigh add fd70::9 lladdr 02:00:00:00:00:19 dev vb nud permanent
bridge fdb add 02:00:00:00:00:99 dev vxlan.1 dst 10.70.1.9
bridge fdb add 02:00:00:00:00:98 dev va master static
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.vb.rp_filter=2 net.ipv6.conf.vxlan/1.disable_ipv6=1
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace with one of everything."""
    name = f"krh-{os.getpid()}-f"
    run("", f"ip netns add {name}")
    try:
        run(name, SETUP)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


def ask(namespace: str, *subjects: str, **queries: object) -> Facts:
    """Facts without an error."""
    found = facts(namespace, FactsOrder(vantage=HOST, subjects=subjects, **queries))  # type: ignore[arg-type]
    assert found.errors == {}
    return found


def test_links(namespace: str) -> None:
    """Every device with state, MTU, MAC, master, kind, peer, VXLAN and hairpin as `ip -d link` has them."""
    ours = {link.name: link for link in ask(namespace, "links").links or ()}
    theirs = {one["ifname"]: one for one in ip_json(namespace, "-d -s link")}
    assert ours.keys() == theirs.keys()
    for name, one in theirs.items():
        link = ours[name]
        info = one.get("linkinfo", {})
        assert link.index == one["ifindex"]
        assert (link.mtu, link.mac, link.master) == (one["mtu"], one["address"], one.get("master", ""))
        assert (link.up, link.carrier) == ("UP" in one["flags"], "LOWER_UP" in one["flags"])
        assert link.operstate == one["operstate"].lower()
        assert link.kind == info.get("info_kind", one["link_type"])
        assert link.rx_packets <= one["stats64"]["rx"]["packets"]
        if "link" in one and link.kind == "veth":
            assert link.peer_index == theirs[one["link"]]["ifindex"]
    vxlan = ours["vxlan.1"].vxlan
    assert vxlan is not None
    assert (vxlan.vni, vxlan.port, vxlan.local, vxlan.device, vxlan.learning) == (7, 4789, "10.70.1.1", "vb", False)
    assert (ours["va"].hairpin, ours["vb"].hairpin, ours["down0"].up) == (True, None, False)


def test_addresses(namespace: str) -> None:
    """Every address with prefix length and scope."""
    theirs = {
        (one["ifname"], info["local"], info["prefixlen"], info["scope"])
        for one in ip_json(namespace, "address")
        for info in one["addr_info"]
    }
    ours = ask(namespace, "addresses").addresses or ()
    assert {(one.device, one.address, one.prefix_length, one.scope) for one in ours} == theirs


def test_routes(namespace: str) -> None:
    """Every route of every table and type, both families; each next hop of a multipath route."""
    tables = {"local": 255, "main": 254, "default": 253}
    theirs = set()
    for family in ("4", "6"):
        for one in ip_json(namespace, f"-{family} -N route show table all"):
            to = {"default": "0.0.0.0/0" if family == "4" else "::/0"}.get(one["dst"], one["dst"])
            kind = one.get("type", "unicast")
            for hop in one.get("nexthops", [one]):
                table = one.get("table", "main")
                theirs.add((
                    str(ipaddress.ip_network(to)), kind, hop.get("gateway", ""),
                    hop.get("dev", ""), tables.get(table) or int(table), "onlink" in hop.get("flags", []),
                ))  # fmt: skip
    names = {"1": "unicast", "2": "local", "3": "broadcast", "4": "anycast", "5": "multicast", "6": "blackhole",
             "7": "unreachable", "8": "prohibit"}  # fmt: skip
    theirs = {(one[0], names.get(one[1], one[1]), *one[2:]) for one in theirs}
    routes = ask(namespace, "routes").routes or ()
    ours = {(one.destination, one.type, one.gateway, one.device, one.table, one.onlink) for one in routes}
    # An IPv6 blackhole is bound to the loopback device, which ip does not always print.
    ours = {(*one[:3], "" if one[1] in {"blackhole", "unreachable"} else one[3], *one[4:]) for one in ours}
    theirs = {(*one[:3], "" if one[1] in {"blackhole", "unreachable"} else one[3], *one[4:]) for one in theirs}
    assert ours == theirs
    special = next(one for one in routes if one.destination == "10.72.1.0/24")
    assert (special.protocol, special.onlink, special.gateway) == (80, True, "10.71.0.9")
    assert next(one for one in routes if one.table == 100).metric == 7


def test_rules(namespace: str) -> None:
    """Policy rules with selector, mark and table."""
    rules = [(one.priority, one.source, one.mark, one.mask, one.table) for one in ask(namespace, "rules").rules or ()]
    assert (500, "10.70.0.0/24", 0x10, 0xFF, 100) in rules
    assert {one[0] for one in rules} == {0, 500, 32766, 32767}


RULES = {
    "not from 10.9.0.0/16 to 10.8.0.0/24 iif lo prohibit": {
        "source": "10.9.0.0/16",
        "destination": "10.8.0.0/24",
        "incoming": "lo",
        "action": "prohibit",
        "inverted": True,
    },
    "lookup main suppress_prefixlength 0": {"table": 254, "suppressed": 0},
    "ipproto tcp dport 25 blackhole": {"action": "blackhole", "unread": (22, 24)},
    "tos 0x10 lookup main": {"table": 254, "unread": (0,)},
}


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_does_and_what_of_it_is_not_read(namespace: str, rule: str) -> None:
    """Inverted, suppressing and acting rules as they are; conditions that we do not judge are told."""
    run(namespace, f"ip rule add pref 600 {rule}")
    try:
        (found,) = [one for one in ask(namespace, "rules").rules or () if one.priority == 600]
    finally:
        run(namespace, f"ip rule del pref 600 {rule}")
    assert found == PolicyRule(family=4, priority=600, **RULES[rule])  # type: ignore[arg-type]


def test_neighbours_and_fdb(namespace: str) -> None:
    """Neighbours of both families, proxies, and forwarding entries with their tunnel's end."""
    found = ask(namespace, "neighbours", "fdb")
    neighbours = {(one.address, one.device, one.mac, one.state) for one in found.neighbours or ()}
    assert ("10.70.1.9", "vb", "02:00:00:00:00:09", "permanent") in neighbours
    assert ("fd70::9", "vb", "02:00:00:00:00:19", "permanent") in neighbours
    assert ("10.70.1.77", "vb", "", "proxy") in neighbours
    theirs = {(one["mac"], one["ifname"], one.get("dst", "")) for one in json.loads(run(namespace, "bridge -j fdb"))}
    assert {(one.mac, one.device, one.destination) for one in found.fdb or ()} == theirs
    assert ("02:00:00:00:00:99", "vxlan.1", "10.70.1.9") in theirs


def test_sysctls(namespace: str) -> None:
    """Sysctls of this namespace, per device, with the keys that `sysctl` prints."""
    found = ask(namespace, "sysctls").sysctls or {}
    assert found["net.ipv4.ip_forward"] == "1"
    assert found["net.ipv4.conf.vb.rp_filter"] == "2"
    assert found["net.ipv6.conf.vxlan/1.disable_ipv6"] == "1"
    printed = dict(
        line.split(" = ", 1) for line in run(namespace, "sysctl -a 2>/dev/null").splitlines() if " = " in line
    )
    moving = {"net.netfilter.nf_conntrack_count"}
    for key, value in found.items():
        if key not in moving and key in printed:
            assert " ".join(printed[key].split()) == value, key
    assert sum(key in printed for key in found) > len(found) * 0.9


def test_sockets(namespace: str) -> None:
    """Listening TCP and bound UDP sockets of the namespace, none of another's; connected ones are left out."""

    def opened() -> list[socket.socket]:
        tcp = socket.create_server(("10.70.1.1", 8081))
        tcp6 = socket.create_server(("::", 8082), family=socket.AF_INET6)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 8083))
        connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connected.connect(("10.70.1.1", 8083))
        return [tcp, tcp6, udp, connected]

    held = inside(namespace, opened)
    try:
        found = {(one.protocol, one.family, one.address, one.port) for one in ask(namespace, "sockets").sockets or ()}
    finally:
        for one in held:
            one.close()
    # The VXLAN device's own socket is one too.
    vxlan = {("udp", 4, "0.0.0.0", 4789)}
    assert found == {("tcp", 4, "10.70.1.1", 8081), ("tcp", 6, "::", 8082), ("udp", 4, "127.0.0.1", 8083)} | vxlan


def test_cni(namespace: str, tmp_path: Path) -> None:
    """Files in the runtime's order, with the plugins that are missing; a broken one says why."""
    configurations, programs = tmp_path / "net.d", tmp_path / "bin"
    configurations.mkdir()
    programs.mkdir()
    (programs / "bridge").touch()
    (configurations / "20-b.conflist").write_text(
        '{"name":"cbr0","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}'
    )
    (configurations / "10-a.conf").write_text("{not json")
    (configurations / "30-c.conf").write_text('{"name":"x","type":"bridge"}')
    (configurations / "99-readme.txt").write_text("no")
    order = FactsOrder(vantage=HOST, subjects=("cni",))
    options = ("--cni-conf-dir", str(configurations), "--cni-bin-dir", str(programs))
    found = facts(namespace, order, *options).cni or ()
    assert [Path(one.path).name for one in found] == ["10-a.conf", "20-b.conflist", "30-c.conf"]
    assert found[0].error
    assert (found[1].types, found[1].missing_types) == (("bridge", "portmap", "host-local"), ("portmap", "host-local"))
    assert found[2].missing_types == ()


ROUTES = {
    "local": (RouteQuery(destination="10.70.1.1"), 0, "local", "10.70.1.1/32"),
    "gateway": (RouteQuery(destination="192.0.2.1"), 0, "unicast", "0.0.0.0/0"),
    "onlink": (RouteQuery(destination="10.72.1.5"), 0, "unicast", "10.72.1.0/24"),
    "blackhole": (RouteQuery(destination="10.72.2.5"), 22, "", ""),
    "unreachable": (RouteQuery(destination="10.72.3.5"), 113, "", ""),
    "prohibit": (RouteQuery(destination="10.72.4.5"), 13, "", ""),
    "forwarded": (RouteQuery(destination="10.70.1.5", source="10.70.0.9", incoming="br0"), 0, "unicast", "10.70.1.0/24"),
    "forwarded-by-address": (RouteQuery(destination="10.70.1.5", source="10.70.0.9", incoming="@10.70.0.9"), 0, "unicast",
                             "10.70.1.0/24"),
    "marked": (RouteQuery(destination="10.72.5.5", source="10.70.0.1", mark=0x10), 0, "unicast", "10.72.5.0/24"),
    "martian": (RouteQuery(destination="10.70.1.5", source="10.70.1.1", incoming="br0"), 22, "", None),
    "no-device": (RouteQuery(destination="10.70.1.5", incoming="nobody"), 19, "", ""),
    "no-address": (RouteQuery(destination="nonsense"), 22, "", ""),
    "ipv6": (RouteQuery(destination="fd72::5"), 0, "unicast", "fd72::/64"),
    "ipv6-forwarded": (RouteQuery(destination="fd72::5", source="fd99::1", incoming="br0"), 0, "unicast", "fd72::/64"),
    "ipv6-blackhole": (RouteQuery(destination="fd73::5"), 22, "", None),
}  # fmt: skip


def test_route_answers(namespace: str) -> None:
    """The kernel's answer, its errno as a finding, and the route that matched."""
    queries = tuple(query for query, *_ in ROUTES.values())
    answers = ask(namespace, routes_asked=queries).route_answers or ()
    for (name, (query, errno, kind, matched)), answer in zip(ROUTES.items(), answers, strict=True):
        assert answer.query == query
        assert (answer.errno, answer.type) == (errno, kind), name
        assert matched is None or answer.matched == matched, name


def test_a_failed_subject_costs_no_other(namespace: str) -> None:
    """What cannot be read stands in the errors, beside whatever else was asked."""
    order = FactsOrder(
        vantage=HOST, subjects=("links", "nonsense"),
        walks_asked=(Packet(family=4, source="x", destination="y", protocol="tcp"),),
    )  # fmt: skip
    found = facts(namespace, order)
    assert found.links and found.walks is None
    assert found.errors.keys() == {"nonsense", "walks"}


def test_missing_programs_are_told(namespace: str, tmp_path: Path) -> None:
    """Without nft and iptables, no walk is called accepted."""
    order = FactsOrder(
        vantage=HOST, walks_asked=(Packet(family=4, source="", destination="10.70.1.9", protocol="tcp"),)
    )
    done = subprocess.run(
        [sys.executable, "-m", "agent.host", "--netns", f"/run/netns/{namespace}"], input=msgspec.json.encode(order),
        capture_output=True, timeout=30, check=True, env={"PATH": str(tmp_path)},
        cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    found = msgspec.json.decode(done.stdout, type=Facts)
    assert found.errors["netfilter nft"] == "nft: command not found"
    assert found.walks and found.walks[0].verdict == "unsure" and "nft: command not found" in found.walks[0].unsure


def test_a_missing_ipset_is_told_where_a_rule_asks_for_a_set(namespace: str, tmp_path: Path) -> None:
    """Without the program a walk that meets a set is unsure and says why; where no rule has a set, nothing is missed."""
    for name in ("nft", "iptables-nft-save", "ip6tables-nft-save"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    packet = Packet(family=4, source="", destination="10.70.1.9", protocol="tcp")
    other = Packet(family=6, source="", destination="fd72::9", protocol="tcp")
    order = FactsOrder(vantage=HOST, walks_asked=(packet, other))

    def read() -> Facts:
        done = subprocess.run(
            [sys.executable, "-m", "agent.host", "--netns", f"/run/netns/{namespace}"],
            input=msgspec.json.encode(order), capture_output=True, timeout=30, check=True,
            env={"PATH": str(tmp_path)}, cwd=Path(__file__).resolve().parents[3],
        )  # fmt: skip
        return msgspec.json.decode(done.stdout, type=Facts)

    found = read()
    assert found.errors == {} and [one.verdict for one in found.walks or ()] == ["accept", "accept"]
    run(namespace, "ipset create krh-set hash:ip; iptables-nft -A OUTPUT -m set --match-set krh-set dst -j DROP")
    try:
        found = read()
    finally:
        run(namespace, "iptables-nft -F OUTPUT; nft delete table ip filter; ipset destroy krh-set")
    assert found.errors == {"netfilter ipset": "ipset: command not found"}
    assert [one.verdict for one in found.walks or ()] == ["unsure", "accept"]
    assert found.walks and "ipset: command not found" in found.walks[0].unsure


def test_reading_makes_no_legacy_tables(namespace: str) -> None:
    """Where no iptables-legacy table was, none is after walks and droppers were asked."""
    packet = Packet(family=4, source="", destination="10.70.1.9", protocol="tcp")
    ask(namespace, walks_asked=(packet,), droppers_asked=(packet,))
    assert run(namespace, "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names").strip() == ""
    assert run(namespace, "nft list ruleset").strip() == ""


def test_bad_input_is_one_line() -> None:
    """No order, or no such namespace: exit code 2 and one line on stderr."""
    for given, options in ((b"nonsense", ()), (b'{"vantage":{}}', ("--netns", "/run/netns/krh-nobody"))):
        done = subprocess.run(
            [sys.executable, "-m", "agent.host", *options], input=given, capture_output=True, timeout=30, check=False,
            cwd=Path(__file__).resolve().parents[3],
        )  # fmt: skip
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, b"", 1)


def test_a_plain_order_is_quick(namespace: str) -> None:
    """Six subjects cost well under 250 ms of processor time, whatever else the machine does."""
    order = FactsOrder(vantage=HOST, subjects=("links", "addresses", "routes", "neighbours", "fdb", "sysctls"))
    before = os.times()
    started = time.monotonic()
    facts(namespace, order)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 0.25, f"{used:.3f} s of processor time, {time.monotonic() - started:.3f} s in all"


def test_who_answers_for_an_address(namespace: str) -> None:
    """ARP and neighbour discovery are asked anew: one answer, several claimants, nobody, and what is not on a link."""
    others = [f"{namespace}-{end}" for end in ("x", "y")]
    try:
        for at, other in enumerate(others):
            run(
                "",
                f"ip netns add {other}; ip link add eth0 netns {other} type veth peer name claim{at} netns {namespace}",
            )
            run(namespace, f"ip link set claim{at} master br0 up")
            run(other, f"ip link set eth0 address 02:00:00:00:01:0{at}; ip addr add 10.70.0.50/24 dev eth0")
            run(
                other,
                f"ip addr add 10.70.0.6{at}/24 dev eth0; ip addr add fd74::{at + 2}/64 dev eth0 nodad; ip link set eth0 up",
            )
        run(namespace, "ip addr replace fd74::1/64 dev br0 nodad")
        asked = ("10.70.0.60", "10.70.0.50", "10.70.0.99", "8.8.8.8", "fd74::3")
        found = ask(namespace, resolve_asked=asked).resolved or ()
    finally:
        for other in others:
            subprocess.run(["ip", "netns", "del", other], check=False, timeout=10)
    first, second = "02:00:00:00:01:00", "02:00:00:00:01:01"
    answers = {one.address: (one.device, set(one.macs), bool(one.error)) for one in found}
    assert answers == {
        "10.70.0.60": ("br0", {first}, False),
        "10.70.0.50": ("br0", {first, second}, False),
        "10.70.0.99": ("br0", set(), False),
        "8.8.8.8": ("", set(), True),
        "fd74::3": ("br0", {second}, False),
    }
