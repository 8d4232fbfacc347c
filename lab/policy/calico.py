"""NetworkPolicy in the shape of Calico's Felix 3.31 (iptables): chains of workloads, policies and profiles.

Pure: returns chains and sets of one node in one family. Names, sets and the `cali:` hash in every comment are
computed as Felix computes them (felix/iptables/renderer.go, felix/rules, felix/hash), so they come out as recorded in
kube-proxy-iptables+calico-vxlan.*. The base chains, which lead here, belong to the network plugin. One thing differs
on purpose: a pod that a policy isolates may reach itself by its own Service, by a rule that carries no hash.
"""

import base64
import hashlib
import re
from collections.abc import Iterable

import msgspec

from lab.policy.kube_router import Enforcement
from lab.policy.objects import Block, Direction, Pod, PodPeer, Policy, Selector
from lab.policy.resolve import ResolvedPolicy, ResolvedRule, Target
from lab.policy.sets import AddressSet
from lab.restore import ChainKey, RuleSet

OWNED = re.compile(r"cali-(tw|fw|pi|po|pri|pro)-.+")
OWNED_SETS = re.compile(r"cali[46]0[sn]:.+")
MAX_CHAIN_NAME = 28
MAX_SET_NAME = 31
MAX_MULTIPORT = 15
_ORCHESTRATOR = 'projectcalico.org/orchestrator == "k8s"'
_UNSAFE = re.compile(r"[^\w @%+=:,./-]")


class _Rule(msgspec.Struct, frozen=True):
    """A rule in Felix's own words; `_saved` turns it into iptables-save's."""

    match: str = ""
    action: str = ""
    comment: str = ""
    bare: bool = False
    """Without a hash, and not counted in those of the rules behind it."""


def device(pod: Pod) -> str:
    """Return the name of a workload's device on its node."""
    digest = hashlib.sha1(f"{pod.namespace}.{pod.name}".encode(), usedforsecurity=False)
    return f"cali{digest.hexdigest()[:11]}"


def _limited(prefix: str, name: str) -> str:
    if len(prefix) + len(name) <= MAX_CHAIN_NAME:
        return prefix + name
    digest = base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode()
    return f"{prefix}_{digest}"[:MAX_CHAIN_NAME]


def policy_chain(policy: Policy, direction: Direction) -> str:
    """cali-pi-… or cali-po-… of a policy."""
    prefix = "cali-pi-" if direction == "ingress" else "cali-po-"
    return _limited(prefix, f"knp/{policy.namespace}/{policy.name}")


_LONG = {
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--source": "-s",
    "--destination": "-d",
    "-p": "-p",
}
_NUMBERS = {"17": "udp", "4": "ipencap"}


def _saved(rule: _Rule, hashed: str, length: int) -> str:
    """Order and spell a rule as iptables-save does."""
    words, lead, rest = rule.match.split(), {}, []
    while words:
        word = words.pop(0)
        if word in _LONG:
            value = words.pop(0)
            if word in ("--source", "--destination"):
                value = value if "/" in value else f"{value}/{length}"
            lead[_LONG[word]] = _NUMBERS.get(value, value)
        else:
            rest.append(word.replace("--destination-ports", "--dports"))
    for key in ("-s", "-d"):
        if lead.get(key) in ("0.0.0.0/0", "::/0"):
            del lead[key]
    comments = [text for text in (f"cali:{hashed}" if hashed else "", rule.comment) if text]
    parts = [f"{key} {lead[key]}" for key in ("-s", "-d", "-i", "-o", "-p") if key in lead]
    parts += [f'-m comment --comment "{text}"' for text in comments]
    action = rule.action.replace("--jump", "-j").replace("--goto", "-g").replace("--set-mark", "--set-xmark")
    zeros = re.sub(r"(--mark|--set-xmark) 0/", r"\1 0x0/", " ".join([*rest, action]))
    return " ".join(part for part in (*parts, zeros.strip()) if part)


def _hashed_chain(chain: str, rules: Iterable[_Rule], length: int) -> tuple[str, ...]:
    """Every rule's hash is made of the chain's name and all rules up to it."""
    digest = hashlib.sha224(chain.encode()).digest()
    lines = []
    for rule in rules:
        if rule.bare:
            lines.append(_saved(rule, "", length))
            continue
        comment = f'-m comment --comment "{rule.comment}"' if rule.comment else ""
        text = " ".join(part for part in (f"-A {chain} HASH", comment, rule.match, rule.action) if part)
        digest = hashlib.sha224(digest + text.encode()).digest()
        lines.append(_saved(rule, base64.urlsafe_b64encode(digest).decode()[:16], length))
    return tuple(lines)


def _expression(selector: Selector, prefix: str = "") -> str:
    words = {"Exists": "has({0})", "DoesNotExist": "!has({0})"}
    terms = []
    for term in sorted(selector, key=lambda item: item.key):
        key, values = f"{prefix}{term.key}", ", ".join(f'"{value}"' for value in sorted(term.values))
        if term.operator in words:
            terms.append(words[term.operator].format(key))
        elif len(term.values) == 1:
            terms.append(f"{key} {'==' if term.operator == 'In' else '!='} {values}")
        else:
            terms.append(f"{key} {'in' if term.operator == 'In' else 'not in'} {{{values}}}")
    return " && ".join(terms)


def selector_text(peer: PodPeer, namespace: str) -> str:
    """Return Calico's own selector for a peer, from which the name of its set is made."""
    pods = f"({_ORCHESTRATOR} && {_expression(peer.pods)})" if peer.pods else _ORCHESTRATOR
    if peer.namespaces is None:
        return f'(projectcalico.org/namespace == "{namespace}" && {pods})'
    spaces = _expression(peer.namespaces, "pcns.") or "has(projectcalico.org/namespace)"
    return f"({spaces} && {pods})"


def make_enforcement(policies: Iterable[ResolvedPolicy], pods: Iterable[Pod], node: str, family: int) -> Enforcement:
    """Return what `node` enforces for its own pods, among all `pods`."""
    writer = _Writer(family)
    policies = tuple(policies)
    local = [pod for pod in pods if pod.node == node and pod.address(family) is not None]
    for pod in local:
        writer.pod(pod, [policy for policy in policies if policy.selects(pod)])
    writer.dispatch(local)
    return writer.finished()


class _Writer:
    """Collects chains and sets."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._length = 128 if family == 6 else 32
        self._chains: dict[str, list[_Rule]] = {}
        self._sets: dict[str, AddressSet] = {}

    def finished(self) -> Enforcement:
        """Return rules with their hashes, and sets."""
        chains: dict[ChainKey, tuple[str, ...]] = {
            ("filter", name): _hashed_chain(name, rules, self._length) for name, rules in self._chains.items()
        }
        return Enforcement(RuleSet(chains), self._sets)

    def _set(self, letter: str, content: str, kind: str, entries: frozenset[str]) -> str:
        digest = hashlib.sha224(f"{letter}:{content}".encode()).digest()
        text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        name = f"cali{self._family}0{letter}:{text}"[:MAX_SET_NAME]
        self._sets[name] = AddressSet(name, kind, self._family, "maxelem 1048576", entries)
        return name

    def dispatch(self, pods: Iterable[Pod]) -> None:
        """Write the chains that send a packet to its workload's chain by device."""
        drop = _Rule(comment="Unknown interface", action="--jump DROP")
        devices = sorted(device(pod) for pod in pods)
        for chain, match, prefix in (
            ("cali-from-wl-dispatch", "--in-interface", "fw"),
            ("cali-to-wl-dispatch", "--out-interface", "tw"),
        ):
            rules = [_Rule(f"{match} {name}", f"--goto cali-{prefix}-{name}") for name in devices]
            self._chains[chain] = [*rules, drop]

    def pod(self, pod: Pod, policies: list[ResolvedPolicy]) -> None:
        """Write a workload's two chains, and whatever they lead to."""
        for direction, prefix, profile in (("ingress", "tw", "pri"), ("egress", "fw", "pro")):
            way: Direction = "ingress" if direction == "ingress" else "egress"
            chosen = [policy for policy in policies if _rules(policy, way) is not None]
            names = [self._policy(policy, way) for policy in chosen]
            profiles = [
                self._profile(profile, f"kns.{pod.namespace}", direction, accept=True),
                self._profile(profile, f"ksa.{pod.namespace}.{pod.service_account}", direction, accept=False),
            ]
            rules = [*_start(way), *self._tier(pod, names), *_profiles(profiles)]
            self._chains[f"cali-{prefix}-{device(pod)}"] = rules

    def _profile(self, prefix: str, name: str, direction: str, *, accept: bool) -> str:
        chain = _limited(f"cali-{prefix}-", name)
        comment = f"Profile {name} {direction}"
        action = "--jump MARK --set-mark 0x10000/0x10000" if accept else ""
        self._chains[chain] = [_Rule(comment=comment, action=action)]
        return chain

    def _tier(self, pod: Pod, chains: list[str]) -> Iterable[_Rule]:
        if not chains:
            return
        yield _Rule(comment="Start of tier default", action="--jump MARK --set-mark 0/0x20000")
        accepted = _Rule("-m mark --mark 0x10000/0x10000", "--jump RETURN", comment="Return if policy accepted")
        for chain in chains:
            yield _Rule("-m mark --mark 0/0x20000", f"--jump {chain}")
            yield accepted
        own = pod.address(self._family)
        itself = f"--source {own} --destination {own}"
        yield _Rule(itself, "--jump MARK --set-mark 0x10000/0x10000", "Pod to itself", bare=True)
        yield _Rule(itself, "--jump RETURN", "Pod to itself", bare=True)
        yield _Rule(
            "-m mark --mark 0/0x20000",
            "--jump DROP",
            comment="End of tier default. Drop if no policies passed packet",
        )

    def _policy(self, policy: ResolvedPolicy, direction: Direction) -> str:
        chain = policy_chain(policy.policy, direction)
        if chain in self._chains:
            return chain
        rules: list[_Rule] = []
        accepted = _Rule("-m mark --mark 0x10000/0x10000", "--jump RETURN")
        comment = _UNSAFE.sub("_", f"KubernetesNetworkPolicy {policy.label} {direction}")
        for rule in _rules(policy, direction) or ():
            for group in self._groups(policy, rule, direction):
                if rules:
                    rules.append(accepted)
                rules += group
        if rules:
            rules[0] = msgspec.structs.replace(rules[0], comment=comment)
        self._chains[chain] = rules
        return chain

    def _groups(self, policy: ResolvedPolicy, rule: ResolvedRule, direction: Direction) -> Iterable[list[_Rule]]:
        """One group of rules for each protocol and peer, as Calico splits a Kubernetes rule."""
        side = "source" if direction == "ingress" else "destination"
        short = "src" if direction == "ingress" else "dst"
        for protocol, ports in self._ports(rule):
            if rule.everybody:
                yield [_accept(protocol, "", "", ports)]
            for group in rule.pods:
                text = selector_text(group.peer, policy.policy.namespace)
                name = self._set("s", text, "hash:net", group.addresses)
                yield [_accept(protocol, "", f"-m set --match-set {name} {short}", ports)]
            for block in rule.blocks:
                yield _block_rules(protocol, block, side, ports)

    def _ports(self, rule: ResolvedRule) -> Iterable[tuple[str, str]]:
        """(protocol match, port match) of a rule; ports of a protocol share a match, names have sets."""
        if rule.everything:
            yield "", ""
        for protocol in sorted({port.protocol for port in rule.ports}):
            ports = [port for port in rule.ports if port.protocol == protocol]
            if any(not port.first for port in ports):
                yield f"-p {protocol}", ""
                continue
            spans = [str(port.first) if port.first == port.last else f"{port.first}:{port.last}" for port in ports]
            for part in _portions(spans):
                yield f"-p {protocol}", f"-m multiport --destination-ports {','.join(part)}"
        for protocol, name in sorted({(target.protocol, target.name) for target in rule.targets}):
            found = [target for target in rule.targets if (target.protocol, target.name) == (protocol, name)]
            yield f"-p {protocol}", f"-m set --match-set {self._named(protocol, name, found)} dst,dst"

    def _named(self, protocol: str, name: str, targets: list[Target]) -> str:
        entries = frozenset(
            f"{address},{protocol}:{target.number}" for target in targets for address in target.addresses
        )
        # Which pods a name is resolved at depends on the rule: the members tell sets of one name apart.
        return self._set("n", f"{protocol},{name},{sorted(entries)}", "hash:ip,port", entries)


def _rules(policy: ResolvedPolicy, direction: Direction) -> tuple[ResolvedRule, ...] | None:
    return policy.ingress if direction == "ingress" else policy.egress


def _start(direction: Direction) -> Iterable[_Rule]:
    yield _Rule("-m conntrack --ctstate RELATED,ESTABLISHED", "--jump ACCEPT")
    yield _Rule("-m conntrack --ctstate INVALID", "--jump DROP")
    yield _Rule(action="--jump MARK --set-mark 0/0x30000")
    if direction == "egress":
        what = "encapped packets originating in workloads"
        yield _Rule("-p 17 -m multiport --destination-ports 4789", "--jump DROP", f"Drop VXLAN {what}")
        yield _Rule("-p 4", "--jump DROP", f"Drop IPinIP {what}")


def _profiles(chains: Iterable[str]) -> Iterable[_Rule]:
    for chain in chains:
        yield _Rule(action=f"--jump {chain}")
        yield _Rule("-m mark --mark 0x10000/0x10000", "--jump RETURN", "Return if profile accepted")
    yield _Rule(action="--jump DROP", comment="Drop if no profiles matched")


def _accept(protocol: str, nets: str, peer: str, ports: str) -> _Rule:
    match = " ".join(part for part in (protocol, nets, peer, ports) if part)
    return _Rule(match, "--jump MARK --set-mark 0x10000/0x10000")


def _block_rules(protocol: str, block: Block, side: str, ports: str) -> list[_Rule]:
    if not block.excepted:
        return [_accept(protocol, f"--{side} {block.cidr}", "", ports)]
    holes = [_Rule(f"--{side} {text}", "--jump MARK --set-mark 0/0x80000") for text in block.excepted]
    marked = "-m mark --mark 0x80000/0x80000"
    accept = _accept(protocol, f"--{side} {block.cidr}", "", f"{ports} {marked}".strip())
    return [_Rule(action="--jump MARK --set-mark 0x80000/0x180000"), *holes, accept]


def _portions(spans: list[str]) -> Iterable[list[str]]:
    """Cut a list of ports to what one multiport match takes; a range counts twice."""
    part: list[str] = []
    size = 0
    for span in spans:
        weight = 2 if ":" in span else 1
        if size + weight > MAX_MULTIPORT:
            yield part
            part, size = [], 0
        part.append(span)
        size += weight
    if part:
        yield part
