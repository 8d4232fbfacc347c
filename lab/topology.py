"""Builds the namespaces and links of a lab: nodes, zones, router, outside, control plane, and each node's pod network.

Decides by `lab.spec` and `lab.embedded.cni` and runs the batches. It starts no process that stays, and touches nothing
outside of the lab's namespaces: every command runs in one of them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from lab import netns
from lab.embedded import cni
from lab.spec import NodeSpec, Topology, segment_addresses

UNDERLAY_MTU: Final = 1500
PLUGIN_PROGRAM: Final = """#!/bin/sh
# Stands for a network plugin's program: this lab's cluster service wires pods itself.
echo '{"cniVersion": "0.3.1", "code": 100, "msg": "pods of this lab are wired by its cluster service"}'
exit 1
"""
# accept_dad 0: addresses are usable at once; keep_addr_on_down as hosts with a network manager behave
_IPV6: Final = {
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/all/keep_addr_on_down": "1",
    "ipv6/conf/default/keep_addr_on_down": "1",
}
_FORWARDING: Final = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/forwarding": "1",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}
# rp_filter 2 (loose) is what systemd gives a Debian host; bridge-nf as kube-proxy needs it
_NODE: Final = {
    "ipv4/conf/default/rp_filter": "2",
    "bridge/bridge-nf-call-iptables": "1",
    "bridge/bridge-nf-call-ip6tables": "1",
}
# the kubelet's own chains, present on every node whichever proxy it has
KUBELET_RULES: Final = """*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
"""
KUBELET_RULES6: Final = """*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
"""
ROUTER_NAT: Final = """table inet lab-nat {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "outside0" masquerade
  }
}
"""


@dataclass(frozen=True, slots=True)
class Uplink:
    """A namespace with one link, eth0, to a port of the router."""

    netns: str
    port: str
    segment: int | None
    """Segment of the underlay, None for the outside's own."""
    addresses: tuple[str, ...]
    """With prefix length, IPv4 first."""
    gateways: tuple[str, ...]


def node_uplink(node: NodeSpec) -> Uplink:
    """Return the link of a node."""
    return _uplink(node.netns, node.name, node.segment, node.ipv4, node.ipv6)


def _uplink(netns_name: str, port: str, segment: int, ipv4: str, ipv6: str | None) -> Uplink:
    router4, router6 = segment_addresses(segment, 1)
    addresses, gateways = [f"{ipv4}/24"], [router4]
    if ipv6:
        addresses.append(f"{ipv6}/64")
        # the router is ::1; segment_addresses repeats decimal digits, which are the same for 1
        gateways.append(router6)
    return Uplink(netns_name, port, segment, tuple(addresses), tuple(gateways))


def uplinks(topology: Topology) -> list[Uplink]:
    """Return every link of the underlay: nodes, control plane, outside."""
    outside = [f"{topology.outside_ipv4}/24"]
    gateways = [topology.outside_router4]
    if topology.outside_ipv6 and topology.outside_router6:
        outside.append(f"{topology.outside_ipv6}/64")
        gateways.append(topology.outside_router6)
    control = _uplink(topology.control_netns, "control", 1, topology.control_ipv4, topology.control_ipv6)
    return [
        *(node_uplink(node) for node in topology.nodes),
        control,
        Uplink(topology.outside_netns, "outside0", None, tuple(outside), tuple(gateways)),
    ]


def uplink_batch(uplink: Uplink) -> list[str]:
    """Return `ip -batch` lines for addresses and default routes of eth0; they may be run again at any time."""
    lines = [
        f"address replace {address} dev eth0" + (" nodad" if ":" in address else "") for address in uplink.addresses
    ]
    return lines + [f"route replace default via {gateway} dev eth0" for gateway in uplink.gateways]


def restore_batch(topology: Topology, node: NodeSpec) -> list[str]:
    """Return what a host's network manager and CNI daemon put back once eth0 is up again, and no more."""
    routes = [] if topology.spec.real else cni.plan_node(topology, node).uplink_routes
    return uplink_batch(node_uplink(node)) + routes


def router_batch(topology: Topology) -> list[str]:
    """Return `ip -batch` lines for the router: a bridge a zone, a port a link, `outside0`."""
    lines = ["link set lo up"]
    for segment in topology.segments:
        router4, router6 = segment_addresses(segment, 1)
        lines += [f"link add zone-{segment} type bridge forward_delay 0 stp_state 0"]
        lines += [f"address add {router4}/24 dev zone-{segment}"]
        if topology.spec.dual:
            lines += [f"address add {router6}/64 dev zone-{segment} nodad"]
        lines += [f"link set zone-{segment} up"]
    for uplink in uplinks(topology):
        lines.append(
            f"link add {uplink.port} mtu {UNDERLAY_MTU} type veth "
            f"peer name eth0 mtu {UNDERLAY_MTU} netns {uplink.netns}"
        )
        if uplink.segment is not None:
            lines.append(f"link set {uplink.port} master zone-{uplink.segment}")
        lines.append(f"link set {uplink.port} up")
    lines.append(f"address add {topology.outside_router4}/24 dev outside0")
    if topology.outside_router6:
        lines.append(f"address add {topology.outside_router6}/64 dev outside0 nodad")
    # a load balancer's address that no Service has leads nowhere, and says so
    lines.append(f"route add unreachable {topology.load_balancer_cidr}")
    return lines


def namespaces(topology: Topology) -> list[str]:
    """Return the names of the lab's namespaces, pods' excepted."""
    fixed = [topology.router_netns, topology.outside_netns, topology.control_netns]
    return fixed + [node.netns for node in topology.nodes]


async def ip_batch(namespace: str, lines: list[str], *, force: bool = False) -> None:
    """Run lines of `ip -batch` in a namespace; with `force`, go on after a line that fails."""
    if lines:
        flags = ["-force"] if force else []
        await netns.run(namespace, ["ip", *flags, "-batch", "-"], "\n".join(lines) + "\n", check=not force)


async def build(topology: Topology) -> None:
    """Make all namespaces and links; raises netns.NetnsError with the kernel's or the tool's words."""
    for name in namespaces(topology):
        netns.create(name)
    ipv6 = _IPV6 if topology.spec.dual else {}
    for name in (topology.outside_netns, topology.control_netns):
        netns.sysctl_set(name, ipv6)
    netns.sysctl_set(topology.router_netns, ipv6 | _FORWARDING)
    for node in topology.nodes:
        netns.sysctl_set(node.netns, ipv6 | _FORWARDING | _NODE)
    await ip_batch(topology.router_netns, router_batch(topology))
    async with asyncio.TaskGroup() as group:
        group.create_task(netns.run(topology.router_netns, ["nft", "-f", "-"], ROUTER_NAT))
        for uplink in uplinks(topology)[len(topology.nodes) :]:
            group.create_task(_connect(uplink))
        for node in topology.nodes:
            group.create_task(_build_node(topology, node))


async def _connect(uplink: Uplink) -> None:
    await ip_batch(uplink.netns, ["link set lo up", "link set eth0 up", *uplink_batch(uplink)])


async def _build_node(topology: Topology, node: NodeSpec) -> None:
    plan = cni.plan_node(topology, node)
    _write_plugin_files(topology, node, plan)
    await _connect(node_uplink(node))
    if topology.spec.real:  # kubelet and flannel do the rest
        return
    netns.sysctl_set(node.netns, plan.sysctls)
    await ip_batch(node.netns, plan.ip + plan.uplink_routes)
    if plan.bridge:
        await netns.run(node.netns, ["bridge", "-batch", "-"], "\n".join(plan.bridge) + "\n")
    if plan.ipset:
        await netns.run(node.netns, ["ipset", "restore"], plan.ipset)
    await netns.run(node.netns, ["iptables-restore", "--noflush"], KUBELET_RULES + plan.iptables)
    if topology.spec.dual:
        await netns.run(node.netns, ["ip6tables-restore", "--noflush"], KUBELET_RULES6 + plan.ip6tables)


def _write_plugin_files(topology: Topology, node: NodeSpec, plan: cni.NodeNetwork) -> None:
    base = topology.node_directory(node.name)
    for part in ("cni/net.d", "cni/bin", "netns", "agent"):
        (base / part).mkdir(parents=True, exist_ok=True)
    (base / "cni/net.d" / plan.conf_name).write_text(plan.conf)
    if topology.spec.real:
        return
    for program in plan.plugins:
        path = base / "cni/bin" / program
        path.write_text(PLUGIN_PROGRAM)
        path.chmod(0o755)
