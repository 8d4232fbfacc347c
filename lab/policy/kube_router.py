"""NetworkPolicy in the shape of kube-router's policy controller, which stands beside flannel.

Pure: returns chains and sets of one node in one family. As recorded in kube-proxy-iptables+flannel+kube-router.*,
names of sets and uuid comments are computed as kube-router computes them; names of chains cannot be the same, since
kube-router mixes the time of its sync into them. Two things differ on purpose, because kube-router is wrong there:
a policy of both directions has a chain for each (kube-router's single chain lets an ingress rule accept what a
selected pod sends to another selected pod), and a pod may always reach itself by its own Service.
"""

import base64
import hashlib
import re
from collections.abc import Iterable

import msgspec

from lab.policy.objects import Block, Direction, Pod
from lab.policy.resolve import ResolvedPolicy, ResolvedRule, block_networks
from lab.policy.sets import AddressSet
from lab.restore import ChainKey, Jump, RuleSet

OWNED = re.compile(r"KUBE-(POD-FW|NWPLCY|ROUTER)-.+")
OWNED_SETS = re.compile(r"(inet6:)?KUBE-(SRC|DST)-[A-Z2-7]{16}")
NODE_PORTS = "30000:32767"

_OK = "0x10000/0x10000"
_DONE = "0x20000/0x20000"
_MARK_OK = f"-j MARK --set-xmark {_OK}"
_IF_OK = f"-m mark --mark {_OK}"


class Enforcement(msgspec.Struct, frozen=True):
    """All rules and sets of one owner on one node in one family."""

    rules: RuleSet
    sets: dict[str, AddressSet]


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16]


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


def pod_chain(pod: Pod) -> str:
    """KUBE-POD-FW-… of a pod."""
    return f"KUBE-POD-FW-{_hash(pod.namespace + pod.name)}"


def make_enforcement(
    policies: Iterable[ResolvedPolicy], pods: Iterable[Pod], node: str, family: int, service_cidrs: Iterable[str]
) -> Enforcement:
    """Return what `node` enforces for its own pods, among all `pods`."""
    writer = _Writer(family)
    policies = tuple(policies)
    writer.common()
    for policy in policies:
        writer.policy(policy)
    writer.head(service_cidrs)
    local = [pod for pod in pods if pod.node == node and pod.address(family) is not None]
    for pod in sorted(local, key=lambda item: item.addresses):
        writer.pod(pod, [policy for policy in policies if policy.selects(pod)])
    return writer.finished()


class _Writer:
    """Collects rules and sets, chain by chain."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._version = f"IPv{family}"
        self._length = 128 if family == 6 else 32
        self._chains: dict[ChainKey, list[str]] = {}
        self._sets: dict[str, AddressSet] = {}

    def _add(self, chain: str, *parts: str) -> None:
        self._chains.setdefault(("filter", chain), []).append(" ".join(part for part in parts if part))

    def _set(self, side: str, text: str, entries: Iterable[str], kind: str = "hash:ip") -> str:
        prefix = "inet6:" if self._family == 6 else ""
        name = f"{prefix}KUBE-{side.upper()}-{_hash(text)}"
        self._sets[name] = AddressSet(name, kind, self._family, "timeout 0", frozenset(entries))
        return f"-m set --match-set {name} {side}"

    def common(self) -> None:
        """Write KUBE-NWPLCY-COMMON, -DEFAULT and -TAIL."""
        common = "KUBE-NWPLCY-COMMON"
        # The recorded comments of these two carry quotation marks of their own.
        self._add(
            common, _comment('\\"rule to drop invalid state for pod\\"'), "-m conntrack --ctstate INVALID -j DROP"
        )
        self._add(
            common,
            _comment('\\"rule for stateful firewall for pod\\"'),
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        )
        match = "-p icmp {} -m icmp --icmp-type {} -j ACCEPT"
        messages: tuple[tuple[int, str], ...] = _ICMP
        if self._family == 6:
            match, messages = "-p ipv6-icmp {} -m icmp6 --icmpv6-type {} -j ACCEPT", _ICMPV6
        for number, name in messages:
            self._add(common, match.format(_comment(f"allow icmp {name}"), number))
        note = "rule to mark traffic matching a network policy"
        self._add("KUBE-NWPLCY-DEFAULT", _comment(note), _MARK_OK)
        self._add("KUBE-NWPLCY-TAIL", _comment("accept netpol-ok"), f"-m mark --mark {_DONE} -j ACCEPT")

    def head(self, service_cidrs: Iterable[str]) -> None:
        """Write what lets Service addresses pass to where they are translated."""
        chain = "KUBE-ROUTER-INPUT"
        for cidr in service_cidrs:
            note = "allow traffic to primary/secondary cluster IP range"
            mark = _hash(f"{chain}-mcomment--comment{note}-d{cidr}-jRETURN")
            self._add(chain, f"-d {cidr} {_comment(f'{note} - {mark}')} -j RETURN")
        for protocol in ("tcp", "udp", "sctp"):
            note = f"allow LOCAL {protocol.upper()} traffic to node ports"
            match = f"-maddrtype--dst-typeLOCAL-mmultiport--dports{NODE_PORTS}-jRETURN"
            mark = _hash(f"{chain}-p{protocol}-mcomment--comment{note}{match}")
            self._add(
                chain,
                f"-p {protocol} {_comment(f'{note} - {mark}')}",
                f"-m addrtype --dst-type LOCAL -m multiport --dports {NODE_PORTS} -j RETURN",
            )

    def _policy_chain(self, policy: ResolvedPolicy, direction: Direction) -> str:
        both = policy.ingress is not None and policy.egress is not None
        suffix = "egress" if both and direction == "egress" else ""
        return f"KUBE-NWPLCY-{_hash(policy.policy.namespace + policy.policy.name + self._version + suffix)}"

    def policy(self, policy: ResolvedPolicy) -> None:
        """Write a policy's chains and sets."""
        for direction, rules in _directions(policy):
            chain = self._policy_chain(policy, direction)
            self._chains[("filter", chain)] = []
            name = policy.policy.namespace + policy.policy.name
            side = "dst" if direction == "ingress" else "src"
            selected = self._set(side, name + self._version, policy.selected)
            for rule in rules:
                self._rule(chain, policy, direction, rule, selected)

    def _rule(
        self, chain: str, policy: ResolvedPolicy, direction: Direction, rule: ResolvedRule, selected: str
    ) -> None:
        base = f"{policy.policy.namespace}{policy.policy.name}{direction}rule{rule.index}{self._version}"
        side = "src" if direction == "ingress" else "dst"
        peers: list[tuple[str, str]] = []
        if rule.everybody:
            peers.append(("all", ""))
        if rule.pods:
            entries = frozenset[str]().union(*(group.addresses for group in rule.pods))
            peers.append(("pods", self._set(side, f"{base}pod", entries)))
        if rule.blocks:
            entries = frozenset(_block_entries(rule.blocks))
            peers.append(("cidr", self._set(side, f"{base}ipblock", entries, "hash:net")))
        for what, peer in peers:
            comment = _comment(f"{policy.label} {direction} {what}")
            for protocol, ports, target in self._port_matches(rule, base):
                # ingress: peer src, selected dst; egress the other way; a named port narrows the destination
                ingress = direction == "ingress"
                sets = (peer, target or selected, "") if ingress else (selected, peer, target)
                match = " ".join(part for part in (protocol, comment, *sets, ports) if part)
                self._add(chain, match, _MARK_OK)
                self._add(chain, match, f"{_IF_OK} -j RETURN")

    def _port_matches(self, rule: ResolvedRule, base: str) -> Iterable[tuple[str, str, str]]:
        """Yield protocol match, port match and match of destinations, "" where there is none."""
        if rule.everything:
            yield "", "", ""
        for port in rule.ports:
            span = f"{port.first}" if port.first == port.last else f"{port.first}:{port.last}"
            ports = f"-m {port.protocol} --dport {span}" if port.first else ""
            yield f"-p {port.protocol}", ports, ""
        for target in rule.targets:
            text = f"{base}namedport{target.protocol}{target.name}{target.number}"
            destinations = self._set("dst", text, target.addresses)
            yield f"-p {target.protocol}", f"-m {target.protocol} --dport {target.number}", destinations

    def pod(self, pod: Pod, policies: list[ResolvedPolicy]) -> None:
        """Write a pod's chain and the rules that lead into it."""
        address = f"{pod.address(self._family)}/{self._length}"
        chain, label = pod_chain(pod), f"{pod.namespace}/{pod.name}"
        to_pod, from_pod = f"-d {address}", f"-s {address}"
        self._add(chain, _comment("common netpol rules"), "-j KUBE-NWPLCY-COMMON")
        self._add(chain, to_pod, _comment("from local node"), "-m addrtype --src-type LOCAL -j ACCEPT")
        isolated = set()
        for policy in policies:
            for direction, _ in _directions(policy):
                isolated.add(direction)
                side = to_pod if direction == "ingress" else from_pod
                self._add(
                    chain,
                    side,
                    _comment(f"{policy.label} policy"),
                    f"-j {self._policy_chain(policy, direction)}",
                )
        if isolated:
            self._add(chain, from_pod, to_pod, _comment("pod to itself"), _MARK_OK)
        for direction, side in (("egress", from_pod), ("ingress", to_pod)):
            if direction not in isolated:
                self._add(chain, side, _comment(f"default {direction}"), "-j KUBE-NWPLCY-DEFAULT")
        unmarked = f"-m mark ! --mark {_OK}"
        limit = "-m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100"
        self._add(chain, _comment(f"{label} log-drop"), unmarked, limit)
        kind = "icmp6" if self._family == 6 else "icmp"
        self._add(chain, _comment(f"{label} reject"), unmarked, f"-j REJECT --reject-with {kind}-port-unreachable")
        self._add(chain, "-j MARK --set-xmark 0x0/0x10000")
        self._add(chain, _comment("set netpol-ok mark"), f"-j MARK --set-xmark {_DONE}")
        incoming, outgoing = _comment(f"{label} in"), _comment(f"{label} out")
        for side, comment in ((to_pod, incoming), (from_pod, outgoing)):
            self._add("KUBE-ROUTER-FORWARD", side, comment, f"-j {chain}")
            bridged = "-m physdev --physdev-is-bridged"
            self._add("KUBE-ROUTER-FORWARD", side, bridged, comment, f"-j {chain}")
        self._add("KUBE-ROUTER-INPUT", from_pod, outgoing, f"-j {chain}")
        self._add("KUBE-ROUTER-OUTPUT", to_pod, incoming, f"-j {chain}")
        self._add("KUBE-ROUTER-OUTPUT", from_pod, outgoing, f"-j {chain}")

    def finished(self) -> Enforcement:
        """Add the ends of the head chains and the jumps to them."""
        jumps = []
        for builtin in ("INPUT", "FORWARD", "OUTPUT"):
            chain = f"KUBE-ROUTER-{builtin}"
            note = "rule to explicitly handle traffic for network policies ACCEPT/REJECT decision"
            self._add(chain, _comment(note), "-j KUBE-NWPLCY-TAIL")
            note = "rule to explicitly ACCEPT traffic that comply to network policies"
            self._add(chain, _comment(note), f"-m mark --mark {_DONE} -j ACCEPT")
            mark = _hash(f"{builtin}-mcomment--commentkube-router netpol-j{chain}")
            jumps.append(Jump("filter", builtin, f"{_comment(f'kube-router netpol - {mark}')} -j {chain}"))
        chains = {key: tuple(rules) for key, rules in self._chains.items()}
        return Enforcement(RuleSet(chains, tuple(jumps)), self._sets)


_ICMP = ((8, "echo requests"), (3, "destination unreachable messages"), (11, "time exceeded messages"))
_ICMPV6 = (
    (128, "echo requests"),
    (1, "destination unreachable messages"),
    (3, "time exceeded messages"),
    (135, "neighbor solicitation messages"),
    (136, "neighbor advertisement messages"),
    (129, "echo reply messages"),
)


def _directions(policy: ResolvedPolicy) -> list[tuple[Direction, tuple[ResolvedRule, ...]]]:
    found: list[tuple[Direction, tuple[ResolvedRule, ...]]] = []
    if policy.ingress is not None:
        found.append(("ingress", policy.ingress))
    if policy.egress is not None:
        found.append(("egress", policy.egress))
    return found


def _block_entries(blocks: tuple[Block, ...]) -> Iterable[str]:
    if len(blocks) == 1:
        block = blocks[0]
        yield from _entries(block.cidr)
        for text in block.excepted:
            yield from (f"{entry} nomatch" for entry in _entries(text))
        return
    # With several blocks, "nomatch" of one would cut a hole into another: write what is left of each.
    for block in blocks:
        for network in block_networks(block):
            yield from _entries(str(network))


def _entries(cidr: str) -> Iterable[str]:
    """hash:net knows no /0, and prints single addresses without length."""
    address, _, length = cidr.partition("/")
    if length == "0":
        yield from ("::/1", "8000::/1") if ":" in address else ("0.0.0.0/1", "128.0.0.0/1")
    elif length in ("", "128" if ":" in address else "32"):
        yield address
    else:
        yield cidr
