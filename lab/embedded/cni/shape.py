"""The values that plugins return: batches for ip, bridge, iptables-restore and ipset, and files.

Pure data; must not run anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """One node's share of the pod network."""

    sysctls: dict[str, str]
    """Keys below /proc/sys/net, written before any link is made."""
    ip: list[str]
    """Lines for `ip -batch`."""
    bridge: list[str]
    """Lines for `bridge -batch`."""
    uplink_routes: list[str]
    """`ip -batch` lines for routes via eth0, which the kernel drops when eth0 goes down; `replace`, so repeatable."""
    iptables: str
    ip6tables: str
    ipset: str
    """Input of `ipset restore`; empty where the plugin has no sets."""
    annotations: dict[str, str]
    """What the plugin's daemon writes on the Node object."""
    labels: dict[str, str]
    plugins: list[str]
    """Names of the programs that the configuration calls, as found in /opt/cni/bin."""
    conf_name: str
    conf: str
    """The file below /etc/cni/net.d."""
    up_reason: str
    """Reason of the Node condition NetworkUnavailable=False."""


@dataclass(frozen=True, slots=True)
class PodPlace:
    """Where a pod is to be wired: names and addresses."""

    namespace: str
    pod: str
    netns: str
    """Name of the pod's network namespace."""
    ipv4: str
    ipv6: str | None
    gateway4: str
    """The bridge's address on the node; not used by routed plugins."""
    gateway6: str | None
    cluster_cidr4: str
    cluster_cidr6: str | None


@dataclass(frozen=True, slots=True)
class PodLink:
    """One pod's link: batches for the node's and the pod's namespace, in this order."""

    device: str
    """Name of the link's end on the node."""
    node_ip: list[str]
    node_sysctls: dict[str, str] = field(default_factory=dict)
    pod_ip: list[str] = field(default_factory=list)
    node_ip_after: list[str] = field(default_factory=list)
    """Routes towards the pod, possible only once the link is up on both ends."""


def mac_of(*parts: str) -> str:
    """Return a MAC address that is the same each time for the same parts: unicast, locally administered."""
    digest = bytearray(hashlib.sha1("/".join(parts).encode(), usedforsecurity=False).digest()[:6])
    digest[0] = (digest[0] & 0xFC) | 0x02
    return ":".join(f"{byte:02x}" for byte in digest)
