"""Who made a rule, and which Kubernetes object it serves, as far as its names and comments tell.

A rule that nobody known signs is the administrator's. Names as in: kube-proxy's pkg/proxy/{iptables,nftables},
kubelet's kubelet_network_linux.go, flannel's pkg/trafficmngr, Felix' rules package, kube-router's netpol, Docker, ufw.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

from agent.host.netfilter.hostfirewalls import DOCKER_USER, HostFirewalls
from agent.host.netfilter.rules import NATIVE, Chain, Rule, Table
from agent.host.netfilter.xtables import parse

ADMINISTRATOR: Final = "administrator"
_CHAINS: Final = tuple(
    (re.compile(pattern), owner)
    for pattern, owner in (
        (r"KUBE-(ROUTER-|POD-FW-|NWPLCY-)", "kube-router"),
        (r"KUBE-(FIREWALL|KUBELET-CANARY|IPTABLES-HINT|MARK-DROP)$", "kubelet"),
        (r"KUBE-", "kube-proxy"),
        (r"FLANNEL-", "flannel"),
        (r"(.*-)?cali-", "calico"),
        (r"(OLD_)?CILIUM_", "cilium"),
        (r"(?i)kubereach", "kubereach-lab"),
        (r"CNI-", "cni"),
        (r"DOCKER", "docker"),
        (r"ufw6?-", "ufw"),
        (r"f2b-", "fail2ban"),
        (r"LIBVIRT_", "libvirt"),
    )
)
_TABLES: Final = (
    (re.compile(r"kube-proxy$"), "kube-proxy"),
    (re.compile(r"calico"), "calico"),
    (re.compile(r"firewalld"), "firewalld"),
    (re.compile(r"flannel"), "flannel"),
    (re.compile(r"(?i)kubereach"), "kubereach-lab"),
    (re.compile(r"docker"), "docker"),
    (re.compile(r"cilium"), "cilium"),
    (re.compile(r"libvirt"), "libvirt"),
    (re.compile(r"f2b-"), "fail2ban"),
    (re.compile(r"cni_hostport|cni-"), "cni"),
)
_COMMENTS: Final = (
    (re.compile(r"cali:"), "calico"),
    (re.compile(r"flanneld "), "flannel"),
    (re.compile(r"kube-router netpol"), "kube-router"),
    (re.compile(r"cilium"), "cilium"),
    (re.compile(r"CNI (firewall plugin|portfwd)|name: \"|CNI DN"), "cni"),
    (re.compile(r"kubereach"), "kubereach-lab"),
    (re.compile(r"kubernetes (service|forwarding|load balancer|health check|externally|postrouting)"), "kube-proxy"),
)
_COMMENT: Final = re.compile(r'--comment "?([^"]*)"?(?= -[jgmd]|$)')
_JUMP: Final = re.compile(r" -[jg] (\S+)")
_NAME: Final = r"([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)"
_SERVICE: Final = re.compile(_NAME + r"(:[a-z0-9-]+)?")
_SERVICE_CHAIN: Final = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|XLB)-([A-Z0-9]+)$")
_ENDPOINT_CHAIN: Final = re.compile(r"KUBE-SEP-[A-Z0-9]+$")
_NFT_SERVICE: Final = re.compile(
    r"(?:service|endpoint|external|local|firewall|affinity)-[A-Z0-9]{8}-" + _NAME + r"/(?:tcp|udp|sctp)/([a-z0-9-]*)"
)
_ROUTER_POLICY: Final = re.compile(_NAME + r" (?:ingress|egress|policy)\b")
_ROUTER_POD: Final = re.compile(_NAME + r" (?:in|out|log-drop|reject)$")
_CALICO_POLICY: Final = re.compile(r"(?:KubernetesNetworkPolicy |Policy |knp\.default\.)" + _NAME)
_CALICO_OLD_POLICY: Final = re.compile(r"Policy ([a-z0-9-]+)/knp\.default\.([a-z0-9.-]+)")
_CALICO_CHAIN: Final = re.compile(r"cali-p[io]-knp/" + _NAME)
_PROFILE: Final = re.compile(r"(?:Profile |cali-pr[io]-)(kns\.([a-z0-9-]+)|ksa\.([a-z0-9-]+)\.([a-z0-9.-]+))")


class Owners:
    """Tells owner and target of the rules of a rule set, knowing all its chains (they hash names of Services)."""

    def __init__(self, tables: tuple[Table, ...]) -> None:
        self._tables = tables
        self._firewalls = HostFirewalls(tables)

    @cached_property
    def _by_chain(self) -> dict[tuple[str, str, str], str]:
        """What a chain serves, by backend, family and key. Looks at all rules, and few say nothing by themselves."""
        known: dict[tuple[str, str, str], str] = {}
        for table in self._tables:
            for chain in table.chains.values():
                _learn(known, chain)
        return known

    def owner(self, rule: Rule) -> str:
        """The rule's owner."""
        if rule.backend == NATIVE:
            for pattern, owner in _TABLES:
                if pattern.match(rule.table):
                    return owner
            comment, target = rule.comment, _target_chain(rule)
        else:
            parsed = parse(rule.text)
            comment, target = " ".join(parsed.comments), parsed.target
        is_users = rule.chain == DOCKER_USER and target != "RETURN"
        for name in (target,) if is_users else (rule.chain, target):
            for pattern, owner in _CHAINS:
                if name and pattern.match(name):
                    return owner
        for pattern, owner in _COMMENTS:
            if pattern.search(comment):
                return owner
        return self._firewalls.owner(rule, target) or ADMINISTRATOR

    def target(self, rule: Rule) -> str:
        """The object that the rule serves, "" if nothing tells."""
        if rule.backend == NATIVE:
            return _native_target(rule)
        parsed = parse(rule.text)
        told = _commented(rule.chain, " ".join(parsed.comments))
        if told:
            return told
        for name in (rule.chain, parsed.target):
            key = _key(name)
            if key and (known := self._by_chain.get((rule.backend, rule.family, key))):
                return known
        return ""


def _learn(known: dict[tuple[str, str, str], str], chain: Chain) -> None:
    """A chain serves what the comments in it, or on the way to it, say."""
    for rule in chain.rules:
        if rule.backend == NATIVE:
            continue
        # By a pattern, not parsed: this looks at all rules, of which a walk meets a few.
        target = _commented(rule.chain, " ".join(_COMMENT.findall(rule.text)))
        if not target:
            continue
        for name in (chain.name, *_JUMP.findall(rule.text)):
            key = _key(name)
            if key and not (name == chain.name and chain.name.startswith("KUBE-POD-FW-") and "Pod" not in target):
                known.setdefault((rule.backend, rule.family, key), target)


def _target_chain(rule: Rule) -> str:
    for expression in rule.expressions or ():
        kind, inner = next(iter(expression.items()))
        if kind in {"jump", "goto"}:
            return str(inner["target"])
    return ""


def _key(chain: str) -> str:
    """Chains of one Service port share a hash."""
    service = _SERVICE_CHAIN.match(chain)
    if service:
        return service[1]
    own = _ENDPOINT_CHAIN.match(chain) or chain.startswith(("KUBE-NWPLCY-", "KUBE-POD-FW-", "cali-pi-", "cali-po-"))
    return chain if own and chain not in _SHARED else ""


_SHARED: Final = {"KUBE-NWPLCY-COMMON", "KUBE-NWPLCY-DEFAULT", "KUBE-NWPLCY-TAIL"}


def _commented(chain: str, comment: str) -> str:
    if not comment:
        return ""
    if comment.startswith("cali:"):
        return _calico(comment)
    if chain.startswith(("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")):
        pod = _ROUTER_POD.match(comment)
        if pod:
            return f"Pod {pod[1]}"
        policy = _ROUTER_POLICY.match(comment)
        return f"NetworkPolicy {policy[1]}" if policy else ""
    if chain.startswith("KUBE-"):
        service = _SERVICE.search(comment)
        return f"Service {service[1]}{service[2] or ''}" if service else ""
    return ""


def _calico(text: str) -> str:
    old = _CALICO_OLD_POLICY.search(text)
    if old:
        return f"NetworkPolicy {old[1]}/{old[2]}"
    policy = _CALICO_POLICY.search(text) or _CALICO_CHAIN.search(text)
    if policy:
        return f"NetworkPolicy {policy[1]}"
    profile = _PROFILE.search(text)
    if profile:
        return f"Namespace {profile[2]}" if profile[2] else f"ServiceAccount {profile[3]}/{profile[4]}"
    return ""


def _native_target(rule: Rule) -> str:
    to = _target_chain(rule)
    for name in (rule.chain, to):
        service = _NFT_SERVICE.match(name)
        if service:
            return f"Service {service[1]}{':' + service[2] if service[2] else ''}"
    told = _calico(rule.comment) if "cali:" in rule.comment else ""
    if told or "cali" not in rule.table:
        return told
    return _calico(f"{rule.chain} ") or _calico(f"{to} ")
