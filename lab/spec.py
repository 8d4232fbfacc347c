"""What a lab is made of: names, addresses and ranges, computed from six choices.

Pure data: this module starts nothing and reads nothing but the file it wrote itself. Every service of a lab reads the
same `lab.json`, so that all agree on every name and address (the tables are in ARCHITECTURE.md).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

import msgspec

LABS_DIR: Final = Path("/run/kubereach/labs")
CNIS: Final = ("flannel-vxlan", "flannel-host-gw", "calico")
REAL_CNIS: Final = ("flannel-vxlan", "flannel-host-gw")
PROXIES: Final = ("iptables", "nftables")
FAMILIES: Final = ("4", "dual")
CONTROL_PLANES: Final = ("embedded", "kubernetes")
# Node addresses are .(10+i) of a /24, and flannel's pod range holds 256 nodes: 200 keeps clear of both ends.
MAX_NODES: Final = 200
MAX_ZONES: Final = 9
API_PORT: Final = 6443
CLUSTER_DOMAIN: Final = "cluster.local"
# In the environment of every process of a lab, with the lab's name. Not KUBEREACH_LAB: users set that in their shells.
MEMBER_VARIABLE: Final = "KUBEREACH_LAB_MEMBER"

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


class SpecError(ValueError):
    """A choice that no lab can be made of; the message names the input and the way out."""


class LabSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user's choices for one lab."""

    name: str
    nodes: int = 4
    cni: str = "flannel-vxlan"
    proxy: str = "iptables"
    family: str = "dual"
    control_plane: str = "embedded"
    zones: int = 2

    def validate(self) -> LabSpec:
        """Return the same value, or raise SpecError for the first choice that is not possible."""
        if not _NAME.fullmatch(self.name):
            raise SpecError(f"lab name {self.name!r}: use 1 to 20 of a-z, 0-9 and '-', not starting or ending with '-'")
        if not 1 <= self.nodes <= MAX_NODES:
            raise SpecError(f"--nodes {self.nodes}: a lab has 1 to {MAX_NODES} nodes")
        if not 1 <= self.zones <= MAX_ZONES:
            raise SpecError(f"--zones {self.zones}: a lab has 1 to {MAX_ZONES} zones")
        for option, value, choices in (
            ("--cni", self.cni, CNIS),
            ("--proxy", self.proxy, PROXIES),
            ("--family", self.family, FAMILIES),
            ("control plane", self.control_plane, CONTROL_PLANES),
        ):
            if value not in choices:
                raise SpecError(f"{option} {value}: choose one of {', '.join(choices)}")
        if self.real and self.cni not in REAL_CNIS:
            raise SpecError(f"--cni {self.cni}: with --kubernetes choose one of {', '.join(REAL_CNIS)}")
        return self

    @property
    def real(self) -> bool:
        """True where a real Kubernetes runs in the lab."""
        return self.control_plane == "kubernetes"

    @property
    def dual(self) -> bool:
        """True where the lab has IPv6 beside IPv4."""
        return self.family == "dual"


class NodeSpec(msgspec.Struct, frozen=True):
    """One node: its namespace, its place in the underlay, and the ranges its pods take addresses from."""

    name: str
    index: int
    """1 for node-a, 2 for node-b, …"""
    zone: str
    """Value of the label topology.kubernetes.io/zone."""
    segment: int
    """Number of the underlay segment (router bridge zone-SEGMENT): the zone's, or 1 where zones share one."""
    netns: str
    ipv4: str
    ipv6: str | None
    pod_cidr4: str
    pod_cidr6: str | None

    @property
    def addresses(self) -> list[str]:
        """Node addresses, IPv4 first."""
        return [self.ipv4] + ([self.ipv6] if self.ipv6 else [])

    @property
    def pod_cidrs(self) -> list[str]:
        """Ranges of the node's pods, IPv4 first."""
        return [self.pod_cidr4] + ([self.pod_cidr6] if self.pod_cidr6 else [])


class Topology(msgspec.Struct, frozen=True):
    """Everything that follows from a LabSpec. Prefixes are written as Linux tools take them."""

    spec: LabSpec
    nodes: list[NodeSpec]
    segments: list[int]
    """Numbers of the underlay segments; segment s is bridge zone-s, 10.77.s.0/24, fd77:s::/64."""
    control_netns: str
    router_netns: str
    outside_netns: str
    control_ipv4: str = "10.77.1.10"
    control_ipv6: str | None = "fd77:1::10"
    cluster_cidr4: str = "10.244.0.0/16"
    cluster_cidr6: str | None = "fd44::/56"
    service_cidr4: str = "10.96.0.0/16"
    service_cidr6: str | None = "fd96::/112"
    api_service4: str = "10.96.0.1"
    dns_service4: str = "10.96.0.10"
    dns_service6: str | None = "fd96::a"
    load_balancer_cidr: str = "198.51.100.0/24"
    outside_ipv4: str = "203.0.113.10"
    outside_router4: str = "203.0.113.1"
    outside_cidr4: str = "203.0.113.0/24"
    outside_ipv6: str | None = "2001:db8:f::10"
    outside_router6: str | None = "2001:db8:f::1"
    outside_cidr6: str | None = "2001:db8:f::/64"

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.spec.name

    @property
    def directory(self) -> Path:
        """Where every file of this lab lies."""
        return lab_directory(self.spec.name)

    def node(self, name: str) -> NodeSpec:
        """Return the node called `name`; raises SpecError naming the nodes there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise SpecError(f"no node {name!r} in lab {self.name}: there are {known}")

    def node_directory(self, node: str) -> Path:
        """Where a node's own files lie (cni/net.d, cni/bin, netns, agent)."""
        return self.directory / "nodes" / node

    def pod_netns(self, namespace: str, pod: str) -> str:
        """Name of the network namespace of a pod that is not on the host network."""
        return f"{self.name}-{namespace}-{pod}"


def lab_directory(name: str) -> Path:
    """Where every file of lab `name` lies."""
    return LABS_DIR / name


def node_name(index: int) -> str:
    """node-a for 1, …, node-z for 26, node-aa for 27: as spreadsheets count."""
    letters = ""
    while index > 0:
        index, digit = divmod(index - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return f"node-{letters}"


def segment_addresses(segment: int, host: int) -> tuple[str, str]:
    """Return (IPv4, IPv6) of host number `host` in an underlay segment; IPv6 repeats the decimal digits."""
    return f"10.77.{segment}.{host}", f"fd77:{segment}::{host}"


def _pod_cidrs(cni: str, index: int) -> tuple[str, str]:
    if cni == "calico":
        block = IPv4Network((int(IPv4Network("10.244.0.0/16").network_address) + 64 * index, 26))
        return str(block), str(IPv6Network(f"fd44:0:0:{index:x}::/122"))
    return f"10.244.{index}.0/24", str(IPv6Network(f"fd44:0:0:{index:x}::/64"))


def _node(spec: LabSpec, index: int) -> NodeSpec:
    zone = (index - 1) % spec.zones + 1
    # flannel's host-gw writes routes via node addresses, which works within one segment only
    segment = 1 if spec.cni == "flannel-host-gw" else zone
    name = node_name(index)
    ipv4, ipv6 = segment_addresses(segment, 10 + index)
    pods4, pods6 = _pod_cidrs(spec.cni, index)
    return NodeSpec(
        name=name,
        index=index,
        zone=f"zone-{zone}",
        segment=segment,
        netns=f"{spec.name}-{name}",
        ipv4=ipv4,
        ipv6=ipv6 if spec.dual else None,
        pod_cidr4=pods4,
        pod_cidr6=pods6 if spec.dual else None,
    )


def compute_topology(spec: LabSpec) -> Topology:
    """Return all names and addresses of a lab; raises SpecError where `spec` is not possible."""
    spec.validate()
    nodes = [_node(spec, index) for index in range(1, spec.nodes + 1)]
    names: dict[str, str] = {f"{part}_netns": f"{spec.name}-{part}" for part in ("control", "router", "outside")}
    only4: dict[str, Any] = {}
    if not spec.dual:
        fields = (
            "control_ipv6",
            "cluster_cidr6",
            "service_cidr6",
            "dns_service6",
            "outside_ipv6",
            "outside_router6",
            "outside_cidr6",
        )
        only4 = dict.fromkeys(fields)
    segments = sorted({1, *(node.segment for node in nodes)})
    return Topology(spec=spec, nodes=nodes, segments=segments, **names, **only4)


def save_topology(topology: Topology) -> Path:
    """Write lab.json, whole or not at all, and return its path."""
    path = topology.directory / "lab.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.new")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(topology), indent=1))
    partial.replace(path)
    return path


def load_topology(name: str) -> Topology:
    """Read what `save_topology` wrote; raises SpecError where there is no such lab."""
    try:
        return msgspec.json.decode((lab_directory(name) / "lab.json").read_bytes(), type=Topology)
    except FileNotFoundError:
        raise SpecError(f"no lab called {name!r} (see: kubereach lab list)") from None
    except msgspec.DecodeError as error:
        raise SpecError(
            f"{lab_directory(name) / 'lab.json'}: {error} (take it away: kubereach lab down --name {name})"
        ) from None


def lab_names() -> list[str]:
    """Return the names of all labs that have a directory on this machine, sorted."""
    if not LABS_DIR.is_dir():
        return []
    return sorted(entry.name for entry in LABS_DIR.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))
