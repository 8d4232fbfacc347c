"""Names and addresses of a lab are those of ARCHITECTURE.md, in every mode and size."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import combinations

import msgspec
import pytest

from lab.spec import CNIS, LabSpec, SpecError, Topology, compute_topology, node_name


def test_the_tables_of_the_architecture_hold() -> None:
    """node-b of a flannel lab has the addresses and ranges that the tables give it."""
    node = compute_topology(LabSpec("demo")).nodes[1]
    assert (node.name, node.zone, node.netns) == ("node-b", "zone-2", "demo-node-b")
    assert node.addresses == ["10.77.2.12", "fd77:2::12"]
    assert node.pod_cidrs == ["10.244.2.0/24", "fd44:0:0:2::/64"]


def test_calico_gives_each_node_a_block() -> None:
    """Node i has block 10.244.(i div 4).(64 times i mod 4)/26 and fd44:0:0:i::/122."""
    nodes = compute_topology(LabSpec("demo", cni="calico", nodes=6)).nodes
    assert nodes[0].pod_cidrs == ["10.244.0.64/26", "fd44:0:0:1::/122"]
    assert nodes[4].pod_cidrs == ["10.244.1.64/26", "fd44:0:0:5::/122"]


def test_host_gw_puts_all_zones_in_one_segment() -> None:
    """Nodes keep their zones, and share the first segment."""
    plan = compute_topology(LabSpec("demo", cni="flannel-host-gw"))
    assert plan.segments == [1]
    assert [node.zone for node in plan.nodes] == ["zone-1", "zone-2", "zone-1", "zone-2"]
    assert plan.nodes[1].ipv4 == "10.77.1.12"


@pytest.mark.parametrize("cni", CNIS)
def test_no_two_nodes_share_an_address_or_a_range(cni: str) -> None:
    """In the largest lab all addresses differ and no ranges overlap, and all lie in the cluster's ranges."""
    plan = compute_topology(LabSpec("demo", cni=cni, nodes=200, zones=3))
    addresses = [address for node in plan.nodes for address in node.addresses]
    assert len(set(addresses)) == len(addresses)
    assert all(ip_address(address) for address in addresses)
    for index, cluster in ((0, plan.cluster_cidr4), (1, plan.cluster_cidr6)):
        ranges = [ip_network(node.pod_cidrs[index]) for node in plan.nodes]
        assert not any(one.overlaps(other) for one, other in combinations(ranges, 2))
        assert all(one.subnet_of(ip_network(cluster or "")) for one in ranges)  # type: ignore[arg-type]


def test_a_lab_of_one_family_has_no_ipv6_anywhere() -> None:
    """With family 4, no address or range of IPv6 is in the plan."""
    text = msgspec.json.encode(compute_topology(LabSpec("demo", family="4"))).decode()
    assert "fd" not in text
    assert "2001:" not in text


def test_a_plan_is_the_same_after_writing_and_reading() -> None:
    """Every service reads what was written."""
    plan = compute_topology(LabSpec("demo", cni="calico"))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Topology) == plan


@pytest.mark.parametrize(("index", "name"), [(1, "node-a"), (26, "node-z"), (27, "node-aa"), (53, "node-ba")])
def test_node_names_count_as_columns_of_a_sheet(index: int, name: str) -> None:
    """After node-z comes node-aa."""
    assert node_name(index) == name


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (LabSpec("Demo"), "lab name 'Demo'"),
        (LabSpec("-demo"), "lab name '-demo'"),
        (LabSpec("d" * 21), "1 to 20"),
        (LabSpec("../etc"), "lab name '../etc'"),
        (LabSpec("demo", nodes=0), "--nodes 0"),
        (LabSpec("demo", nodes=201), "--nodes 201"),
        (LabSpec("demo", cni="cilium"), "--cni cilium"),
        (LabSpec("demo", proxy="ipvs"), "--proxy ipvs"),
        (LabSpec("demo", family="6"), "--family 6"),
        (LabSpec("demo", zones=0), "--zones 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_is_refused_by_name(spec: LabSpec, says: str) -> None:
    """The message names the choice that is wrong."""
    with pytest.raises(SpecError, match=says.replace("(", r"\(")):
        compute_topology(spec)
