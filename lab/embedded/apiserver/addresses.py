"""Service addresses and node ports: what a Service asks for, what it keeps, what it is given.

Changes the Service that it is given; says what cannot be granted. Must not store anything: what is taken follows
from the Services that exist.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from lab.embedded.apiserver.errors import Problem, invalid_value, required
from lab.embedded.apiserver.kinds import Object

IPV4_RANGE = ipaddress.ip_network("10.96.0.0/16")
IPV6_RANGE = ipaddress.ip_network("fd96::/112")
NODE_PORTS = range(30000, 32768)
# Kubernetes leaves the low addresses to those who ask for one (kube-dns).
FIRST_OFFERED = 32

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(slots=True)
class Taken:
    """What other Services hold."""

    addresses: set[str] = field(default_factory=set)
    node_ports: set[tuple[str, int]] = field(default_factory=set)


def taken_by(services: Iterable[Object]) -> Taken:
    """Collect what these Services hold."""
    taken = Taken()
    for service in services:
        spec = service["spec"]
        taken.addresses.update(a for a in spec.get("clusterIPs") or () if a != "None")
        for port in spec.get("ports") or ():
            if port.get("nodePort"):
                taken.node_ports.add((port["protocol"], port["nodePort"]))
    return taken


def allocate(spec: Object, old: Object | None, taken: Taken, families: tuple[str, ...]) -> list[Problem]:
    """Give a Service's spec families, addresses and node ports; `old` is its spec before, if any."""
    if spec["type"] == "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            spec.pop(name, None)
        _release_node_ports(spec, old)
        return []
    _keep(spec, old)
    problems = _families(spec, families)
    if not problems:
        problems = _cluster_ips(spec, taken)
    return problems + _node_ports(spec, old, taken)


def _keep(spec: Object, old: Object | None) -> None:
    """A manifest that says nothing of what was given out keeps it."""
    if old is None or old.get("type") == "ExternalName":
        return
    if not spec.get("clusterIP") and not spec.get("clusterIPs"):
        for name in ("clusterIP", "clusterIPs"):
            if name in old:
                spec[name] = old[name]
    for name in ("ipFamilies", "ipFamilyPolicy"):
        if not spec.get(name) and name in old:
            spec[name] = old[name]
    if spec.get("ipFamilyPolicy") == "SingleStack":
        for name in ("clusterIPs", "ipFamilies"):
            spec[name] = spec[name][:1]
    if "healthCheckNodePort" in old and spec.get("externalTrafficPolicy") == "Local":
        spec.setdefault("healthCheckNodePort", old["healthCheckNodePort"])


def _families(spec: Object, families: tuple[str, ...]) -> list[Problem]:
    if not spec.get("clusterIP") and spec.get("clusterIPs"):
        spec["clusterIP"] = spec["clusterIPs"][0]
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    asked = spec.get("clusterIPs") or []
    for index, address in enumerate(asked):
        if address != "None" and _family(address) is None:
            where = "spec.clusterIP" if index == 0 else f"spec.clusterIPs[{index}]"
            return [invalid_value(where, address, "must be a valid IP address or None")]
    wanted = list(spec.get("ipFamilies") or [])
    if not wanted:
        wanted = [family for family in map(_family, asked) if family]
    for index, family in enumerate(wanted):
        if family not in families:
            return [invalid_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")]
    policy = spec.setdefault("ipFamilyPolicy", "RequireDualStack" if len(wanted) == 2 else "SingleStack")
    if policy == "RequireDualStack" and len(families) < 2:
        detail = "this cluster is not configured for dual-stack services"
        return [invalid_value("spec.ipFamilyPolicy", policy, detail)]
    if policy == "SingleStack" and len(wanted) > 1:
        return [invalid_value("spec.ipFamilyPolicy", policy, "may not be SingleStack with two families")]
    wanted = wanted or [families[0]]
    if policy != "SingleStack":
        wanted += [family for family in families if family not in wanted]
    spec["ipFamilies"] = wanted
    return []


def _cluster_ips(spec: Object, taken: Taken) -> list[Problem]:
    if spec.get("clusterIP") == "None":
        spec["clusterIPs"] = ["None"]
        return []
    asked = {_family(address): address for address in spec.get("clusterIPs") or []}
    given = []
    for index, family in enumerate(spec["ipFamilies"]):
        network: Network = IPV4_RANGE if family == "IPv4" else IPV6_RANGE
        address = asked.get(family)
        where = "spec.clusterIPs" if index else "spec.clusterIP"
        if address is None:
            address = _free(network, taken)
            if address is None:
                return [invalid_value(where, "", f"the range {network} is full")]
        elif ipaddress.ip_address(address) not in network:
            detail = "failed to allocate IP: the provided IP is not in the valid range. "
            return [invalid_value(where, address, f"{detail}The range of valid IPs is {network}")]
        elif address in taken.addresses:
            return [invalid_value(where, address, "failed to allocate IP: provided IP is already allocated")]
        given.append(str(ipaddress.ip_address(address)))
    spec["clusterIP"], spec["clusterIPs"] = given[0], given
    return []


def _free(network: Network, taken: Taken) -> str | None:
    for offset in range(FIRST_OFFERED, network.num_addresses - 1):
        address = str(network[offset])
        if address not in taken.addresses:
            return address
    return None


def _family(address: str) -> str | None:
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        return None


def _release_node_ports(spec: Object, old: Object | None) -> None:
    """Ports that were given out are taken back when the type wants none; ports asked for are left to be refused."""
    given = {port.get("nodePort") for port in (old or {}).get("ports") or ()}
    for port in spec.get("ports") or []:
        if port.get("nodePort") in given:
            port.pop("nodePort", None)


def _node_ports(spec: Object, old: Object | None, taken: Taken) -> list[Problem]:
    wants = spec["type"] == "NodePort" or (
        spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True)
    )
    if not wants:
        if spec["type"] == "ClusterIP":
            _release_node_ports(spec, old)
        return []
    if not spec.get("ports"):
        return [required("spec.ports")]
    before = {(p["protocol"], p["port"]): p.get("nodePort") for p in (old or {}).get("ports") or ()}
    held = set(taken.node_ports)
    problems = []
    for index, port in enumerate(spec["ports"]):
        protocol, where = port["protocol"], f"spec.ports[{index}].nodePort"
        number = port.get("nodePort") or before.get((protocol, port.get("port")))
        if not number:
            number = next((n for n in NODE_PORTS if (protocol, n) not in held), None)
            if number is None:
                return [invalid_value(where, 0, "the range 30000-32767 is full")]
        elif number not in NODE_PORTS:
            detail = "provided port is not in the valid range. The range of valid ports is 30000-32767"
            problems.append(invalid_value(where, number, detail))
        elif (protocol, number) in held:
            problems.append(invalid_value(where, number, "provided port is already allocated"))
        port["nodePort"] = number
        held.add((protocol, number))
    if spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local":
        spec.setdefault("healthCheckNodePort", next((n for n in reversed(NODE_PORTS) if ("TCP", n) not in held), 0))
    return problems
