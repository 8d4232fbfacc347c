"""What the embedded lab's proxy would write and what real kube-proxy wrote, for the very same objects.

Normalised is what kube-proxy leaves to hash maps or chance: see tests.lab.embedded.test_proxy_recorded. Nothing else
differs: names of chains (which are hashes of the objects' names), order of rules, comments and sets are compared.
"""

from __future__ import annotations

import pytest

from lab import netns
from lab.embedded.proxy.__main__ import node_view
from lab.embedded.proxy.iptables import kubelet_rule_set, make_rule_set
from lab.embedded.proxy.nftables import make_table
from lab.embedded.proxy.services import Family, ServicePort, read_service_ports
from lab.spec import NodeSpec
from tests.lab.embedded.test_proxy_recorded import comparable, kube_chains, nft_comparable, parse_nft
from tests.lab.labs import Lab, eventually

SAVE = {4: "iptables-save", 6: "ip6tables-save"}
TABLES = {4: "ip kube-proxy", 6: "ip6 kube-proxy"}


def ports_of(lab: Lab, family: Family) -> tuple[ServicePort, ...]:
    """What the proxy reads from the API."""
    return read_service_ports(lab.objects("services"), lab.objects("endpointslices"), family)


def iptables_differences(lab: Lab, node: NodeSpec, family: Family) -> list[object]:
    """Chains of kube-proxy and kubelet that are not the same; a node of nftables has the kubelet's alone."""
    real = kube_chains(netns.run_sync(node.netns, [SAVE[family]]).stdout)
    if lab.spec.proxy == "nftables":
        ours = comparable(kubelet_rule_set(family))
    else:
        ours = comparable(make_rule_set(ports_of(lab, family), node_view(lab.plan, node, family), nfacct=True))
    return [(key, ours.get(key), real.get(key)) for key in ours.keys() | real.keys() if ours.get(key) != real.get(key)]


def nft_differences(lab: Lab, node: NodeSpec, family: Family) -> list[object]:
    """Chains, sets and maps of kube-proxy's own table that are not the same; without nftables there is none."""
    text = netns.run_sync(node.netns, ["nft", "list", "ruleset"]).stdout
    if lab.spec.proxy == "iptables":
        return [TABLES[family]] if f"table {TABLES[family]} " in text else []
    ours = nft_comparable(make_table(ports_of(lab, family), node_view(lab.plan, node, family)))
    real = parse_nft(text, TABLES[family])
    found: list[object] = []
    for mine, theirs in zip(ours, real, strict=True):
        keys = mine.keys() | theirs.keys()
        found += [(key, mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)]
    return found


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_embedded_proxy_and_real_kube_proxy_write_the_same(lab: Lab, family: Family) -> None:
    """On every node, from the same objects, come the same chains and rules, sets and maps."""
    for node in lab.plan.nodes:
        for differences in (iptables_differences, nft_differences):

            def same(node: NodeSpec = node, differences: object = differences) -> bool:
                assert callable(differences)
                return not differences(lab, node, family)

            eventually(same, f"{node.name}: {differences(lab, node, family)}")


def test_the_comparison_sees_a_rule_that_was_changed(lab: Lab) -> None:
    """A rule broken by hand on a node is a difference: the comparison can fail."""
    node = lab.plan.nodes[-1]
    if lab.spec.proxy == "iptables":
        netns.run_sync(node.netns, ["iptables", "-t", "nat", "-A", "KUBE-MARK-MASQ", "-j", "RETURN"])
        assert iptables_differences(lab, node, 4) != []
        netns.run_sync(node.netns, ["iptables", "-t", "nat", "-D", "KUBE-MARK-MASQ", "-j", "RETURN"])
        assert iptables_differences(lab, node, 4) == []
    else:
        rule = ["nft", "add", "rule", "ip", "kube-proxy", "mark-for-masquerade", "counter", "return"]
        netns.run_sync(node.netns, rule)
        assert nft_differences(lab, node, 4) != []
