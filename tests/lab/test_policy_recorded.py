"""Enforcement's rules against what kube-router and Calico wrote for the same objects (shared/recorded).

Calico: everything is equal, hashes in comments and names of sets included, but for the rule pair by which an isolated
pod may reach itself. kube-router: names of pod and policy chains are normalised, since it mixes the time of its sync
into them, and a policy of both directions has two chains here (see lab/policy/kube_router.py).
"""

import re

from lab.policy import calico, kube_router
from lab.policy.kube_router import Enforcement
from lab.policy.objects import Pod, read_pods, read_policy
from lab.policy.resolve import ResolvedPolicy, resolve
from lab.policy.sets import AddressSet
from lab.restore import parse_saved
from tests.lab.recorded import recorded_objects, recorded_text

FLANNEL = "kube-proxy-iptables+flannel+kube-router"
CALICO = "kube-proxy-iptables+calico-vxlan"


def load(name: str) -> tuple[tuple[Pod, ...], tuple[ResolvedPolicy, ...]]:
    """Pods and resolved policies of a recording. It holds no Namespaces: their name labels are enough here."""
    pods = read_pods(recorded_objects(name, "Pod"), [])
    return pods, resolve([read_policy(item) for item in recorded_objects(name, "NetworkPolicy")], pods, 4)


def recorded_sets(name: str, pattern: re.Pattern[str]) -> dict[str, tuple[str, frozenset[str]]]:
    """(type, entries) of the recorded sets whose names match."""
    sets: dict[str, tuple[str, set[str]]] = {}
    for line in recorded_text(name, "ipset").splitlines():
        verb, label, rest = line.split(" ", 2)
        if not pattern.fullmatch(label):
            continue
        if verb == "create":
            sets[label] = (rest.split()[0], set())
        else:
            sets[label][1].add(rest.replace(" timeout 0", ""))
    return {label: (kind, frozenset(entries)) for label, (kind, entries) in sets.items()}


def own_sets(sets: dict[str, AddressSet]) -> dict[str, tuple[str, frozenset[str]]]:
    """Our sets in the same form."""
    return {name: (value.kind, value.entries) for name, value in sets.items()}


def chains_of(made: Enforcement) -> dict[str, tuple[str, ...]]:
    """Our chains of the filter table."""
    return {chain: rules for (_, chain), rules in made.rules.chains.items()}


def test_calico_chains_are_felix_own() -> None:
    """The same chains, the same rules, the same hashes; only the pair for a pod to itself is more."""
    pods, policies = load(CALICO)
    made = calico.make_enforcement(policies, pods, "n1", 4)
    pattern = re.compile(r"cali-(tw|fw|pi|po|pri|pro|from-wl-dispatch|to-wl-dispatch).*")
    saved = parse_saved(recorded_text(CALICO, "iptables")).chains
    real = {key[1]: rules for key, rules in saved.items() if key[0] == "filter" and pattern.fullmatch(key[1])}
    ours = {
        chain: tuple(rule for rule in rules if '"Pod to itself"' not in rule)
        for chain, rules in chains_of(made).items()
    }
    assert ours == real
    assert sum('"Pod to itself"' in rule for rules in chains_of(made).values() for rule in rules) == 4


def test_calico_sets_are_felix_own() -> None:
    """Names derive from Calico's canonical selectors, members from the pods."""
    pods, policies = load(CALICO)
    made = calico.make_enforcement(policies, pods, "n1", 4)
    assert own_sets(made.sets) == recorded_sets(CALICO, calico.OWNED_SETS)


def test_kube_router_sets_are_its_own() -> None:
    """Names, types, members and exceptions of every set are the recorded ones."""
    pods, policies = load(FLANNEL)
    made = kube_router.make_enforcement(policies, pods, "n1", 4, ["10.96.0.0/16"])
    assert own_sets(made.sets) == recorded_sets(FLANNEL, kube_router.OWNED_SETS)


def renamed(rules: tuple[str, ...], names: dict[str, str]) -> tuple[str, ...]:
    """Rules with chain names replaced by what they stand for."""
    return tuple(re.sub(r"KUBE-(?:POD-FW|NWPLCY)-[A-Z2-7]{16}", lambda found: names[found[0]], rule) for rule in rules)


def meaning(chains: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """What each hashed chain stands for, told from the comments of the rules that lead to it."""
    found: dict[str, str] = {}
    for rules in chains.values():
        for rule in rules:
            match = re.search(r'"(\S+) (in|out|policy)" -j (KUBE-(?:POD-FW|NWPLCY)-[A-Z2-7]{16})$', rule)
            if match:
                found[match[3]] = f"{'policy' if match[2] == 'policy' else 'pod'}:{match[1]}"
    return found


def test_kube_router_chains_are_its_own() -> None:
    """Chain by chain the recorded rules, where a policy's two chains count as one and its two jumps as one."""
    pods, policies = load(FLANNEL)
    made = kube_router.make_enforcement(policies, pods, "n1", 4, ["10.96.0.0/16"])
    saved = parse_saved(recorded_text(FLANNEL, "iptables")).chains
    pattern = re.compile(r"KUBE-(POD-FW|NWPLCY|ROUTER)-.+")
    real = {key[1]: rules for key, rules in saved.items() if key[0] == "filter" and pattern.fullmatch(key[1])}
    assert normalised(chains_of(made)) == normalised(real)
    jumps = {
        key[1]: rules[0] for key, rules in saved.items() if key[0] == "filter" and key[1] in "INPUT FORWARD OUTPUT"
    }
    assert {jump.chain: jump.rule for jump in made.rules.jumps} == jumps


def normalised(chains: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Chains under the names of what they stand for, with what differs on purpose taken out."""
    names = meaning(chains)
    both = 'comment "default/allow-some policy"'
    merged: dict[str, tuple[str, ...]] = {}
    for chain, rules in chains.items():
        plain = [
            re.sub(r"^-[sd] \S+ (?=-m comment)", "", rule) if both in rule else rule
            for rule in renamed(rules, names)
            if '"pod to itself"' not in rule
        ]
        name = names.get(chain, chain)
        merged[name] = (*merged.get(name, ()), *dict.fromkeys(plain))
    return merged
