"""Who claims which addresses: pods, nodes and Services by Kubernetes' objects; links and routes by facts of nodes.

Pure. What is no claim of its own is left out here: single addresses on devices (kube-ipvs0 and others hold those of
Services by design), what a network plugin's own routes and devices say of pods, and routes that only refuse (the
blackhole beneath a Calico block).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

import msgspec

from controller.cluster.state import ClusterState, Gives
from model.facts import Address, Link, Route

Network = IPv4Network | IPv6Network
PODS, NODE, SERVICE, BALANCER, LINK, ROUTE = "pods", "node", "service", "load balancer", "link", "route"
POD_POOL, SERVICE_POOL, BALANCER_POOL = "pods' pool", "services' pool", "load balancers' pool"
POOLS: Final = {Gives.PODS: POD_POOL, Gives.SERVICES: SERVICE_POOL, Gives.BALANCERS: BALANCER_POOL}
MAIN: Final = 254
# The kernel's for connected networks, and those of bird (12), Calico (80) and other routing daemons (186…196).
NOT_STATIC: Final = frozenset({2, 12, 80, 186, 187, 188, 189, 192, 196})
TUNNELS: Final = frozenset({"vxlan", "ipip", "sit", "ip6tnl", "geneve", "wireguard", "gre", "veth"})


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A claim on a network. `kind`: one of the words above, PODS to BALANCER_POOL; `who` in words, `node` where."""

    kind: str
    cidr: str
    who: str
    node: str = ""

    @property
    def network(self) -> Network:
        """The addresses."""
        return ip_network(self.cidr, strict=False)


def of_cluster(cluster: ClusterState) -> Iterator[Claim]:
    """What Kubernetes' objects claim."""
    used = _used(cluster)
    for name, node in sorted(cluster.nodes.items()):
        for cidr in node.pod_cidrs:
            if used.get((name, ip_network(cidr).version), True):
                yield Claim(kind=PODS, cidr=cidr, who=f"pods of {name}", node=name)
        for address in node.addresses:
            yield Claim(kind=NODE, cidr=address, who=f"address of {name}", node=name)
    for name, service in sorted(cluster.services.items()):
        for address in service.cluster_ips:
            yield Claim(kind=SERVICE, cidr=address, who=f"Service {name}")
        for address in dict.fromkeys((*service.load_balancer_addresses, *service.external_ips)):
            yield Claim(kind=BALANCER, cidr=address, who=f"Service {name}, from outside")
    for pool in (one for _, one in sorted(cluster.pools.items()) if one.gives in POOLS):
        for cidr in pool.cidrs:
            # An option of the controller's has its range for its name.
            who = pool.kind if pool.name == cidr else f"{pool.kind} {pool.name}"
            yield Claim(kind=POOLS[pool.gives], cidr=cidr, who=who)


def _used(cluster: ClusterState) -> dict[tuple[str, int], bool]:
    """Whether pods of a node have addresses of its podCIDR: with IPAM of its own a plugin does not look at it.

    Nothing is said of a node whose pods have no address of that family.
    """
    cidrs: dict[str, list[Network]] = {
        name: [ip_network(one) for one in node.pod_cidrs] for name, node in cluster.nodes.items()
    }
    found: dict[tuple[str, int], bool] = {}
    for pod in cluster.pods.values():
        if pod.host_network or pod.deleting or pod.node not in cidrs:
            continue
        for address in pod.addresses:
            one = ip_network(address)
            key = (pod.node, one.version)
            found[key] = found.get(key, False) or _meets(address, cidrs[pod.node])
    return found


def of_node(name: str, facts: Mapping[str, Any], own: tuple[str, ...], nodes: frozenset[str]) -> Iterator[Claim]:
    """What links and routes of a node claim. `facts`: plain JSON; `own`: its podCIDRs; `nodes`: all their addresses."""
    links = {link.name: link for link in msgspec.convert(facts.get("links") or (), tuple[Link, ...])}
    mine = [ip_network(cidr) for cidr in own]
    for address in msgspec.convert(facts.get("addresses") or (), tuple[Address, ...]):
        cidr = f"{address.address}/{address.prefix_length}"
        if address.scope == "global" and not _is_single(cidr) and not _meets(cidr, mine):
            yield Claim(
                kind=LINK, cidr=str(ip_network(cidr, strict=False)), who=f"{address.device} of {name}", node=name
            )
    for route in msgspec.convert(facts.get("routes") or (), tuple[Route, ...]):
        if _is_static(route, links, nodes) and not _meets(route.destination, mine):
            way = f"by {route.gateway}" if route.gateway else "without gateway"
            who = f"route of {name} {way} dev {route.device}"
            yield Claim(kind=ROUTE, cidr=route.destination, who=who, node=name)


def _is_static(route: Route, links: Mapping[str, Link], nodes: frozenset[str]) -> bool:
    """Whether an administrator's route (or a VPN's): to neither a node, nor a tunnel's end, nor a pod."""
    link = links.get(route.device)
    return (
        route.table == MAIN
        and route.type == "unicast"
        and route.protocol not in NOT_STATIC
        and route.gateway not in nodes
        and not route.destination.endswith("/0")
        and (link is None or link.kind not in TUNNELS or link.kind == "wireguard")
    )


def _is_single(cidr: str) -> bool:
    network = ip_network(cidr, strict=False)
    return network.prefixlen == network.max_prefixlen


def _meets(cidr: str, mine: list[Network]) -> bool:
    network = ip_network(cidr, strict=False)
    return any(network.version == one.version and network.overlaps(one) for one in mine)
