"""The proxy's rules against what real kube-proxy 1.34 wrote for the same objects (shared/recorded).

What is normalised: counters; the order of Services within the chains KUBE-SERVICES and KUBE-NODEPORTS, the order
of jumps in a built-in chain of IPv6 and the order of chains and sets, all of which kube-proxy leaves to hash maps
or to the moment at which it started; in nftables "3h" for 10800 s.
"""

import re

import pytest

from lab.embedded.proxy.decision import NodeView
from lab.embedded.proxy.iptables import kubelet_rule_set, make_rule_set
from lab.embedded.proxy.nftables import Table, make_table
from lab.embedded.proxy.services import Family, ServicePort, read_service_ports
from lab.restore import ChainKey, RuleSet, parse_saved
from tests.lab.recorded import recorded_objects, recorded_text

FLANNEL = "kube-proxy-iptables+flannel+kube-router"
CALICO = "kube-proxy-iptables+calico-vxlan"
NFT_CALICO = "kube-proxy-nftables+calico-nftables"
NFT_DUAL = "kube-proxy-nftables+flannel-dual"
POLICY_CHAIN = re.compile(r"KUBE-(ROUTER|NWPLCY|POD-FW)-")
SHARED_CHAINS = {("nat", "KUBE-SERVICES"), ("nat", "KUBE-NODEPORTS")}


def ports_of(name: str, family: Family) -> tuple[ServicePort, ...]:
    """The service ports of a recording."""
    return read_service_ports(recorded_objects(name, "Service"), recorded_objects(name, "EndpointSlice"), family)


def node_view(family: Family, dual: bool) -> NodeView:
    """Node n1, on which everything was recorded."""
    if family == 4:
        return NodeView("n1", 4, "10.77.0.11", "10.244.0.0/16", "10.96.0.0/16")
    return NodeView("n1", 6, *(("fd77::11", "fd44::/56", "fd96::/112") if dual else (None, None, None)))


def kube_chains(text: str) -> dict[ChainKey, tuple[str, ...]]:
    """The chains of kube-proxy and kubelet in the output of iptables-save."""
    return {
        key: tuple(sorted(rules)) if key in SHARED_CHAINS else rules
        for key, rules in parse_saved(text).chains.items()
        if key[1].startswith("KUBE-") and not POLICY_CHAIN.match(key[1])
    }


def comparable(rules: RuleSet) -> dict[ChainKey, tuple[str, ...]]:
    """Our chains, normalised like `kube_chains`."""
    return {key: tuple(sorted(value)) if key in SHARED_CHAINS else value for key, value in rules.chains.items()}


def test_the_last_rule_of_kube_services_leads_to_node_ports() -> None:
    """The rule that says it must be last is last, before any normalising."""
    rules = make_rule_set(ports_of(FLANNEL, 4), node_view(4, False), nfacct=True)
    assert rules.chains["nat", "KUBE-SERVICES"][-1].endswith("--dst-type LOCAL -j KUBE-NODEPORTS")


@pytest.mark.parametrize("name", [FLANNEL, CALICO])
@pytest.mark.parametrize(("family", "suffix"), [(4, "iptables"), (6, "ip6tables")])
def test_iptables_rules_are_those_of_real_kube_proxy(name: str, family: Family, suffix: str) -> None:
    """From the same objects come the same chains, rule by rule, with names and comments, and the same jumps."""
    text = recorded_text(name, suffix)
    rules = make_rule_set(ports_of(name, family), node_view(family, False), nfacct=True)
    assert comparable(rules) == kube_chains(text)
    saved = parse_saved(text)
    for table, chain in {(jump.table, jump.chain) for jump in rules.jumps}:
        ours = [jump.rule for jump in rules.jumps if (jump.table, jump.chain) == (table, chain)]
        real = [rule for rule in saved.chains[table, chain] if "KUBE-" in rule and "KUBE-ROUTER" not in rule]
        assert (ours == real) if family == 4 else (sorted(ours) == sorted(real))


@pytest.mark.parametrize("name", [NFT_CALICO, NFT_DUAL])
@pytest.mark.parametrize(("family", "suffix"), [(4, "iptables"), (6, "ip6tables")])
def test_kubelet_rules_stand_beside_nftables_mode(name: str, family: Family, suffix: str) -> None:
    """Where the proxy uses nftables, iptables holds what real kubelet leaves there, and nothing else of Kubernetes."""
    text = recorded_text(name, suffix)
    wanted = kubelet_rule_set(family)
    assert comparable(wanted) == kube_chains(text)


def parse_nft(text: str, path: str) -> tuple[dict[str, tuple[str, ...]], dict[str, frozenset[str]]]:
    """(chains with declaration and rules, sets with declaration and elements) of one table of `nft list ruleset`."""
    match = re.search(rf"^table {path} \{{$(.*?)^\}}$", text, re.M | re.S)
    assert match is not None, f"the recording has no table {path}"
    chains: dict[str, tuple[str, ...]] = {}
    sets: dict[str, frozenset[str]] = {}
    for kind, name, body in re.findall(r"^\t(chain|set|map) (\S+) \{\n(.*?)^\t\}$", match[1], re.M | re.S):
        if kind == "chain":
            chains[name] = tuple(line.strip() for line in body.splitlines())
        else:
            declared, _, elements = body.partition("elements = {")
            found = [" ".join(entry.split()) for entry in elements.rstrip("} \n\t").split(",") if entry.strip()]
            sets[name] = frozenset([*(line.strip() for line in declared.splitlines() if line.strip()), *found])
    return chains, sets


def nft_comparable(table: Table) -> tuple[dict[str, tuple[str, ...]], dict[str, frozenset[str]]]:
    """Our table in the same form."""
    chains = {
        name: ((chain.body.rstrip(";") if chain.body.startswith("comment") else chain.body, *chain.rules))
        if chain.body
        else chain.rules
        for name, chain in table.chains.items()
    }
    sets = {
        name: frozenset(
            [
                *(line.replace("timeout 10800s", "timeout 3h") for line in value.body),
                *(f"{key} : {verdict}" if verdict else key for key, verdict in value.elements.items()),
            ]
        )
        for name, value in table.sets.items()
    }
    return chains, sets


@pytest.mark.parametrize("name", [NFT_CALICO, NFT_DUAL])
@pytest.mark.parametrize(("family", "path"), [(4, "ip kube-proxy"), (6, "ip6 kube-proxy")])
def test_nftables_table_is_that_of_real_kube_proxy(name: str, family: Family, path: str) -> None:
    """From the same objects come the same sets, maps, elements, chains and rules."""
    table = make_table(ports_of(name, family), node_view(family, name == NFT_DUAL))
    ours, real = nft_comparable(table), parse_nft(recorded_text(name, "nft"), path)
    assert ours[1] == real[1]
    assert ours[0] == real[0]
