"""Calico in VXLAN mode: routed /32 veths with proxy ARP, a block of addresses a node, VXLAN between nodes.

Devices, routes and base chains as Felix 3.31 makes them, rule comments included. The chains of a workload and the
dispatch to them (cali-from-wl-dispatch, cali-to-wl-dispatch, cali-fw-…, cali-tw-…) are written by `lab.policy`; they
are made here empty, because the base chains lead to them.
"""

from __future__ import annotations

import hashlib
import json
from ipaddress import ip_network
from pathlib import Path

from lab.embedded.cni.shape import NodeNetwork, PodLink, PodPlace, mac_of
from lab.spec import NodeSpec, Topology

VXLAN_ID = 4096
VXLAN_PORT = 4789
VXLAN_MTU = 1450
VXLAN_V6_MTU = 1430
HOST_SIDE_MAC = "ee:ee:ee:ee:ee:ee"
# The link-local address that the kernel makes of that MAC: every pod's IPv6 gateway.
HOST_SIDE_LINK_LOCAL = "fe80::ecee:eeff:feee:eeee"
GATEWAY4 = "169.254.1.1"
# RTPROT of Felix's own routes.
ROUTE_PROTOCOL = 80


def node(topology: Topology, node: NodeSpec) -> NodeNetwork:
    """Return a node's tunnel devices, block routes, sets and base chains."""
    ip, fdb = [], []
    for device, block, local, suffix in _tunnels(node):
        mtu = VXLAN_MTU if suffix == "32" else VXLAN_V6_MTU
        ip += [
            (
                f"link add {device} address {mac_of(topology.name, node.name, device)} mtu {mtu} type vxlan "
                f"id {VXLAN_ID} dev eth0 local {local} dstport {VXLAN_PORT} nolearning"
            ),
            f"address add {_first(block)}/{suffix} dev {device}" + ("" if suffix == "32" else " nodad"),
            f"link set {device} up",
            f"route add blackhole {block} proto {ROUTE_PROTOCOL}",
        ]
    for peer in topology.nodes:
        if peer.name == node.name:
            continue
        for device, block, address, suffix in _tunnels(peer):
            mac = mac_of(topology.name, peer.name, device)
            mtu = VXLAN_MTU if suffix == "32" else VXLAN_V6_MTU
            ip += [
                f"route add {block} via {_first(block)} dev {device} onlink mtu {mtu}",
                f"neighbour add {_first(block)} lladdr {mac} dev {device} nud permanent",
            ]
            fdb.append(f"fdb append {mac} dev {device} dst {address} self permanent")
    return NodeNetwork(
        sysctls={},
        ip=ip,
        bridge=fdb,
        uplink_routes=[],
        iptables=_base_rules("rules4"),
        ip6tables=_base_rules("rules6") if topology.spec.dual else "",
        ipset=_sets(topology, node),
        annotations=_annotations(topology, node),
        labels={},
        plugins=["calico", "calico-ipam", "bandwidth", "loopback", "portmap"],
        conf_name="10-calico.conflist",
        conf=json.dumps(_CONF | {"plugins": _plugins(node)}, indent=2) + "\n",
        up_reason="CalicoIsUp",
    )


def device_of(namespace: str, pod: str) -> str:
    """Return the name of a workload's device on its node: "cali" and 11 hex digits of sha1(NAMESPACE.POD)."""
    return "cali" + hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()[:11]


def pod(place: PodPlace) -> PodLink:
    """Return a routed veth pair; the node answers ARP for 169.254.1.1 on it."""
    device = device_of(place.namespace, place.pod)
    pod_ip = [
        "link set lo up",
        f"address add {place.ipv4}/32 dev eth0",
        "link set eth0 up",
        f"route add {GATEWAY4} dev eth0 scope link",
        f"route add default via {GATEWAY4} dev eth0",
    ]
    after = [f"route add {place.ipv4}/32 dev {device} scope link"]
    # proxy_delay 0: else the kernel waits up to 0.8 s before it answers for another
    sysctls = {
        f"ipv4/conf/{device}/proxy_arp": "1",
        f"ipv4/conf/{device}/forwarding": "1",
        f"ipv4/conf/{device}/rp_filter": "1",
        f"ipv4/conf/{device}/route_localnet": "1",
        f"ipv4/neigh/{device}/proxy_delay": "0",
    }
    if place.ipv6:
        pod_ip += [
            f"address add {place.ipv6}/128 dev eth0 nodad",
            f"route add default via {HOST_SIDE_LINK_LOCAL} dev eth0",
        ]
        after.append(f"route add {place.ipv6}/128 dev {device}")
        sysctls |= {f"ipv6/conf/{device}/forwarding": "1", f"ipv6/conf/{device}/proxy_ndp": "1"}
    return PodLink(
        device=device,
        node_ip=[
            (
                f"link add {device} address {HOST_SIDE_MAC} mtu {VXLAN_MTU} type veth "
                f"peer name eth0 mtu {VXLAN_MTU} netns {place.netns}"
            ),
            f"link set {device} up",
        ],
        node_sysctls=sysctls,
        pod_ip=pod_ip,
        node_ip_after=after,
    )


def _tunnels(node: NodeSpec) -> list[tuple[str, str, str, str]]:
    """(device, block, node address, length of a host prefix) for each family."""
    tunnels = [("vxlan.calico", node.pod_cidr4, node.ipv4, "32")]
    if node.pod_cidr6 and node.ipv6:
        tunnels.append(("vxlan-v6.calico", node.pod_cidr6, node.ipv6, "128"))
    return tunnels


def _first(cidr: str) -> str:
    return str(ip_network(cidr).network_address)


def _base_rules(name: str) -> str:
    return (Path(__file__).parent / f"calico.{name}").read_text()


def _sets(topology: Topology, node: NodeSpec) -> str:
    lines = []
    peers = [peer for peer in topology.nodes if peer.name != node.name]
    families = [("4", "inet", topology.cluster_cidr4, node.ipv4, node.pod_cidr4, [p.ipv4 for p in peers])]
    if topology.cluster_cidr6 and node.ipv6 and node.pod_cidr6:
        addresses6 = [peer.ipv6 for peer in peers if peer.ipv6]
        families.append(("6", "inet6", topology.cluster_cidr6, node.ipv6, node.pod_cidr6, addresses6))
    for digit, family, pool, address, block, others in families:
        loopback = ["127.0.0.1", "127.0.0.0"] if digit == "4" else ["::1"]
        members = {
            f"cali{digit}0all-vxlan-net": ("hash:net", others),
            f"cali{digit}0this-host": ("hash:ip", [*loopback, _first(block), address]),
            f"cali{digit}0network-ip-pools": ("hash:net", [pool]),
            f"cali{digit}0masq-ipam-pools": ("hash:net", [pool]),
            f"cali{digit}0dscp-src-net": ("hash:net", []),
        }
        for name, (kind, entries) in members.items():
            lines.append(f"create {name} {kind} family {family} hashsize 1024 maxelem 1048576")
            lines += [f"add {name} {entry}" for entry in entries]
    return "\n".join(lines) + "\n"


_CONF = {"name": "k8s-pod-network", "cniVersion": "0.3.1"}


def _plugins(node: NodeSpec) -> list[dict[str, object]]:
    return [
        {
            "type": "calico",
            "log_level": "info",
            "datastore_type": "kubernetes",
            "nodename": node.name,
            "mtu": VXLAN_MTU,
            "ipam": {"type": "calico-ipam"},
            "policy": {"type": "k8s"},
        },
        {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ]


def _annotations(topology: Topology, node: NodeSpec) -> dict[str, str]:
    prefix = "projectcalico.org/"
    annotations = {
        f"{prefix}IPv4Address": f"{node.ipv4}/24",
        f"{prefix}IPv4VXLANTunnelAddr": _first(node.pod_cidr4),
        f"{prefix}VXLANTunnelMACAddr": mac_of(topology.name, node.name, "vxlan.calico"),
    }
    if node.ipv6 and node.pod_cidr6:
        annotations |= {
            f"{prefix}IPv6Address": f"{node.ipv6}/64",
            f"{prefix}IPv6VXLANTunnelAddr": _first(node.pod_cidr6),
            f"{prefix}VXLANTunnelMACAddrV6": mac_of(topology.name, node.name, "vxlan-v6.calico"),
        }
    return annotations
