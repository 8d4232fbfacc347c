"""The sysctls that decide whether packets pass, of this network namespace.

Keys are dotted as `sysctl` prints them; a dot within a device's name is written as a slash there, and here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path("/proc/sys/net")
SINGLE: Final = (
    "ipv4/ip_forward", "ipv4/ping_group_range", "ipv4/ip_local_port_range", "ipv4/ip_local_reserved_ports",
    "ipv4/icmp_echo_ignore_all", "ipv4/ip_nonlocal_bind", "ipv4/fib_multipath_hash_policy", "ipv4/tcp_mtu_probing",
    "ipv4/vs/conntrack", "ipv4/vs/expire_nodest_conn",
    "ipv4/neigh/default/gc_thresh1", "ipv4/neigh/default/gc_thresh2", "ipv4/neigh/default/gc_thresh3",
    "ipv6/neigh/default/gc_thresh1", "ipv6/neigh/default/gc_thresh2", "ipv6/neigh/default/gc_thresh3",
    "ipv6/route/max_size",
    "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables",
    "netfilter/nf_conntrack_max", "netfilter/nf_conntrack_count", "netfilter/nf_conntrack_buckets",
    "netfilter/nf_conntrack_tcp_be_liberal", "netfilter/nf_conntrack_tcp_loose",
    "netfilter/nf_conntrack_tcp_timeout_established", "netfilter/nf_conntrack_udp_timeout",
    "netfilter/nf_conntrack_udp_timeout_stream", "core/somaxconn",
)  # fmt: skip
PER_DEVICE: Final = {
    "ipv4": ("forwarding", "rp_filter", "proxy_arp", "accept_local", "route_localnet", "arp_ignore", "arp_announce",
             "arp_filter", "src_valid_mark"),
    "ipv6": ("forwarding", "disable_ipv6", "proxy_ndp", "accept_ra"),
}  # fmt: skip


def read(devices: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """All of them that this kernel has; what it lacks is left out."""
    wanted = list(SINGLE)
    for device in ("all", "default", *devices):
        for family, names in PER_DEVICE.items():
            wanted += [f"{family}/conf/{device}/{name}" for name in names]
    found = {}
    for path in wanted:
        try:
            value = (root / path).read_text()
        except OSError:
            continue
        found["net." + path.translate(_TO_DOTS)] = " ".join(value.split())
    return found


_TO_DOTS: Final = str.maketrans("/.", "./")
