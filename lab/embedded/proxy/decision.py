"""What one node does with one service port: which chains it needs and where each kind of traffic goes.

Pure, and the same for iptables and nftables; only the two writers know syntax.
Source: syncProxyRules in pkg/proxy/iptables/proxier.go.
"""

from ipaddress import ip_address, ip_network

import msgspec

from lab.embedded.proxy.services import Endpoint, Family, ServicePort, backends


class NodeView(msgspec.Struct, frozen=True):
    """A node as its proxy sees it; ranges and address are of the family that rules are made for."""

    name: str
    family: Family
    address: str | None
    """The node's own address, that node ports answer on; None where it has none of this family."""
    cluster_cidr: str | None
    service_cidr: str | None


class Decision(msgspec.Struct, frozen=True):
    """A service port on a node. "cluster" and "local" say which endpoints a kind of traffic may reach."""

    port: ServicePort
    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    reachable: tuple[Endpoint, ...]
    anywhere: bool
    internal: bool
    """Traffic to the cluster address finds an endpoint."""
    outside: bool
    """Traffic from outside finds an endpoint."""
    firewall: bool
    """Load balancer addresses are open to some sources only."""

    @property
    def problem(self) -> str:
        """What the comment of a rule that refuses traffic says."""
        what = "no local endpoints" if self.anywhere else "no endpoints"
        return f"{self.port.label} has {what}"


def decide(port: ServicePort, node: str) -> Decision:
    """Apply traffic policies and endpoint conditions for one node."""
    found = backends(port, node)
    return Decision(
        port=port,
        cluster=found.cluster,
        local=found.local,
        reachable=found.reachable,
        anywhere=found.anywhere,
        internal=bool(found.local) if port.internal_local else found.anywhere,
        outside=bool(found.local) if port.external_local else found.anywhere,
        firewall=bool(found.anywhere and port.load_balancer_ips and port.source_ranges),
    )


def allowed_sources(port: ServicePort, node: NodeView) -> tuple[str, ...]:
    """Return the ranges that may use a load balancer address.

    Where they hold the node itself, its traffic carries the load balancer address as source on the way in, if that
    is also an address of the node: these are let in, too.
    """
    allowed = list(port.source_ranges)
    if node.address is not None and any(
        ip_address(node.address) in ip_network(text, strict=False) for text in port.source_ranges
    ):
        allowed += port.load_balancer_ips
    return tuple(allowed)
