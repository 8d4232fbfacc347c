"""kube-proxy 1.34's nftables mode: table kube-proxy of one node in one family, and the way from one state to the next.

Pure: returns values and text for `nft -f`. Shape and comments are those of recorded/kube-proxy-nftables+*.nft.
Source: pkg/proxy/nftables/proxier.go.
"""

from collections.abc import Iterable, Mapping

import msgspec

from lab.embedded.proxy.decision import Decision, NodeView, allowed_sources, decide
from lab.embedded.proxy.names import nftables_endpoint, nftables_service
from lab.embedded.proxy.services import Endpoint, Family, ServicePort

TABLE = "kube-proxy"
_MARK = "0x00004000"


class ElementSet(msgspec.Struct, frozen=True):
    """A set or map. `body` is its declaration; elements are (key and comment) → verdict, "" in a set."""

    kind: str
    body: tuple[str, ...]
    elements: Mapping[str, str] = {}


class Chain(msgspec.Struct, frozen=True):
    """A chain: its declaration ("" for a plain one) and its rules."""

    body: str
    rules: tuple[str, ...]


class Table(msgspec.Struct, frozen=True):
    """The whole table kube-proxy of one family."""

    family: Family
    sets: Mapping[str, ElementSet]
    chains: Mapping[str, Chain]

    @property
    def path(self) -> str:
        """How nft commands name it."""
        return f"{'ip6' if self.family == 6 else 'ip'} {TABLE}"


_HOOKS = {
    "filter-prerouting-pre-dnat": ("filter", "prerouting", "dstnat - 10", ("firewall-check",)),
    "filter-output-pre-dnat": ("filter", "output", "-110", ("firewall-check",)),
    "filter-input": ("filter", "input", "filter", ("nodeport-endpoints-check", "service-endpoints-check")),
    "filter-forward": ("filter", "forward", "filter", ("service-endpoints-check", "cluster-ips-check")),
    "filter-output": ("filter", "output", "filter", ("service-endpoints-check", "cluster-ips-check")),
    "nat-prerouting": ("nat", "prerouting", "dstnat", ("services",)),
    "nat-output": ("nat", "output", "-100", ("services",)),
    "nat-postrouting": ("nat", "postrouting", "srcnat", ("masquerading",)),
}
_MAPS = {
    "no-endpoint-services": (True, "vmap to drop or reject packets to services with no endpoints"),
    "no-endpoint-nodeports": (False, "vmap to drop or reject packets to service nodeports with no endpoints"),
    "firewall-ips": (True, "destinations that are subject to LoadBalancerSourceRanges"),
    "service-ips": (True, "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
    "service-nodeports": (False, "NodePort traffic"),
}


def make_table(ports: Iterable[ServicePort], node: NodeView) -> Table:
    """Return the whole table of a node."""
    writer = _Writer(node)
    for port in ports:
        writer.service(decide(port, node.name))
    return writer.finished()


class _Writer:
    """Collects elements and chains, Service by Service."""

    def __init__(self, node: NodeView) -> None:
        self._node = node
        self._ip = "ip6" if node.family == 6 else "ip"
        self._type = "ipv6_addr" if node.family == 6 else "ipv4_addr"
        self._elements: dict[str, dict[str, str]] = {name: {} for name in _MAPS}
        self._elements["cluster-ips"] = {}
        # Without an address to name, node ports answer on every local one but loopback.
        loopback = "::1" if node.family == 6 else "127.0.0.0/8"
        self._any_node_port = f"{self._ip} daddr != {loopback}"
        self._affinity: dict[str, ElementSet] = {}
        self._chains: dict[str, Chain] = {}
        self._base()

    def _chain(self, name: str, rules: Iterable[str], body: str = "") -> None:
        self._chains[name] = Chain(body, tuple(rules))

    def _base(self) -> None:
        for name, (kind, hook, priority, targets) in _HOOKS.items():
            prefix = "" if kind == "nat" else "ct state new "
            body = f"type {kind} hook {hook} priority {priority}; policy accept;"
            self._chain(name, [f"{prefix}jump {target}" for target in targets], body)
        ip, dport = self._ip, "meta l4proto . th dport vmap"
        named = f"{ip} daddr @nodeport-ips" if self._node.address else self._any_node_port
        self._chain("nodeport-endpoints-check", [f"{named} {dport} @no-endpoint-nodeports"])
        self._chain("service-endpoints-check", [f"{ip} daddr . {dport} @no-endpoint-services"])
        self._chain("firewall-check", [f"{ip} daddr . {dport} @firewall-ips"])
        self._chain(
            "services",
            [
                f"{ip} daddr . {dport} @service-ips",
                f"{'' if self._node.address else 'fib daddr type local '}{named} {dport} @service-nodeports",
            ],
        )
        self._chain(
            "masquerading",
            [
                f"meta mark & {_MARK} == 0x00000000 return",
                f"meta mark set meta mark ^ {_MARK}",
                "masquerade fully-random",
            ],
        )
        checks = [f'{ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"']
        if self._node.service_cidr:
            checks.append(f'{ip} daddr {self._node.service_cidr} drop comment "Drop traffic to unallocated ClusterIPs"')
        self._chain("cluster-ips-check", checks)
        self._chain("mark-for-masquerade", [f"meta mark set meta mark | {_MARK}"])
        note = 'comment "helper for @no-endpoint-services / @no-endpoint-nodeports"'
        self._chain("reject-chain", ["reject"], f"{note};")

    def finished(self) -> Table:
        """Return the table."""
        sets = {"cluster-ips": self._plain_set("Active ClusterIPs", self._elements["cluster-ips"])}
        if self._node.address:
            accepting = {self._node.address: ""}
            sets["nodeport-ips"] = self._plain_set("IPs that accept NodePort traffic", accepting)
        for name, (with_address, comment) in _MAPS.items():
            key = f"{self._type} . inet_proto . inet_service" if with_address else "inet_proto . inet_service"
            body = (f"type {key} : verdict", f'comment "{comment}"')
            sets[name] = ElementSet("map", body, self._elements[name])
        return Table(self._node.family, {**sets, **self._affinity}, self._chains)

    def _plain_set(self, comment: str, elements: Mapping[str, str]) -> ElementSet:
        return ElementSet("set", (f"type {self._type}", f'comment "{comment}"'), elements)

    def service(self, decision: Decision) -> None:
        """Write everything about one service port."""
        port = decision.port
        self._elements["cluster-ips"][port.cluster_ip] = ""
        internal = nftables_service("local" if port.internal_local else "service", port)
        if decision.internal:
            self._serve(port.cluster_ip, port, internal)
        else:
            self._refuse(port.cluster_ip, decision)
        if port.external:
            self._outside(decision)
        if decision.firewall:
            self._firewall(port)
        for prefix, endpoints, inside in (
            ("service", decision.cluster, not port.internal_local),
            ("local", decision.local, port.internal_local),
        ):
            if endpoints:
                rules = self._choice(port, endpoints, masquerade=inside)
                self._chain(nftables_service(prefix, port), rules)
        for endpoint in decision.reachable:
            self._endpoint(port, endpoint)

    def _serve(self, address: str, port: ServicePort, chain: str) -> None:
        self._elements["service-ips"][f"{address} . {port.protocol} . {port.port}"] = f"goto {chain}"

    def _refuse(self, address: str, decision: Decision) -> None:
        port = decision.port
        key = f'{address} . {port.protocol} . {port.port} comment "{port.label}"'
        self._elements["no-endpoint-services"][key] = _verdict(decision)

    def _outside(self, decision: Decision) -> None:
        port = decision.port
        chain = nftables_service("external", port)
        for address in (*port.external_ips, *port.load_balancer_ips):
            if decision.anywhere:
                self._serve(address, port, chain)
            if not decision.outside:
                self._refuse(address, decision)
        node_port = f"{port.protocol} . {port.node_port}"
        if port.node_port and decision.anywhere:
            self._elements["service-nodeports"][node_port] = f"goto {chain}"
        if port.node_port and not decision.outside:
            key = f'{node_port} comment "{port.label}"'
            self._elements["no-endpoint-nodeports"][key] = _verdict(decision)
        if decision.anywhere:
            self._chain(chain, self._external(decision))

    def _external(self, decision: Decision) -> Iterable[str]:
        port = decision.port
        cluster = nftables_service("service", port)
        if not port.external_local:
            yield "jump mark-for-masquerade"
        else:
            if self._node.cluster_cidr:
                yield f'{self._ip} saddr {self._node.cluster_cidr} goto {cluster} comment "short-circuit pod traffic"'
            yield 'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"'
            yield f'fib saddr type local goto {cluster} comment "short-circuit local traffic"'
        if decision.outside:
            yield f"goto {nftables_service('local', port) if port.external_local else cluster}"

    def _firewall(self, port: ServicePort) -> None:
        chain = nftables_service("firewall", port)
        sources = ", ".join(allowed_sources(port, self._node))
        self._chain(chain, [f"{self._ip} saddr != {{ {sources} }} drop"])
        for address in port.load_balancer_ips:
            key = f'{address} . {port.protocol} . {port.port} comment "{port.label}"'
            self._elements["firewall-ips"][key] = f"goto {chain}"

    def _choice(self, port: ServicePort, endpoints: tuple[Endpoint, ...], masquerade: bool) -> Iterable[str]:
        ip = self._ip
        if masquerade and self._node.cluster_cidr:
            yield (f"{ip} daddr {port.cluster_ip} {ip} saddr != {self._node.cluster_cidr} jump mark-for-masquerade")
        targets = [nftables_endpoint("endpoint", port, endpoint) for endpoint in endpoints]
        if port.affinity_s is not None:
            for endpoint, target in zip(endpoints, targets, strict=True):
                yield f"{ip} saddr @{nftables_endpoint('affinity', port, endpoint)} goto {target}"
        verdicts = ", ".join(f"{index} : goto {target}" for index, target in enumerate(targets))
        yield f"numgen random mod {len(targets)} vmap {{ {verdicts} }}"

    def _endpoint(self, port: ServicePort, endpoint: Endpoint) -> None:
        rules = [f"{self._ip} saddr {endpoint.address} jump mark-for-masquerade"]
        if port.affinity_s is not None:
            affinity = nftables_endpoint("affinity", port, endpoint)
            self._affinity[affinity] = ElementSet(
                "set",
                (f"type {self._type}", "size 65535", "flags dynamic,timeout", f"timeout {port.affinity_s}s"),
            )
            rules.append(f"update @{affinity} {{ {self._ip} saddr }}")
        rules.append(f"meta l4proto {port.protocol} dnat to {endpoint.text}")
        self._chain(nftables_endpoint("endpoint", port, endpoint), rules)


def _verdict(decision: Decision) -> str:
    return "drop" if decision.anywhere else "goto reject-chain"


def full_transaction(wanted: Table) -> str:
    """Return the `nft -f` text that makes the table anew, whatever was there."""
    path = wanted.path
    lines = [
        f"add table {path}",
        f"delete table {path}",
        f'add table {path} {{ comment "rules for kube-proxy"; }}',
    ]
    lines += _changes(wanted, Table(wanted.family, {}, {}))
    return "".join(f"{line}\n" for line in lines)


def changed_transaction(wanted: Table, applied: Table) -> str:
    """Return the `nft -f` text from `applied` to `wanted`; empty where there is nothing to do.

    What did not change, counters and remembered clients included, stays untouched.
    """
    return "".join(f"{line}\n" for line in _changes(wanted, applied))


def _changes(wanted: Table, applied: Table) -> list[str]:
    path = wanted.path
    # Order matters within the transaction: what is named must be there, what is removed must be unused.
    remade = {
        name for name, value in wanted.sets.items() if name in applied.sets and applied.sets[name].body != value.body
    }
    gone_sets = [name for name in applied.sets if name not in wanted.sets]
    gone_chains = [name for name in applied.chains if name not in wanted.chains]
    changed = {name: chain for name, chain in wanted.chains.items() if applied.chains.get(name) != chain}
    emptied = (*gone_chains, *(name for name in changed if name in applied.chains))
    lines = [f"flush chain {path} {name}" for name in emptied]
    lines += _element_changes("delete", path, applied, wanted)
    lines += [f"delete chain {path} {name}" for name in gone_chains]
    lines += [f"delete {applied.sets[name].kind} {path} {name}" for name in (*gone_sets, *sorted(remade))]
    for name, value in wanted.sets.items():
        if name not in applied.sets or name in remade:
            lines.append(f"add {value.kind} {path} {name} {{ {' ; '.join(value.body)} ; }}")
    for name, chain in changed.items():
        if name not in applied.chains:
            lines.append(f"add chain {path} {name}" + (f" {{ {chain.body} }}" if chain.body else ""))
    for name, chain in changed.items():
        lines += [f"add rule {path} {name} {rule}" for rule in chain.rules]
    return lines + _element_changes("add", path, wanted, applied)


def _element_changes(verb: str, path: str, having: Table, lacking: Table) -> list[str]:
    lines = []
    for name, value in having.sets.items():
        other = lacking.sets[name].elements if name in lacking.sets else {}
        if verb == "delete" and name not in lacking.sets:
            continue
        for key, verdict in value.elements.items():
            if other.get(key) != verdict:
                lines.append(f"{verb} element {path} {name} {{ {key}{f' : {verdict}' if verdict else ''} }}")
    return lines
