"""flannel: a bridge cni0 on each node, and VXLAN or plain routes between nodes.

Device names, routes, permanent neighbour and FDB entries, chains and annotations as flannel 0.28 makes them
(https://github.com/flannel-io/flannel, pkg/backend/vxlan, pkg/trafficmngr/iptables).
"""

from __future__ import annotations

import hashlib
import json
from ipaddress import ip_network

from lab.embedded.cni.shape import NodeNetwork, PodLink, PodPlace, mac_of
from lab.spec import NodeSpec, Topology

VXLAN_ID = 1
VXLAN_PORT = 8472
VXLAN_MTU = 1450
VXLAN_V6_MTU = 1430
PLAIN_MTU = 1500


def node_vxlan(topology: Topology, node: NodeSpec) -> NodeNetwork:
    """Return a node of backend `vxlan`: flannel.1 (flannel-v6.1), onlink routes, neighbours and FDB for each peer."""
    ip, fdb = [], []
    for device, pods, local, suffix in _tunnels(node):
        mtu = VXLAN_MTU if suffix == "32" else VXLAN_V6_MTU
        ip += [
            (
                f"link add {device} address {mac_of(topology.name, node.name, device)} mtu {mtu} type vxlan "
                f"id {VXLAN_ID} dev eth0 local {local} dstport {VXLAN_PORT} nolearning"
            ),
            f"address add {_first(pods)}/{suffix} dev {device}" + ("" if suffix == "32" else " nodad"),
            f"link set {device} up",
        ]
    for peer in topology.nodes:
        if peer.name == node.name:
            continue
        for device, pods, address, _ in _tunnels(peer):
            mac = mac_of(topology.name, peer.name, device)
            ip += [
                f"route add {pods} via {_first(pods)} dev {device} onlink",
                f"neighbour add {_first(pods)} lladdr {mac} dev {device} nud permanent",
            ]
            fdb.append(f"fdb append {mac} dev {device} dst {address} self permanent")
    return _node(topology, node, "vxlan", VXLAN_MTU, ip, fdb, [])


def node_host_gw(topology: Topology, node: NodeSpec) -> NodeNetwork:
    """Return a node of backend `host-gw`: a route via each peer's own address; all nodes share one segment."""
    routes = []
    for peer in topology.nodes:
        if peer.name != node.name:
            for pods, address in zip(peer.pod_cidrs, peer.addresses, strict=True):
                routes.append(f"route replace {pods} via {address} dev eth0")
    return _node(topology, node, "host-gw", PLAIN_MTU, [], [], routes)


def pod_vxlan(place: PodPlace) -> PodLink:
    """Return a veth pair into cni0 at the tunnel's MTU."""
    return _pod(place, VXLAN_MTU)


def pod_host_gw(place: PodPlace) -> PodLink:
    """Return a veth pair into cni0 at the underlay's MTU."""
    return _pod(place, PLAIN_MTU)


def _tunnels(node: NodeSpec) -> list[tuple[str, str, str, str]]:
    """(device, pod range, node address, length of a host prefix) for each family."""
    tunnels = [("flannel.1", node.pod_cidr4, node.ipv4, "32")]
    if node.pod_cidr6 and node.ipv6:
        tunnels.append(("flannel-v6.1", node.pod_cidr6, node.ipv6, "128"))
    return tunnels


def _first(cidr: str) -> str:
    return str(ip_network(cidr).network_address)


def _node(
    topology: Topology,
    node: NodeSpec,
    backend: str,
    mtu: int,
    ip: list[str],
    fdb: list[str],
    uplink_routes: list[str],
) -> NodeNetwork:
    # a fixed MAC: a bridge takes the lowest of its ports' otherwise, and pods' ARP entries would go stale
    mac = mac_of(topology.name, node.name, "cni0")
    bridge = [f"link add cni0 address {mac} mtu {mtu} type bridge forward_delay 1500 stp_state 0"]
    for cidr in node.pod_cidrs:
        nodad = " nodad" if ":" in cidr else ""
        bridge.append(f"address add {ip_network(cidr)[1]}/{ip_network(cidr).prefixlen} dev cni0{nodad}")
    bridge.append("link set cni0 up")
    rules6 = ""
    if node.pod_cidr6 and topology.cluster_cidr6:
        rules6 = _rules(topology.cluster_cidr6, node.pod_cidr6, "ff00::/8")
    return NodeNetwork(
        sysctls={},
        ip=bridge + ip,
        bridge=fdb,
        uplink_routes=uplink_routes,
        iptables=_rules(topology.cluster_cidr4, node.pod_cidr4, "224.0.0.0/4"),
        ip6tables=rules6,
        ipset="",
        annotations=_annotations(topology, node, backend),
        labels={},
        plugins=["flannel", "bridge", "host-local", "loopback", "portmap"],
        conf_name="10-flannel.conflist",
        conf=json.dumps(_CONF, indent=2) + "\n",
        up_reason="FlannelIsUp",
    )


_CONF = {
    "name": "cbr0",
    "cniVersion": "0.3.1",
    "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def _annotations(topology: Topology, node: NodeSpec, backend: str) -> dict[str, str]:
    prefix = "flannel.alpha.coreos.com/"

    def data(device: str) -> str:
        if backend != "vxlan":
            return "null"
        mac = mac_of(topology.name, node.name, device)
        return json.dumps({"VNI": VXLAN_ID, "VtepMAC": mac}, separators=(",", ":"))

    annotations = {
        f"{prefix}backend-type": backend,
        f"{prefix}backend-data": data("flannel.1"),
        f"{prefix}kube-subnet-manager": "true",
        f"{prefix}public-ip": node.ipv4,
    }
    if node.ipv6:
        annotations |= {
            f"{prefix}backend-v6-data": data("flannel-v6.1"),
            f"{prefix}public-ipv6": node.ipv6,
        }
    return annotations


def _rules(cluster: str, pods: str, multicast: str) -> str:
    fwd = '-m comment --comment "flanneld forward"'
    masq = '-m comment --comment "flanneld masq"'
    return f"""*filter
:FLANNEL-FWD - [0:0]
-A FORWARD {fwd} -j FLANNEL-FWD
-A FLANNEL-FWD -s {cluster} {fwd} -j ACCEPT
-A FLANNEL-FWD -d {cluster} {fwd} -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING {masq} -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN
-A FLANNEL-POSTRTG -s {pods} -d {cluster} {masq} -j RETURN
-A FLANNEL-POSTRTG -s {cluster} -d {pods} {masq} -j RETURN
-A FLANNEL-POSTRTG ! -s {cluster} -d {pods} {masq} -j RETURN
-A FLANNEL-POSTRTG -s {cluster} ! -d {multicast} {masq} -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} {masq} -j MASQUERADE --random-fully
COMMIT
"""


def _pod(place: PodPlace, mtu: int) -> PodLink:
    name = f"{place.namespace}.{place.pod}"
    device = "veth" + hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]
    pod_ip = [
        "link set lo up",
        f"address add {place.ipv4}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {place.gateway4} dev eth0",
        f"route add {place.cluster_cidr4} via {place.gateway4} dev eth0",
    ]
    if place.ipv6:
        pod_ip += [
            f"address add {place.ipv6}/64 dev eth0 nodad",
            f"route add default via {place.gateway6} dev eth0",
            f"route add {place.cluster_cidr6} via {place.gateway6} dev eth0",
        ]
    return PodLink(
        device=device,
        node_ip=[
            f"link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {place.netns}",
            f"link set {device} master cni0",
            f"link set {device} type bridge_slave hairpin on",
            f"link set {device} up",
        ],
        pod_ip=pod_ip,
    )
