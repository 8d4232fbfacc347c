"""Which rule of a packet filter stops the flow: by counters that moved with the probes, or by the packet walk.

A rule that is somebody's duty (a NetworkPolicy's verdict, kube-proxy's reject for a Service without endpoints) is not
blamed here: for those the object behind the rule is at fault, and causes of their own name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controller.diagnosis.case import Case, Site
from model.facts import Dropper, Packet, Walk
from model.netfilter import RuleRef

STOPS = frozenset({"drop", "reject"})
POLICY_TARGETS = ("NetworkPolicy ", "AdminNetworkPolicy ", "BaselineAdminNetworkPolicy ")
ENFORCERS = frozenset({"kube-router", "calico", "cilium"})


@dataclass(frozen=True, slots=True)
class Blamed:
    """A rule (or, at position 0, a chain's policy) and why it is held to stop the flow.

    `carries` means that it stops the tunnel which carries the flow, rather than the flow itself; `told` are packets
    that the kernel itself says it took.
    """

    node: str
    rule: RuleRef
    verdict: str
    asked: Packet
    before: int = 0
    after: int = 0
    walked: bool = False
    confidence: float = 0.0
    carries: bool = False
    told: int = 0

    @property
    def moved(self) -> int:
        """Packets that it counted during the burst."""
        return max(0, self.after - self.before)


def blamed_rules(case: Case) -> Iterator[Blamed]:
    """Yield the rules that stop the flow and are nobody's duty, surest first; each once."""
    yield from _stopping(case, lambda rule: not _has_duty(rule))


def enforcing_rules(case: Case) -> Iterator[Blamed]:
    """Yield the rules that stop the flow in the name of a policy, or of the pods that policies select."""
    yield from _stopping(case, enforces)


def enforces(rule: RuleRef) -> bool:
    """Whether the rule is a network plugin's for policies."""
    return rule.target.startswith(POLICY_TARGETS) or rule.owner in ENFORCERS


def _stopping(case: Case, wanted: Callable[[RuleRef], bool]) -> Iterator[Blamed]:
    found: dict[tuple[str, str, str, str, int], Blamed] = {}
    for site in sites(case):
        for blamed in (
            *_by_counters(case, site, wanted),
            *_by_walk(case, site, wanted),
            *_by_trace(case, site, wanted),
        ):
            rule = blamed.rule
            key = (blamed.node, rule.backend, rule.table, rule.chain, rule.position)
            known = found.get(key)
            found[key] = blamed if known is None else _joined(known, blamed)
    yield from sorted(found.values(), key=lambda b: -b.confidence)


def sites(case: Case) -> tuple[Site, ...]:
    """The host namespaces of the flow's nodes."""
    return tuple((node, "") for node in case.flow.nodes)


def _joined(one: Blamed, other: Blamed) -> Blamed:
    counted = one if one.moved else other
    return Blamed(
        node=one.node,
        rule=counted.rule,
        verdict=one.verdict,
        asked=one.asked,
        before=counted.before,
        after=counted.after,
        walked=one.walked or other.walked,
        confidence=0.99
        if ((one.moved or other.moved) and (one.walked or other.walked)) or one.told or other.told
        else max(one.confidence, other.confidence),
        carries=one.carries and other.carries,
        told=max(one.told, other.told),
    )


def _by_counters(case: Case, site: Site, wanted: Callable[[RuleRef], bool]) -> Iterator[Blamed]:
    sent = case.burst_size
    if sent == 0:
        return
    for dropper, before, after in case.moved(site):
        if after - before >= sent and wanted(dropper.rule):
            sure = dropper.matches == "yes"
            yield Blamed(
                node=site[0],
                rule=dropper.rule,
                verdict=dropper.verdict,
                asked=dropper.asked,
                before=before,
                after=after,
                confidence=0.97 if sure else 0.8,
                carries=_carries(case, dropper.asked),
            )


def _by_walk(case: Case, site: Site, wanted: Callable[[RuleRef], bool]) -> Iterator[Blamed]:
    for walk in case.walks(site):
        rule = walk.decided_by
        if walk.verdict in STOPS and rule is not None and wanted(rule) and not _refuted(case, site, walk):
            yield Blamed(
                node=site[0],
                rule=rule,
                verdict=walk.verdict,
                asked=walk.asked,
                walked=True,
                confidence=0.9,
                carries=_carries(case, walk.asked),
            )


def _by_trace(case: Case, site: Site, wanted: Callable[[RuleRef], bool]) -> Iterator[Blamed]:
    """What the kernel of the node itself says (`witness`)."""
    found = case.told.get(site[0])
    for end in found.ends if found is not None else ():
        if end.verdict in STOPS and end.rule is not None and wanted(end.rule):
            flow = case.flow
            asked = Packet(
                family=flow.family,
                source=flow.source.address,
                destination=flow.destination.address,
                protocol=flow.protocol,
                destination_port=flow.port,
            )
            yield Blamed(
                node=site[0], rule=end.rule, verdict=end.verdict, asked=asked, told=end.packets, confidence=0.98
            )


def _refuted(case: Case, site: Site, walk: Walk) -> bool:
    """Whether the rule that the walk ends in has a counter, and it stood still while the burst went unanswered."""
    if case.burst_size == 0 or walk.decided_by is None:
        return False
    counted = {_name(d): after - before for d, before, after in case.moved(site) if _counts(d.rule)}
    rule = walk.decided_by
    return counted.get((rule.backend, rule.family, rule.table, rule.chain, rule.position)) == 0


def _counts(rule: RuleRef) -> bool:
    return rule.backend != "nft" or "counter" in rule.text


def _name(dropper: Dropper) -> tuple[str, int, str, str, int]:
    rule = dropper.rule
    return (rule.backend, rule.family, rule.table, rule.chain, rule.position)


def _carries(case: Case, asked: Packet) -> bool:
    return asked.protocol == "udp" and {asked.source, asked.destination}.isdisjoint(
        {case.flow.source.address, case.flow.destination.address}
    )


def _has_duty(rule: RuleRef) -> bool:
    """Whether the rule does what some Kubernetes object asked for, or is a well-known guard of its owner."""
    return bool(rule.target) or rule.owner in {"kubereach"} or "ctstate INVALID" in rule.text
