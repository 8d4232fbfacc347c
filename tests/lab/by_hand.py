"""Breaks by raw commands, each in another way than a fault of the switchboard: what is done, and what must be named."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from lab.client import ApiClient
from lab.enforcement import guarded
from lab.fault import Bench
from tests.lab.drills import named
from tests.lab.watched import Watched


@dataclass(frozen=True)
class ByHand:
    """A break by raw commands: another chain, mask, device or family than the twin's; what must be named; the mend."""

    name: str
    place: str
    do: str
    undo: str
    code: str
    object: dict[str, str]
    cnis: tuple[str, ...] = ("flannel-vxlan", "flannel-host-gw", "calico")

    def run(self, watched: Watched) -> None:
        """Break, look, mend."""
        values = facts(watched)
        place = self.place.format(**values)
        try:
            watched.run(place, "sh", "-ec", self.do.format(**values))
            named(watched, self.code, **{key: value.format(**values) for key, value in self.object.items()})
        finally:
            watched.run(place, "sh", "-c", self.undo.format(**values))


VXLAN = ("flannel-vxlan", "calico")
HANDS = [
    ByHand(
        "address gone",
        "node-c",
        "ip addr del {c}/24 dev eth0",
        "ip addr add {c}/24 dev eth0; ip route replace default via {c_gw}{c_routes}",
        "node.uplink_down",
        {"kind": "device", "node": "node-c", "name": "eth0"},
        ("flannel-vxlan", "calico"),
    ),
    ByHand(
        "forwarding of the bridge off",
        "node-c",
        "sysctl -qw net.ipv4.conf.cni0.forwarding=0",
        "sysctl -qw net.ipv4.conf.cni0.forwarding=1",
        "node.ip_forward_off",
        {"kind": "sysctl", "node": "node-c", "name": "net.ipv4.conf.cni0.forwarding"},
        ("flannel-vxlan", "flannel-host-gw"),
    ),
    ByHand(
        "IPv6 forwarding off",
        "node-c",
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
        "node.ip_forward_off",
        {"kind": "sysctl", "node": "node-c", "name": "net.ipv6.conf.all.forwarding"},
    ),
    ByHand(
        "native nftables",
        "node-d",
        "nft add table inet fw; nft add chain inet fw f '{{ type filter hook forward priority -5; }}'; nft add rule inet fw f udp dport 8700 drop",
        "nft delete table inet fw",
        "node.firewall_drop",
        {"kind": "nft-rule", "node": "node-d", "name": "fw/f/1"},
    ),
    ByHand(
        "iptables-legacy",
        "node-d",
        "iptables-legacy -A FORWARD -p udp --dport 8700 -j DROP",
        "iptables-legacy -D FORWARD -p udp --dport 8700 -j DROP",
        "node.firewall_drop",
        {"kind": "iptables-rule", "node": "node-d", "name": "filter/FORWARD/1"},
    ),
    ByHand(
        "host's INPUT rejects",
        "node-d",
        "iptables -I INPUT 1 -p udp --dport 8701 -j REJECT",
        "iptables -D INPUT -p udp --dport 8701 -j REJECT",
        "node.firewall_drop",
        {"kind": "iptables-rule", "node": "node-d", "name": "filter/INPUT/1"},
    ),
    ByHand(
        "tunnel dropped at the receiver",
        "node-d",
        "iptables -I INPUT 1 -p udp -m multiport --dports 4789,8472 -j DROP",
        "iptables -D INPUT -p udp -m multiport --dports 4789,8472 -j DROP",
        "node.firewall_drop",
        {"kind": "iptables-rule", "node": "node-d", "name": "filter/INPUT/1"},
        VXLAN,
    ),
    ByHand(
        "raw table, by mask",
        "node-d",
        "iptables -t raw -I PREROUTING 1 -s 10.244.0.0/16 -d 10.244.0.0/16 -p udp -j DROP",
        "iptables -t raw -D PREROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -p udp -j DROP",
        "node.firewall_drop",
        {"kind": "iptables-rule", "node": "node-d", "name": "raw/PREROUTING/1"},
    ),
    ByHand(
        "neighbour entry of the tunnel gone",
        "node-b",
        "ip neigh del {d_vtep} dev {vxlan}",
        "ip neigh replace {d_vtep} lladdr {d_mac} dev {vxlan} nud permanent",
        "cni.vtep_missing",
        {"kind": "neighbour", "node": "node-b"},
        VXLAN,
    ),
    ByHand(
        "stray route inside the pods' range",
        "node-b",
        "ip route add {d_half} via {b_gw} dev eth0",
        "ip route del {d_half} via {b_gw} dev eth0",
        "cni.cidr_overlap",
        {"kind": "cidr", "node": "node-b"},
    ),
    ByHand(
        "routing rule to a table that refuses",
        "node-c",
        "ip route add unreachable default table 77; ip rule add pref 90 from {pods} to {d_half} lookup 77",
        "ip rule del pref 90; ip route flush table 77",
        "node.route_stray_rule",
        {"kind": "routing-rule", "node": "node-c", "name": "90"},
    ),
    ByHand(
        "IPv6 route to the pods gone",
        "node-b",
        "ip -6 route del {d_cidr6}",
        "ip -6 route replace {d_route6}",
        "cni.remote_route_missing",
        {"kind": "route", "node": "node-b"},
    ),
    ByHand(
        "an administrator's rule before those of policies",
        "{guard}",
        "iptables -I FORWARD 1 -p tcp -j ACCEPT",
        "iptables -D FORWARD -p tcp -j ACCEPT",
        "policy.enforcement_stale",
        {"kind": "iptables-rule", "node": "{guard}", "name": "filter/FORWARD/1"},
    ),
    ByHand(
        "a rule of policies that outlived them",
        "node-d",
        "chain=$(iptables -S KUBE-ROUTER-FORWARD | grep -m1 kubereach-endpoint | sed 's/.*-j //');"
        ' iptables -I "$chain" 1 -p udp --dport 8700 -j REJECT',
        "chain=$(iptables -S KUBE-ROUTER-FORWARD | grep -m1 kubereach-endpoint | sed 's/.*-j //');"
        ' iptables -D "$chain" -p udp --dport 8700 -j REJECT',
        "policy.enforcement_stale",
        {"kind": "iptables-rule", "node": "node-d"},
        ("flannel-vxlan", "flannel-host-gw"),
    ),
    ByHand(
        "one port in the fabric",
        "router",
        "nft add table bridge hand; nft add chain bridge hand f '{{ type filter hook forward priority 0; }}'; nft add table ip hand; nft add chain ip hand f '{{ type filter hook forward priority 0; }}'; nft add rule bridge hand f ip saddr {a} ip daddr {b} udp dport 8701 drop; nft add rule ip hand f ip saddr {a} ip daddr {b} udp dport 8701 drop",
        "nft delete table bridge hand; nft delete table ip hand",
        "fabric.blocked",
        {"kind": "path", "name": "node-a → node-b UDP"},
    ),
]


async def guard(watched: Watched) -> str:
    """A node with pods to guard: only there does it show that policies are not enforced."""
    async with ApiClient.from_kubeconfig(Path(watched.state.kubeconfig)) as api:
        return (await guarded(Bench(watched.plan, api), ""))[0].name


def facts(watched: Watched) -> dict[str, str]:
    """Names and addresses that the commands need."""
    plan = watched.plan
    vxlan = "vxlan.calico" if plan.spec.cni == "calico" else "flannel.1"
    d = plan.node("node-d")
    values = {n.name[-1]: n.ipv4 for n in plan.nodes}
    values |= {f"{n.name[-1]}_gw": f"10.77.{n.segment}.1" for n in plan.nodes}
    half = d.pod_cidr4.replace("/24", "/25").replace("/26", "/27")
    values |= {"vxlan": vxlan, "d_half": half, "d_cidr6": d.pod_cidr6 or "", "c_routes": ""}
    values |= {"pods": plan.cluster_cidr4, "guard": asyncio.run(guard(watched))}
    values["d_route6"] = watched.run(
        "node-b", "ip", "-6", "route", "show", "exact", d.pod_cidr6 or "", check=False
    ).strip()
    if plan.spec.cni != "flannel-host-gw":
        neighbours = json.loads(watched.run("node-b", "ip", "-j", "-4", "neigh", "show", "dev", vxlan))
        gateway = json.loads(watched.run("node-b", "ip", "-j", "route", "show", "exact", d.pod_cidr4))[0]["gateway"]
        values |= {"d_vtep": gateway, "d_mac": next(n["lladdr"] for n in neighbours if n["dst"] == gateway)}
    return values
