"""A lab broken by raw commands, and `kubereach probe --trace`: it stops at the right device, there or on the way back,
and names the rule, route, sysctl, entry, or the two hosts between which packets die. A healthy pair has no stop, and
nothing of a trace is left behind.
"""

# ruff: noqa: E501 - commands stand as one writes them
from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab import api, netns
from lab.client import ApiClient
from lab.spec import LabSpec
from tests.lab.watched import CLEARED_S, OneAtATime, Watched

LABS = (("flannel-vxlan", "iptables"), ("flannel-host-gw", "nftables"), ("calico", "iptables"))
VXLAN = ("flannel-vxlan", "calico")
BRIDGE = ("flannel-vxlan", "flannel-host-gw")
HEALTHY_TRACES = int(os.environ.get("KUBEREACH_TRACES", "25"))
# Losses for which no incident was opened stay in the windows of their paths until they are old.
FADED_S = 75.0
QUICK = ("--trace", "--count", "1", "--timeout", "300ms", "--family", "4")


@pytest.fixture
def watched(request: pytest.FixtureRequest, labs: OneAtATime[Watched]) -> Watched:
    """A watched lab of the network plugin that is asked for. Three nodes: the first and the last are in one zone."""
    cni, proxy = request.param
    return labs.of(LabSpec(f"v{os.getpid()}", nodes=3, cni=cni, proxy=proxy))


@dataclass(frozen=True)
class Break:
    """Raw commands in a place, and what a trace must say: place, node and device of the stop (any of some), and the first
    cause with its object. `names` are what the kernel's rule at the stop is called.
    """

    name: str
    where: str
    do: str
    undo: str
    stop: dict[str, Any]
    cause: str = "node.firewall_drop"
    thing: dict[str, str] = field(default_factory=dict)
    probe: tuple[str, ...] = ("{pod_b}", "{pod_c}", "--proto", "udp")
    rule: str = ""
    cnis: tuple[str, ...] = ("flannel-vxlan", "flannel-host-gw", "calico")


# The device by which a packet from another node comes to the pods' side, by network plugin.
CAME = {"flannel-vxlan": "flannel.1", "flannel-host-gw": "eth0", "calico": "vxlan.calico"}
BREAKS = [
    Break("FORWARD in iptables-legacy", "node-c", "iptables-legacy -A FORWARD -p udp --dport 8700 -j DROP", "iptables-legacy -D FORWARD -p udp --dport 8700 -j DROP",
          {"node": "node-c", "device": "{came}", "direction": "in"}, thing={"node": "node-c", "name": "filter/FORWARD/1"}, rule="filter/FORWARD/1"),
    Break("FORWARD in iptables-nft", "node-c", "iptables-nft -I FORWARD 1 -p udp --dport 8700 -j DROP", "iptables-nft -D FORWARD -p udp --dport 8700 -j DROP",
          {"node": "node-c", "device": "{came}", "direction": "in"}, thing={"node": "node-c", "name": "filter/FORWARD/1"}, rule="filter/FORWARD/1"),
    Break("FORWARD in native nft", "node-c", "nft add table inet fw; nft add chain inet fw f '{{ type filter hook forward priority -5; }}'; nft add rule inet fw f udp dport 8700 drop", "nft delete table inet fw",
          {"node": "node-c", "device": "{came}", "direction": "in"}, thing={"node": "node-c", "kind": "nft-rule", "name": "fw/f/1"}, rule="fw/f/1"),
    Break("OUTPUT rejects", "node-b", "iptables -I OUTPUT 1 -p udp --dport 8701 -j REJECT", "iptables -D OUTPUT -p udp --dport 8701 -j REJECT",
          {"place": "sender", "node": "node-b"}, thing={"node": "node-b", "name": "filter/OUTPUT/1"}, probe=("node/node-b", "node/node-c"), rule="filter/OUTPUT/1"),
    Break("blackhole route", "node-b", "ip route add blackhole {ip_c}/32", "ip route del blackhole {ip_c}/32",
          {"node": "node-b", "device": "{own}", "direction": "in"}, "node.route_blackhole", {"node": "node-b", "kind": "route", "name": "{ip_c}/32"}),
    Break("missing route", "node-b", "ip route del {cidr_c}", "ip route add {route_c}",
          {"place": "between", "node": "node-b", "device": "eth0", "direction": "out"}, "cni.remote_route_missing", {"node": "node-b", "kind": "route", "name": "{cidr_c}"}),
    Break("ip_forward is 0", "node-b", "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1",
          {"node": "node-b", "device": "{own}", "direction": "in"}, "node.ip_forward_off", {"node": "node-b", "kind": "sysctl", "name": "net.ipv4.ip_forward"}),
    Break("rp_filter", "node-c", "ip route add default via {a} dev eth0 table 177; ip rule add to {cidr_a} lookup 177; sysctl -qw net.ipv4.conf.{came_key}.rp_filter=1",
          "sysctl -qw net.ipv4.conf.{came_key}.rp_filter=0; ip rule del to {cidr_a} lookup 177; ip route flush table 177",
          {"node": "node-c", "device": "{came}", "direction": "in"}, "node.rp_filter", {"node": "node-c", "kind": "sysctl", "name": "net.ipv4.conf.{came_key}.rp_filter"}, ("{pod_a}", "{pod_c}", "--proto", "udp"), cnis=VXLAN),
    Break("downed veth", "node-c", "ip link set {veth_c} down", "ip link set {veth_c} up; {restore_c}",
          {"node": "node-c"}, "cni.veth_down", {"node": "node-c", "kind": "device", "name": "{veth_c}"}),
    Break("wrong FDB entry", "node-b", "bridge fdb del {fdb} dst {c}; bridge fdb append {fdb} dst {nobody}", "bridge fdb del {fdb} dst {nobody}; bridge fdb append {fdb} dst {c}",
          {"place": "between", "node": "node-b", "device": "eth0", "direction": "out"}, "cni.vtep_wrong", {"node": "node-b", "kind": "fdb", "name": "{fdb}"}, cnis=VXLAN),
    Break("VXLAN port dropped at the receiver", "node-c", "iptables -I INPUT 1 -p udp -m multiport --dports 4789,8472 -j DROP", "iptables -D INPUT -p udp -m multiport --dports 4789,8472 -j DROP",
          {"node": "node-c", "device": "eth0", "direction": "in"}, thing={"node": "node-c", "name": "filter/INPUT/1"}, rule="filter/INPUT/1", cnis=VXLAN),
    Break("dropped in between", "router", "{fabric_there}", "{fabric_undo}",
          {"place": "between", "between": ["node-b", "node-c"], "device": "eth0", "direction": "out"}, "fabric.blocked", {"kind": "path"}),
    Break("the reply dropped in between", "router", "{fabric_back}", "{fabric_undo}",
          {"place": "between", "between": ["node-c", "node-b"], "device": "eth0", "direction": "out", "reply": True}, "fabric.blocked", {"kind": "path"}),
    Break("the reply dropped by a rule", "node-b", "iptables -I FORWARD 1 -p udp --sport 8700 -j DROP", "iptables -D FORWARD -p udp --sport 8700 -j DROP",
          {"node": "node-b", "device": "{came}", "direction": "in", "reply": True}, thing={"node": "node-b", "name": "filter/FORWARD/1"}, rule="filter/FORWARD/1"),
    Break("missing SNAT", "node-b", "iptables -t nat -I POSTROUTING 1 -s {cidr_b} -d 203.0.113.10/32 -j ACCEPT", "iptables -t nat -D POSTROUTING -s {cidr_b} -d 203.0.113.10/32 -j ACCEPT",
          {"place": "outside", "node": "node-b", "device": "eth0", "direction": "out"}, "cni.masquerade_missing", {"kind": "Node", "name": "node-b"}, ("{pod_b}", "203.0.113.10:80")),
]  # fmt: skip


def values_of(watched: Watched) -> dict[str, str]:
    """Names and addresses that commands and expectations need."""
    plan, cni = watched.plan, watched.plan.spec.cni
    came = CAME[cni]
    values = {
        "came": came,
        "came_key": came.replace(".", "/"),
        "nobody": plan.node("node-c").ipv4.rpartition(".")[0] + ".250",
        "fdb": "",
    }
    for letter in "abc":
        node = plan.node(f"node-{letter}")
        name, space = endpoint(watched, node.name)
        inside = json.loads(netns.run_sync(space, ["ip", "-j", "-4", "addr", "show", "eth0"]).stdout)[0]
        devices = json.loads(watched.run(node.name, "ip", "-j", "link", "show"))
        veth = next(d["ifname"] for d in devices if d["ifindex"] == inside["link_index"])
        routes = watched.run(node.name, "ip", "-4", "route", "show", "dev", veth).splitlines()
        routes6 = [
            r
            for r in watched.run(node.name, "ip", "-6", "route", "show", "dev", veth).splitlines()
            if not r.startswith("fe80")
        ]
        restore = [f"ip route replace {r} dev {veth}" for r in routes] + [
            f"ip -6 route replace {r} dev {veth}" for r in routes6
        ]
        values |= {letter: node.ipv4, f"pod_{letter}": name, f"ip_{letter}": inside["addr_info"][0]["local"], f"cidr_{letter}": node.pod_cidr4,
                   f"veth_{letter}": veth, f"restore_{letter}": "; ".join(restore) or ":"}  # fmt: skip
    values["own"] = values["veth_b"] if cni == "calico" else "cni0"
    values["route_c"] = watched.run("node-b", "ip", "route", "show", "exact", values["cidr_c"]).strip()
    if cni in VXLAN:
        known = json.loads(watched.run("node-b", "bridge", "-j", "fdb", "show"))
        values["fdb"] = next(
            f"{e['mac']} dev {came}" for e in known if e.get("dst") == values["c"] and e["ifname"] == came
        )
    return values | fabric(watched, values)


def fabric(watched: Watched, values: dict[str, str]) -> dict[str, str]:
    """Commands for the router that drop what one of node-b and node-c sends to the other: routed, or bridged on one segment."""
    family = "bridge" if watched.plan.spec.cni == "flannel-host-gw" else "ip"
    ends = {"there": (values["b"], values["c"]), "back": (values["c"], values["b"])}
    if watched.plan.spec.cni == "flannel-host-gw":
        ends = {"there": (values["ip_b"], values["ip_c"]), "back": (values["ip_c"], values["ip_b"])}
    made = {
        f"fabric_{name}": f"nft add table {family} t; nft add chain {family} t f '{{ type filter hook forward priority 0; }}'; nft add rule {family} t f ip saddr {one} ip daddr {other} drop"
        for name, (one, other) in ends.items()
    }
    return made | {"fabric_undo": f"nft delete table {family} t"}


def pods(watched: Watched, label: str) -> list[Any]:
    """Pods with a label."""

    async def listed() -> list[Any]:
        async with ApiClient.from_kubeconfig(Path(watched.state.kubeconfig)) as client:
            return await client.list("pods", label_selector=label)

    return asyncio.run(listed())


def endpoint(watched: Watched, node: str) -> tuple[str, str]:
    """The endpoint pod of a node, as `kubereach probe` names it, and its network namespace."""
    for pod in pods(watched, "app.kubernetes.io/component=endpoint"):
        meta = pod["metadata"]
        if pod["spec"]["nodeName"] == node:
            return f"pod/{meta['namespace']}/{meta['name']}", watched.plan.pod_netns(meta["namespace"], meta["name"])
    raise AssertionError(f"no endpoint on {node}")


def dealt() -> Iterator[Any]:
    """Yield every break with each lab that it applies to; but for flannel-vxlan one in three, unless all are wanted."""
    everywhere = os.environ.get("KUBEREACH_DRILLS") == "all"
    for index, kind in enumerate(LABS):
        for number, broken in enumerate(BREAKS):
            if kind[0] in broken.cnis and (everywhere or index == 0 or number % 3 == index):
                yield pytest.param(kind, broken, id=f"{kind[0]}-{broken.name}")


@pytest.mark.parametrize(("watched", "broken"), list(dealt()), indirect=["watched"])
def test_stops_where_it_is_broken(watched: Watched, broken: Break) -> None:
    """The stop is at the device, the first cause names the object, and the kernel itself the rule, if it is one."""
    values = values_of(watched)

    def filled(wanted: dict[str, Any]) -> dict[str, Any]:
        return {key: value.format(**values) if isinstance(value, str) else value for key, value in wanted.items()}

    try:
        watched.run(broken.where, "sh", "-ec", broken.do.format(**values))
        answer = watched.kubereach("probe", *(word.format(**values) for word in broken.probe), *QUICK, "-o", "json")
    finally:
        watched.run(broken.where, "sh", "-c", broken.undo.format(**values))
    report = answer.json
    stop, best = report["trace"]["stop"], report["causes"][0] if report["causes"] else {"code": "", "object": {}}
    assert {key: stop.get(key) for key in broken.stop} == filled(broken.stop), answer.out
    assert best["code"] == broken.cause, answer.out
    assert {key: best["object"].get(key) for key in broken.thing} == filled(broken.thing), answer.out
    assert stop.get("rule", {}).get("name", "") == broken.rule, answer.out
    assert answer.code == 1
    # The next break needs this way whole, and not that all incidents are closed.
    again = ("probe", *(word.format(**values) for word in broken.probe), "--family", "4", "--count", "1", "--no-trace")
    watched.wait(lambda: watched.kubereach(*again).code == 0, CLEARED_S, lambda: watched.kubereach(*again).out)


@pytest.mark.parametrize("watched", LABS[:1], ids=["flannel-vxlan"], indirect=True)
def test_what_policy_denies_stops_at_its_rule(watched: Watched) -> None:
    """Blocked as intended: asked for a trace, it names the enforcing rule on the node where it stands, and the policy."""
    answer = watched.kubereach("probe", "ops/jumpbox", "svc/shop/cart", *QUICK, "-o", "json")
    report = answer.json
    stop = report["trace"]["stop"]
    assert (answer.code, report["verdict"]) == (0, "blocked_as_intended")
    assert report["causes"][0]["object"]["name"] == "cart-from-shop"
    assert (stop["place"], stop["direction"]) == ("node", "in")
    assert "KUBE-POD-FW" in stop["rule"]["name"] and "shop/cart" in stop["rule"]["text"]
    assert "rejected by rule" in stop["kernel"]


@pytest.mark.parametrize("watched", LABS[:1], ids=["flannel-vxlan"], indirect=True)
def test_a_service_is_followed_through_its_translation(watched: Watched) -> None:
    """The hops of a healthy Service: from the pod's device to the backend's socket and back, DNAT done and undone."""
    report = watched.kubereach("probe", "shop/frontend", "svc/shop/cart", *QUICK, "-o", "json").json
    trace, hops = report["trace"], report["hops"]
    assert (trace["sent"], trace["answered"], trace.get("lost", 0), trace.get("stop")) == (5, 5, 0, None)
    told = [hop["translated"].split()[:2] for hop in hops if hop.get("translated")]
    assert [words[0] for words in told] == ["DNAT", "DNAT"] and told[1][1] == "undone"
    there = [hop for hop in hops if not hop.get("reply")]
    assert (there[0]["device"], there[-1]["device"]) == ("eth0", "socket")
    assert {hop["numbers"] for hop in hops} == {5}


@pytest.mark.parametrize("watched", LABS[:1], ids=["flannel-vxlan"], indirect=True)
def test_loss_that_comes_and_goes(watched: Watched) -> None:
    """A rule that drops one packet in four: which were lost, behind which device, and SYNs that had to be sent again."""
    values = values_of(watched)
    rule = "FORWARD -p tcp --dport 8700 --syn -m statistic --mode nth --every 4 --packet 1 -j DROP"
    watched.run("node-c", "sh", "-ec", f"iptables -I {rule.replace('FORWARD', 'FORWARD 1', 1)}")
    ask = (
        "probe",
        values["pod_b"],
        values["pod_c"],
        "--proto",
        "tcp",
        "--count",
        "100",
        "--interval",
        "10ms",
        "--family",
        "4",
        "--trace",
    )
    try:
        report = watched.kubereach(*ask, "-o", "json").json
    finally:
        watched.run("node-c", "sh", "-c", f"iptables -D {rule}")
    trace = report["trace"]
    assert trace["sent"] == 100 and 20 <= trace["repeated"] <= 30
    lost = {(hop["node"], hop["device"]): hop["lost"] for hop in report["hops"] if hop.get("lost")}
    assert set(lost) <= {("node-c", "flannel.1")}
    assert trace["answered"] + trace.get("lost", 0) == 100 and trace["answered"] >= 90
    came = next(
        h for h in report["hops"] if (h["node"], h["device"], h.get("reply", False)) == ("node-c", "flannel.1", False)
    )
    assert (came["numbers"], came["repeated"]) == (100, trace["repeated"])
    watched.wait_healthy(FADED_S)


@pytest.mark.parametrize("watched", LABS[:1], ids=["flannel-vxlan"], indirect=True)
def test_the_capture_is_read_by_others(watched: Watched, tmp_path: Path) -> None:
    """--pcap: tcpdump reads the file; each packet stands there at every device, on an interface named by node and device."""
    values, file = values_of(watched), tmp_path / "way.pcapng"
    ask = ("probe", values["pod_b"], values["pod_c"], "--proto", "icmp", *QUICK)
    answer = watched.kubereach(*ask, "--pcap", str(file), "-o", "json")
    assert answer.code == 0 and "capture" not in answer.json
    read = subprocess.run(["tcpdump", "-nn", "-r", str(file)], capture_output=True, text=True, check=True).stdout
    packets = [line for line in read.splitlines() if "ICMP echo re" in line]
    seen = sum(hop["packets"] for hop in answer.json["hops"] if hop["device"] != "socket")
    assert len(packets) == seen >= 5 * 20
    assert b"node-c flannel.1" in file.read_bytes() and b"request 5, in eth0 of pod kubereach/" in file.read_bytes()
    refused = watched.kubereach(*ask[:5], "--no-trace", "--pcap", str(file))
    assert refused.code == 2 and "--no-trace" in refused.err


@pytest.mark.parametrize("watched", LABS[:1], ids=["flannel-vxlan"], indirect=True)
def test_healthy_traces_stop_nowhere_and_leave_nothing(watched: Watched) -> None:
    """No false stop; and rules, namespaces, packet sockets, processes, open files and folders are as they were before."""
    values = values_of(watched)
    pairs = [(values["pod_b"], values["pod_c"]), ("node/node-a", "node/node-c"), ("shop/frontend", "svc/shop/cart")]
    before, held = at_rest(watched), open_files(watched)
    for number in range(HEALTHY_TRACES):
        source, destination = pairs[number % len(pairs)]
        body = {"source": source, "destination": destination, "family": 4, "count": 1, "trace": True}
        report = watched.request("POST", "/api/v1/probe", body)
        trace = report["trace"]
        assert (report["verdict"], trace["sent"], trace["answered"], trace.get("stop")) == ("healthy", 5, 5, None), (
            report
        )
    watched.wait(lambda: not more(before, things(watched)), 30, lambda: more(before, things(watched)))
    # Probes of the agents come and go; a pipe that each trace left would show.
    watched.wait(
        lambda: all(open_files(watched)[node] < held[node] + HEALTHY_TRACES for node in held), 30, lambda: held
    )


def open_files(watched: Watched) -> dict[str, int]:
    """Open descriptors of each agent."""
    agents = api.status(watched.spec.name)["pids"]["agents"]
    return {node: len(list(Path(f"/proc/{pid}/fd").iterdir())) for node, pid in agents.items()}


def at_rest(watched: Watched) -> dict[str, Any]:
    """What is there when nothing is going on: the same twice, a moment apart."""
    seen = [things(watched)]

    def is_still() -> bool:
        seen.append(things(watched))
        return seen[-1] == seen[-2]

    watched.wait(is_still, 30, lambda: (seen[-2], seen[-1]))
    return seen[-1]


def things(watched: Watched) -> dict[str, Any]:
    """What a trace could leave behind."""
    agents = api.status(watched.spec.name)["pids"]["agents"]
    ours = [path.name for path in Path("/run/netns").iterdir() if path.name.startswith(f"{watched.spec.name}-")]
    files = [
        path.name for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith(("kubereach", "scapy"))
    ]
    found: dict[str, Any] = {"namespaces": set(ours), "files": set(files)}
    for node, pid in agents.items():
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found[node] = {
            "children": len(children),
            "sockets": int(watched.run(node, "sh", "-c", "cat /proc/net/packet /proc/net/raw /proc/net/raw6 | wc -l")),
            "rules": Counter(rules(watched.run(node, "nft", "-s", "list", "ruleset"))),
            "legacy": watched.run(node, "sh", "-c", "iptables-legacy-save").count("\n-A"),
        }
    return found


def more(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What there is more of than before."""
    found = {}
    for key, was in before.items():
        now = after[key]
        if isinstance(was, dict) and not isinstance(was, Counter):
            left: Any = more(was, now)
        else:
            left = now - was if not isinstance(was, int) else max(0, now - was)
        if left:
            found[key] = left
    return found


def rules(text: str) -> list[str]:
    """A rule set without what counts or waits."""
    return [line for line in text.splitlines() if "expires" not in line and "counter" not in line]
