"""kube-proxy 1.34's iptables mode: the chains of one node in one family, rule by rule.

Pure: returns a `lab.restore.RuleSet`. Shape and comments are those of recorded/kube-proxy-iptables+*.iptables; the
order of Services within shared chains, which kube-proxy leaves to a hash map, is by name here.
Source: pkg/proxy/iptables/proxier.go.
"""

import re
from collections.abc import Iterable

from lab.embedded.proxy.decision import Decision, NodeView, allowed_sources, decide
from lab.embedded.proxy.names import iptables_endpoint, iptables_service
from lab.embedded.proxy.services import Endpoint, ServicePort
from lab.restore import ChainKey, Jump, RuleSet

OWNED = re.compile(r"KUBE-(SVC|SVL|SEP|EXT|FW)-[A-Z2-7]{16}")
# kube-proxy puts its jumps at the head of a chain; a policy controller then puts its own before them.
BEHIND = re.compile(r"-j (KUBE-ROUTER-|cali-)|-g cali-")
NFACCT_INVALID = "ct_state_invalid_dropped_pkts"
NFACCT_LOCALHOST = "localhost_nps_accepted_pkts"
MASQUERADE_MARK = "0x4000"

_NEW = "-m conntrack --ctstate NEW"
_FILTER_JUMPS = (
    ("INPUT", f'{_NEW} -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
    ("INPUT", '-m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS'),
    (
        "INPUT",
        f'{_NEW} -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES',
    ),
    ("INPUT", "-j KUBE-FIREWALL"),
    ("FORWARD", f'{_NEW} -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
    ("FORWARD", '-m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'),
    ("FORWARD", f'{_NEW} -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'),
    (
        "FORWARD",
        f'{_NEW} -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES',
    ),
    ("OUTPUT", f'{_NEW} -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
    ("OUTPUT", f'{_NEW} -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'),
    ("OUTPUT", "-j KUBE-FIREWALL"),
)
_NAT_JUMPS = (
    ("PREROUTING", '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'),
    ("OUTPUT", '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'),
    ("POSTROUTING", '-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING'),
)
JUMPS = (
    *(Jump("filter", chain, rule) for chain, rule in _FILTER_JUMPS),
    *(Jump("nat", chain, rule) for chain, rule in _NAT_JUMPS),
)
LOCALNET_RULE = (
    '! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" '
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)


def make_rule_set(ports: Iterable[ServicePort], node: NodeView, nfacct: bool) -> RuleSet:
    """Return all chains of a node. `nfacct` says whether its kernel counts by NFACCT_* objects."""
    writer = _Writer(node, nfacct)
    for port in ports:
        writer.service(decide(port, node.name))
    return RuleSet({key: tuple(rules) for key, rules in writer.finished().items()}, JUMPS)


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


def probability(choices: int) -> str:
    """Return 1/choices as iptables-save prints it: the kernel keeps it in 31 bits, rounded from ten digits."""
    raw = round(float(f"{1 / choices:.10f}") * 0x80000000)
    return f"{raw / 0x80000000:.11f}"


class _Writer:
    """Collects rules chain by chain, in the order in which kube-proxy writes them."""

    def __init__(self, node: NodeView, nfacct: bool) -> None:
        self._node = node
        self._nfacct = nfacct
        self._v6 = node.family == 6
        self._length = 128 if self._v6 else 32
        self._reject = f"-j REJECT --reject-with {'icmp6' if self._v6 else 'icmp'}-port-unreachable"
        self._chains: dict[ChainKey, list[str]] = {}
        for table, chains in (
            ("mangle", "KUBE-IPTABLES-HINT KUBE-KUBELET-CANARY KUBE-PROXY-CANARY"),
            (
                "filter",
                (
                    "KUBE-EXTERNAL-SERVICES KUBE-FIREWALL KUBE-FORWARD KUBE-KUBELET-CANARY KUBE-NODEPORTS "
                    "KUBE-PROXY-CANARY KUBE-PROXY-FIREWALL KUBE-SERVICES"
                ),
            ),
            (
                "nat",
                "KUBE-KUBELET-CANARY KUBE-MARK-MASQ KUBE-NODEPORTS KUBE-POSTROUTING KUBE-PROXY-CANARY KUBE-SERVICES",
            ),
        ):
            for chain in chains.split():
                self._chains[table, chain] = []
        self._base()

    def _add(self, table: str, chain: str, *parts: str) -> None:
        self._chains.setdefault((table, chain), []).append(" ".join(part for part in parts if part))

    def _base(self) -> None:
        if not self._v6:
            self._add("filter", "KUBE-FIREWALL", LOCALNET_RULE)
        # iptables-save prints two spaces before the object's name
        counted = f"-m nfacct --nfacct-name  {NFACCT_INVALID}" if self._nfacct else ""
        self._add("filter", "KUBE-FORWARD", "-m conntrack --ctstate INVALID", counted, "-j DROP")
        mark = f"--mark {MASQUERADE_MARK}/{MASQUERADE_MARK}"
        self._add("filter", "KUBE-FORWARD", _comment("kubernetes forwarding rules"), f"-m mark {mark} -j ACCEPT")
        self._add(
            "filter",
            "KUBE-FORWARD",
            _comment("kubernetes forwarding conntrack rule"),
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        )
        self._add("nat", "KUBE-MARK-MASQ", f"-j MARK --set-xmark {MASQUERADE_MARK}/{MASQUERADE_MARK}")
        self._add("nat", "KUBE-POSTROUTING", f"-m mark ! {mark} -j RETURN")
        self._add("nat", "KUBE-POSTROUTING", f"-j MARK --set-xmark {MASQUERADE_MARK}/0x0")
        self._add(
            "nat",
            "KUBE-POSTROUTING",
            _comment("kubernetes service traffic requiring SNAT"),
            "-j MASQUERADE --random-fully",
        )

    def finished(self) -> dict[ChainKey, list[str]]:
        """Add what must stand last, and return everything."""
        note = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
        self._add(
            "nat",
            "KUBE-SERVICES",
            "! -d ::1/128" if self._v6 else "",
            _comment(note),
            "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        )
        return self._chains

    def _to(self, address: str, port: ServicePort, comment: str, number: int | None = None) -> str:
        return (
            f"-d {address}/{self._length} -p {port.protocol} {_comment(comment)} "
            f"-m {port.protocol} --dport {number or port.port}"
        )

    def service(self, decision: Decision) -> None:
        """Write everything about one service port."""
        port = decision.port
        external = iptables_service("EXT", port)
        policy = iptables_service("SVL" if port.internal_local else "SVC", port)
        cluster_ip = self._to(port.cluster_ip, port, f"{port.label} cluster IP")
        if decision.internal:
            self._add("nat", "KUBE-SERVICES", cluster_ip, f"-j {policy}")
        else:
            refused = self._to(port.cluster_ip, port, decision.problem)
            self._add("filter", "KUBE-SERVICES", refused, self._verdict(decision))
        self._outside_addresses(decision, external)
        self._node_ports(decision, external)
        if decision.internal and self._node.cluster_cidr:
            self._add("nat", policy, f"! -s {self._node.cluster_cidr}", cluster_ip, "-j KUBE-MARK-MASQ")
        if decision.anywhere and port.external:
            self._external_chain(decision, external)
        if decision.firewall:
            self._firewall_chain(decision, external)
        if decision.cluster:
            self._endpoint_choice(port, iptables_service("SVC", port), decision.cluster)
        if decision.local:
            self._endpoint_choice(port, iptables_service("SVL", port), decision.local)
        for endpoint in decision.reachable:
            self._endpoint(port, endpoint)

    def _verdict(self, decision: Decision) -> str:
        return "-j DROP" if decision.anywhere else self._reject

    def _outside_addresses(self, decision: Decision, external: str) -> None:
        port = decision.port
        firewall = iptables_service("FW", port)
        for address in port.external_ips:
            if decision.anywhere:
                rule = self._to(address, port, f"{port.label} external IP")
                self._add("nat", "KUBE-SERVICES", rule, f"-j {external}")
        for address in port.load_balancer_ips:
            if decision.anywhere:
                rule = self._to(address, port, f"{port.label} loadbalancer IP")
                self._add("nat", "KUBE-SERVICES", rule, f"-j {firewall if decision.firewall else external}")
            if decision.firewall:
                rule = self._to(address, port, f"{port.label} traffic not accepted by {firewall}")
                self._add("filter", "KUBE-PROXY-FIREWALL", rule, "-j DROP")
        if not decision.outside:
            for address in (*port.external_ips, *port.load_balancer_ips):
                rule = self._to(address, port, decision.problem)
                self._add("filter", "KUBE-EXTERNAL-SERVICES", rule, self._verdict(decision))

    def _node_ports(self, decision: Decision, external: str) -> None:
        port = decision.port
        proto = port.protocol
        dport = f"-m {proto} --dport {port.node_port}"
        if port.node_port and decision.anywhere:
            if self._nfacct and not self._v6:
                self._add(
                    "nat",
                    "KUBE-NODEPORTS",
                    f"-d 127.0.0.0/8 -p {proto} {_comment(port.label)} {dport}",
                    f"-m nfacct --nfacct-name  {NFACCT_LOCALHOST} -j {external}",
                )
            self._add("nat", "KUBE-NODEPORTS", f"-p {proto} {_comment(port.label)} {dport} -j {external}")
        if port.node_port and not decision.outside:
            self._add(
                "filter",
                "KUBE-EXTERNAL-SERVICES",
                f"-p {proto} {_comment(decision.problem)} -m addrtype --dst-type LOCAL {dport}",
                self._verdict(decision),
            )
        if port.health_check_node_port:
            self._add(
                "filter",
                "KUBE-NODEPORTS",
                f"-p tcp {_comment(f'{port.label} health check node port')}",
                f"-m tcp --dport {port.health_check_node_port} -j ACCEPT",
            )

    def _external_chain(self, decision: Decision, chain: str) -> None:
        port = decision.port
        cluster, local = iptables_service("SVC", port), iptables_service("SVL", port)
        what = f"for {port.label} external destinations"
        if not port.external_local:
            self._add("nat", chain, _comment(f"masquerade traffic {what}"), "-j KUBE-MARK-MASQ")
        else:
            if self._node.cluster_cidr:
                self._add(
                    "nat",
                    chain,
                    f"-s {self._node.cluster_cidr} {_comment(f'pod traffic {what}')} -j {cluster}",
                )
            from_here = "-m addrtype --src-type LOCAL"
            self._add("nat", chain, _comment(f"masquerade LOCAL traffic {what}"), from_here, "-j KUBE-MARK-MASQ")
            self._add("nat", chain, _comment(f"route LOCAL traffic {what}"), from_here, f"-j {cluster}")
        if decision.outside:
            self._add("nat", chain, f"-j {local if port.external_local else cluster}")

    def _firewall_chain(self, decision: Decision, external: str) -> None:
        port = decision.port
        chain = iptables_service("FW", port)
        for allowed in allowed_sources(port, self._node):
            source = allowed if "/" in allowed else f"{allowed}/{self._length}"
            match = "" if source in ("0.0.0.0/0", "::/0") else f"-s {source}"
            self._add("nat", chain, match, _comment(f"{port.label} loadbalancer IP"), f"-j {external}")
        self._add("nat", chain, _comment(f"other traffic to {port.label} will be dropped by KUBE-PROXY-FIREWALL"))

    def _recent(self, chain: str, action: str) -> str:
        mask = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" if self._v6 else "255.255.255.255"
        return f"-m recent {action} --name {chain} --mask {mask} --rsource"

    def _endpoint_choice(self, port: ServicePort, chain: str, endpoints: tuple[Endpoint, ...]) -> None:
        named = [
            (_comment(f"{port.label} -> {endpoint.text}"), iptables_endpoint(port, endpoint)) for endpoint in endpoints
        ]
        if port.affinity_s is not None:
            for comment, target in named:
                recent = self._recent(target, f"--rcheck --seconds {port.affinity_s} --reap")
                self._add("nat", chain, comment, recent, f"-j {target}")
        for index, (comment, target) in enumerate(named):
            left = len(named) - index
            chance = f"-m statistic --mode random --probability {probability(left)}" if left > 1 else ""
            self._add("nat", chain, comment, chance, f"-j {target}")

    def _endpoint(self, port: ServicePort, endpoint: Endpoint) -> None:
        chain = iptables_endpoint(port, endpoint)
        comment = _comment(port.label)
        self._add("nat", chain, f"-s {endpoint.address}/{self._length} {comment} -j KUBE-MARK-MASQ")
        recent = self._recent(chain, "--set") if port.affinity_s is not None else ""
        self._add(
            "nat",
            chain,
            f"-p {port.protocol} {comment}",
            recent,
            f"-m {port.protocol} -j DNAT --to-destination {endpoint.text}",
        )


def kubelet_rule_set(family: int) -> RuleSet:
    """Return what kubelet keeps in iptables on a node whose proxy uses nftables."""
    chains: dict[ChainKey, tuple[str, ...]] = {
        (table, "KUBE-KUBELET-CANARY"): () for table in ("mangle", "filter", "nat")
    }
    chains["mangle", "KUBE-IPTABLES-HINT"] = ()
    if family == 6:
        return RuleSet(chains)
    chains["filter", "KUBE-FIREWALL"] = (LOCALNET_RULE,)
    jumps = tuple(Jump("filter", chain, "-j KUBE-FIREWALL") for chain in ("INPUT", "OUTPUT"))
    return RuleSet(chains, jumps)
