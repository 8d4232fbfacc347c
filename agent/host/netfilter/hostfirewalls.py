"""Docker's and firewalld's rules of iptables and ebtables that bear no name of theirs, known by their exact form.

Learned from the chains that do bear one: which bridges and published ports are Docker's, whether firewalld is at work.
An administrator's rule about a bridge of Docker's is the administrator's. Sources: moby's libnetwork/drivers/bridge and
libnetwork/iptables, firewalld's core/ipXtables.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

from agent.host.netfilter.rules import NATIVE, Rule, Table

# What Docker leaves to the administrator, but for the rule that ends it.
DOCKER_USER: Final = "DOCKER-USER"
_BRIDGE: Final = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")
_DEVICE: Final = re.compile(r"(?:^|\s)-[io] (\S+)")
_PUBLISHED: Final = re.compile(r"-p (\S+) .*-j DNAT --to-destination \[?([0-9a-f.:]+?)\]?:(\d+)$")
_HAIRPIN: Final = re.compile(r"-s (\S+)/(?:32|128) -d \1/(?:32|128) -p (\S+) -m \2 --dport (\d+) -j MASQUERADE")
_OF_BRIDGE: Final = tuple(
    re.compile(form)
    for form in (
        r"-o (\S+) -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        r"-i (\S+) (?:! )?-o \1 -j (?:ACCEPT|DROP)",
        r"-s \S+ ! -o (\S+) -j (?:MASQUERADE|SNAT --to-source \S+)",
        r"-o (\S+) -m addrtype --src-type LOCAL -j MASQUERADE",
    )
)
_FIREWALLD_MARK: Final = "INPUT_direct"
_FIREWALLD_CHAIN: Final = re.compile(
    r"(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)_(ZONES(_SOURCE)?|direct|POLICIES_(pre|post))$|RFC3964_IPv4$|"
    r"(IN|OUT|FWDI|FWDO|FWD|PRE|POST|FWI|FWO)_\S"
)
_FIREWALLD_RULES: Final = {
    "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-m conntrack --ctstate INVALID -j DROP",
    '-m conntrack --ctstate INVALID -j LOG --log-prefix "STATE_INVALID_DROP: "',
    '-j LOG --log-prefix "FINAL_REJECT: "',
    "-i lo -j ACCEPT",
    "-o lo -j ACCEPT",
    "-j REJECT --reject-with icmp-host-prohibited",
    "-j REJECT --reject-with icmp6-adm-prohibited",
    "-p ipv6-icmp -m icmp6 --icmpv6-type 134 -j ACCEPT",
    "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
    "-m rpfilter --validmark --invert -j DROP",
    '-m rpfilter --validmark --invert -j LOG --log-prefix "rpfilter_DROP: "',
}
_BASE: Final = {"INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"}


class HostFirewalls:
    """What a rule set tells of Docker and firewalld in it."""

    def __init__(self, tables: tuple[Table, ...]) -> None:
        self._firewalld: set[tuple[str, str]] = set()
        self._bridges: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._published: dict[tuple[str, str], set[tuple[str, str, str]]] = defaultdict(set)
        for table in tables:
            at = (table.backend, table.family)
            if _FIREWALLD_MARK in table.chains:
                self._firewalld.add(at)
            if table.backend == NATIVE:
                continue
            for name, chain in table.chains.items():
                if name.startswith("DOCKER") and name != DOCKER_USER:
                    for rule in chain.rules:
                        self._bridges[at].update(_DEVICE.findall(rule.text))
                        if published := _PUBLISHED.search(rule.text):
                            protocol, address, port = published.groups()
                            self._published[at].add((address, protocol, port))

    def owner(self, rule: Rule, target: str) -> str:
        """The owner, "" for a rule that is neither's. `target` is the chain that the rule jumps to."""
        at = (rule.backend, rule.family)
        if at in self._firewalld and (
            _FIREWALLD_CHAIN.match(rule.chain)
            or _FIREWALLD_CHAIN.match(target)
            or (rule.chain in _BASE and rule.text in _FIREWALLD_RULES)
        ):
            return "firewalld"
        if rule.chain not in {"FORWARD", "POSTROUTING"}:
            return ""
        hairpin = _HAIRPIN.fullmatch(rule.text)
        if hairpin and hairpin.groups() in self._published[at]:
            return "docker"
        for form in _OF_BRIDGE:
            found = form.fullmatch(rule.text)
            if found and (found[1] in self._bridges[at] or _BRIDGE.fullmatch(found[1])):
                return "docker"
        return ""
