"""Addresses of Services of type LoadBalancer, and the router's routes towards them.

Deciding is pure; `Routes` writes host routes in the router's namespace alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, ip_network

from lab.client import Object
from lab.embedded.cluster import objects
from lab.embedded.cluster.endpoints import SERVICE_LABEL
from lab.spec import Topology
from lab.topology import ip_batch


def given_address(service: Object) -> str | None:
    """Return the address a Service has in its status."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return str(ingress[0]["ip"]) if ingress and ingress[0].get("ip") else None


def assign(services: Iterable[Object], pool: str) -> list[tuple[Object, str | None]]:
    """Return (Service, address) wherever the status has to change; None takes an address back."""
    everyone = sorted(services, key=lambda item: (objects.namespace(item), objects.name(item)))
    taken = {address for item in everyone if (address := given_address(item)) is not None}
    free = (str(address) for address in ip_network(pool).hosts() if str(address) not in taken)
    result: list[tuple[Object, str | None]] = []
    for service in everyone:
        balanced = service["spec"].get("type") == "LoadBalancer"
        if balanced and given_address(service) is None and not service["spec"].get("loadBalancerClass"):
            asked = service["spec"].get("loadBalancerIP")
            usable = asked and asked not in taken and IPv4Address(asked) in ip_network(pool)
            address = str(asked) if usable else next(free, None)
            if address is not None:
                taken.add(address)
                result.append((service, address))
        elif not balanced and given_address(service) is not None:
            result.append((service, None))
    return result


def next_hops(
    services: Iterable[Object],
    slices: Sequence[Object],
    nodes: Mapping[str, str],
) -> dict[str, str]:
    """Return load balancer address → node address; `nodes` are the Ready nodes' names and addresses.

    With externalTrafficPolicy Local only a node with a ready endpoint takes the traffic.
    """
    hops: dict[str, str] = {}
    for service in services:
        address = given_address(service)
        if address is None or service["spec"].get("type") != "LoadBalancer":
            continue
        fit = sorted(nodes)
        if service["spec"].get("externalTrafficPolicy") == "Local":
            here = {
                endpoint.get("nodeName")
                for item in slices
                if objects.labels(item).get(SERVICE_LABEL) == objects.name(service)
                and objects.namespace(item) == objects.namespace(service)
                for endpoint in item.get("endpoints") or []
                if (endpoint.get("conditions") or {}).get("ready")
            }
            fit = [name for name in fit if name in here]
        if fit:
            hops[address] = nodes[fit[int(IPv4Address(address)) % len(fit)]]
    return hops


class Routes:
    """The router's host routes to load balancer addresses."""

    def __init__(self, topology: Topology) -> None:
        """No route is known to be there."""
        self._topology = topology
        self._have: dict[str, str] = {}

    async def apply(self, hops: Mapping[str, str]) -> None:
        """Make the router's routes so; raises netns.NetnsError."""
        if hops == self._have:
            return
        lines = [f"route delete {address}/32" for address in self._have.keys() - hops.keys()]
        lines += [
            f"route replace {address}/32 via {hop}" for address, hop in hops.items() if self._have.get(address) != hop
        ]
        await ip_batch(self._topology.router_netns, lines, force=True)
        self._have = dict(hops)
