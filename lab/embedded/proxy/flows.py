"""Which tracked UDP flows must be forgotten when service ports change.

Pure: returns arguments for `conntrack -D`. UDP has no end of connection: a flow that was translated to an endpoint
that is gone, or not translated since there was none, would live on with every packet of its client.
Source: pkg/proxy/conntrack/cleanup.go, which also cleans once after a start; here only changes count.
"""

from collections.abc import Iterable

from lab.embedded.proxy.services import Family, ServicePort

Key = tuple[str, str, str]


def _udp(ports: Iterable[ServicePort]) -> dict[Key, ServicePort]:
    return {(port.namespace, port.service, port.port_name): port for port in ports if port.protocol == "udp"}


def _serving(port: ServicePort | None) -> frozenset[str]:
    if port is None:
        return frozenset()
    return frozenset(entry.address for entry in port.endpoints if entry.ready or (entry.serving and entry.terminating))


def stale_flows(before: Iterable[ServicePort], after: Iterable[ServicePort], family: Family) -> list[list[str]]:
    """Return argument lists, one for each `conntrack` to run on every node."""
    old, new = _udp(before), _udp(after)
    head = ["-D", "-f", f"ipv{family}", "-p", "udp"]
    commands: list[list[str]] = []
    for key, port in sorted(old.items()):
        now = _serving(new.get(key))
        addresses = (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)
        for endpoint in sorted(_serving(port) - now):
            commands += [[*head, "--orig-dst", address, "--dst-nat", endpoint] for address in addresses]
            if port.node_port:
                commands.append([*head, "--orig-port-dst", str(port.node_port), "--dst-nat", endpoint])
    for key, port in sorted(new.items()):
        if _serving(port) and not _serving(old.get(key)):
            addresses = (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)
            commands += [[*head, "--orig-dst", address, "--orig-port-dst", str(port.port)] for address in addresses]
            if port.node_port:
                commands.append([*head, "--orig-port-dst", str(port.node_port)])
    return commands
