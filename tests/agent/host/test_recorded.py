"""The rules of real nodes, recorded: read whole, owners and objects told, and walks that agree with the objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from agent.host.netfilter.owner import Owners
from agent.host.netfilter.packet import finish
from agent.host.netfilter.rules import NATIVE, NFT_COMPAT
from agent.host.netfilter.walk import Path, Walker, conclude
from agent.host.netfilter.xt_matches import JUDGES, WHOLE
from agent.host.netfilter.xt_rule import FINAL, TARGETS, WITHOUT_EFFECT
from agent.host.netfilter.xtables import parse
from model.facts import Packet, RouteQuery
from tests.agent.host.recorded import NAMES, Recording

CHANCE = {"statistic", "numgen", "recent"}
NODE = "n1"
# Who signs what, written down from the recording by eye: first pattern that fits the line's chain or text.
OWNERS = (
    (r"cali", "calico"),
    (r"KUBE-ROUTER|KUBE-POD-FW|KUBE-NWPLCY", "kube-router"),
    (r"KUBE-FIREWALL", "kubelet"),
    (r"FLANNEL", "flannel"),
    (r"KUBE-", "kube-proxy"),
)


@pytest.fixture(scope="module", params=NAMES)
def recording(request: pytest.FixtureRequest) -> Recording:
    """Each recorded node."""
    return Recording(request.param)


def lines(recording: Recording) -> list[str]:
    """Every rule line of the save files."""
    return [
        line.partition(" ")[2]
        for suffix in ("iptables", "ip6tables")
        for line in recording.text(suffix).splitlines()
        if re.match(r"\[\d+:\d+\] -A ", line)
    ]


def test_every_line_is_a_rule(recording: Recording) -> None:
    """No line of the save files is lost, and each is kept as it was printed."""
    found = [f"-A {rule.chain} {rule.text}" for rule in recording.ruleset.rules() if rule.backend == NFT_COMPAT]
    assert sorted(found) == sorted(lines(recording))


def test_every_native_rule_is_there(recording: Recording) -> None:
    """Each rule of nft's listing that is not iptables-nft's own is a native rule."""
    own = {"filter", "nat", "mangle", "raw"}
    listed, table = 0, ""
    for line in recording.text("nft").splitlines():
        if line.startswith("table "):
            table = line.split()[2]
        is_rule = re.match(r"\t\t(?!type |policy |comment |elements |flags |size |timeout |  |\t|\})\S", line)
        listed += bool(is_rule and table not in own and line.strip() != "}")
    assert listed == sum(rule.backend == NATIVE for rule in recording.ruleset.rules())


def test_every_option_is_understood(recording: Recording) -> None:
    """Each match, option and target of the recordings is one that the walk can judge."""
    chains = {(table.name, name) for table in recording.ruleset.tables for name in table.chains}
    for rule in recording.ruleset.rules():
        if rule.backend != NFT_COMPAT:
            continue
        parsed = parse(rule.text)
        for match in parsed.matches:
            assert match.module in WHOLE or match.module in JUDGES or match.module == "limit", rule.text
        known = {*FINAL, *TARGETS, *WITHOUT_EFFECT}
        assert parsed.target in known or (rule.table, parsed.target) in chains, rule.text


def test_owner_of_every_rule(recording: Recording) -> None:
    """Every rule has the owner that its chain, target or comment names; none is taken for the administrator's."""
    owners = Owners(recording.ruleset.tables)
    for rule in recording.ruleset.rules():
        if rule.backend == NATIVE:
            assert owners.owner(rule) == ("calico" if rule.table.startswith("calico") else "kube-proxy")
            continue
        text = f"{rule.chain} {rule.text}"
        signed = {"kubernetes forwarding": "kube-proxy"}
        wanted = next((owner for pattern, owner in OWNERS if re.search(pattern, text)), signed.get(rule.chain))
        assert owners.owner(rule) == wanted, text


def test_targets_exist(recording: Recording) -> None:
    """Every object that a rule is said to serve is among the recorded objects, and each Service port has its rules."""
    owners = Owners(recording.ruleset.tables)
    found = {owners.target(rule) for rule in recording.ruleset.rules()} - {""}
    known = {f"{item['kind']} {item['metadata']['namespace']}/{item['metadata']['name']}"
             for item in recording.items if "namespace" in item["metadata"]}  # fmt: skip
    known |= {f"Namespace {item['metadata']['namespace']}" for item in recording.kind("Pod")}
    known |= {
        f"ServiceAccount {pod['metadata']['namespace']}/{pod['spec']['serviceAccountName']}"
        for pod in recording.kind("Pod")
    }
    for target in found:
        # A Service port is written namespace/name:port.
        assert re.sub(r":[a-z0-9-]+$", "", target) in known, target
    for service, port in service_ports(recording):
        name = f"Service {service['metadata']['namespace']}/{service['metadata']['name']}"
        # kube-proxy's nftables rules name a Service without endpoints in an element of a map only.
        if "nftables" not in recording.name or endpoints(recording, service, port, 4):
            assert (f"{name}:{port['name']}" if port.get("name") else name) in found


def service_ports(recording: Recording) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Services with a cluster address, and each of their ports."""
    for service in recording.kind("Service"):
        if service["spec"].get("clusterIP") not in {None, "None", ""}:
            for port in service["spec"]["ports"]:
                yield service, port


def endpoints(recording: Recording, service: dict[str, Any], port: dict[str, Any], family: int) -> set[tuple[str, int]]:
    """What the objects say: ready endpoints of a Service's port, those of this node only if it is node-local."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    local = service["spec"].get("internalTrafficPolicy") == "Local"
    found = set()
    for piece in recording.kind("EndpointSlice"):
        labels = piece["metadata"]["labels"]
        if labels["kubernetes.io/service-name"] != name or piece["metadata"]["namespace"] != namespace:
            continue
        if piece["addressType"] != f"IPv{family}":
            continue
        number = next(
            (one["port"] for one in piece["ports"] or () if one.get("name", "") == port.get("name", "")), None
        )
        for endpoint in piece["endpoints"] or ():
            if number and (not local or endpoint.get("nodeName") == NODE):
                found |= {(address, number) for address in endpoint["addresses"]}
    return found


def pods_here(recording: Recording) -> list[tuple[str, str, int]]:
    """Pods on the recorded node: name, address, family."""
    return [
        (pod["metadata"]["name"], one["ip"], 6 if ":" in one["ip"] else 4)
        for pod in recording.kind("Pod")
        if pod["spec"].get("nodeName") == NODE and not pod["spec"].get("hostNetwork")
        for one in pod["status"]["podIPs"]
    ]


def device_of(recording: Recording, address: str) -> str:
    """The device by which the node reaches its own pod."""
    return recording.ask(RouteQuery(destination=address)).device


def service_walks(recording: Recording) -> Iterator[tuple[set[tuple[str, int]], list[Path], Packet]]:
    """A walk from each pod, and from the host, to each Service port; with the endpoints that the objects name."""
    walker = Walker(recording.host, recording.ruleset, through=True)
    sources = [(address, family, device_of(recording, address)) for _, address, family in pods_here(recording)]
    families = {family for _, family, _ in sources}
    for source, family, device in [*sources, *(("", family, "") for family in families)]:
        for service, port in service_ports(recording):
            for address in service["spec"]["clusterIPs"]:
                if (6 if ":" in address else 4) == family:
                    packet = Packet(
                        family=family, source=source, destination=address, protocol=port["protocol"].lower(),
                        source_port=40000, destination_port=port["port"], incoming=device,
                    )  # fmt: skip
                    yield endpoints(recording, service, port, family), walker.walk(packet), packet


def test_services_lead_to_their_endpoints(recording: Recording) -> None:
    """A packet to a Service is translated to exactly its endpoints; without any it stays what it is."""
    count = 0
    for wanted, paths, asked in service_walks(recording):
        left = [finish(asked, path.packet) for path in paths]
        reached = {(packet.destination, packet.destination_port) for packet in left}
        assert reached == (wanted or {(asked.destination, asked.destination_port)}), asked
        count += 1
    assert count >= 20


def test_service_without_endpoints_is_rejected(recording: Recording) -> None:
    """The Service that selects nothing is refused by the rule that names it."""
    walker = Walker(recording.host, recording.ruleset)
    for service, port in service_ports(recording):
        if endpoints(recording, service, port, 4) or service["spec"].get("internalTrafficPolicy") == "Local":
            continue
        asked = Packet(
            family=4, source="", destination=service["spec"]["clusterIP"], protocol="tcp", destination_port=port["port"]
        )
        walk = conclude(asked, walker.walk(asked), recording.refs)
        assert walk.verdict == "reject" and walk.decided_by
        name = f"Service {service['metadata']['namespace']}/{service['metadata']['name']}:{port['name']}"
        assert (walk.decided_by.owner, walk.decided_by.target) == ("kube-proxy", name)


def is_allowed(recording: Recording, source: str, destination: str, protocol: str, port: int) -> bool:
    """What the recorded policies say of web pods: written from allow-some and deny-web, not from the rules.

    allow-some: in, from DNS pods and from 10.77.0.0/24 but .13, TCP 8080 and 9000-9010 and UDP 53; out, to DNS pods,
    UDP and TCP 53. Pods of other kinds are not isolated. A node enforces what concerns its own pods.
    """
    here = {address for _, address, _ in pods_here(recording)}
    labels = {
        one["ip"]: pod["metadata"]["labels"] for pod in recording.kind("Pod") for one in pod["status"].get("podIPs", [])
    }
    is_dns = {address: found.get("k8s-app") == "kube-dns" for address, found in labels.items()}
    is_web = {address: found.get("app") == "web" for address, found in labels.items()}
    ports = (protocol == "tcp" and (port == 8080 or 9000 <= port <= 9010)) or (protocol == "udp" and port == 53)
    if source in here and is_web.get(source) and not (is_dns.get(destination) and port == 53):
        return False
    if destination in here and is_web.get(destination):
        from_block = source.startswith("10.77.0.") and source != "10.77.0.13"
        return (is_dns.get(source, False) or from_block) and ports
    return True


def test_policies_hold(recording: Recording) -> None:
    """Between the node's pods and everybody else, the walk says what the recorded NetworkPolicies say; never unsure."""
    if not recording.kind("NetworkPolicy"):
        assert recording.name.endswith("flannel-dual")
        return
    walker = Walker(recording.host, recording.ruleset)
    here = {address for _, address, _ in pods_here(recording)}
    everybody = [one["ip"] for pod in recording.kind("Pod") for one in pod["status"].get("podIPs", [])]
    outside = ["10.77.0.12", "10.77.0.13", "10.77.0.1"]
    count = 0
    for source in [*everybody, *outside]:
        for destination in everybody:
            if source == destination or not {source, destination} & here:
                continue
            for protocol, port in (("tcp", 8080), ("tcp", 9005), ("tcp", 9011), ("udp", 53), ("tcp", 53), ("tcp", 22)):
                asked = Packet(
                    family=4, source=source, destination=destination, protocol=protocol, source_port=40000,
                    destination_port=port, incoming=device_of(recording, source),
                )  # fmt: skip
                walk = conclude(asked, walker.walk(asked), recording.refs)
                wanted = is_allowed(recording, source, destination, protocol, port)
                assert (walk.verdict == "accept") == wanted, (asked, walk)
                assert walk.verdict != "unsure"
                count += 1
    assert count > 50


def test_hardly_anything_is_unsure(recording: Recording) -> None:
    """Under 1% of the walks hang on something that cannot be judged; chance between endpoints is not such a thing."""
    unsure = total = 0
    for _, paths, _asked in service_walks(recording):
        total += 1
        unsure += any(path.because - CHANCE for path in paths)
    assert unsure < total / 100
