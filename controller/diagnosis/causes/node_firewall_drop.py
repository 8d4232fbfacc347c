"""A rule of a host's packet filter drops or rejects the flow."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.blame import Blamed, blamed_rules
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object

CODE = "node.firewall_drop"


def find(case: Case) -> Iterator[Finding]:
    """Yield the rules that count, or by the packet walk must stop, packets of the flow, and are nobody's duty."""
    for blamed in blamed_rules(case):
        if blamed.rule.position > 0:
            yield _finding(case, blamed)


def _finding(case: Case, blamed: Blamed) -> Finding:
    rule = blamed.rule
    kind = "nft-rule" if rule.backend == "nft" else "iptables-rule"
    tool = {"legacy": "iptables-legacy", "nft_compat": "iptables-nft", "nft": "nft"}[rule.backend]
    family = "" if rule.family == 4 else "6"
    said = (
        f"{tool.replace('iptables', f'ip{family}tables')} {rule.table} {rule.chain}, rule {rule.position}: {rule.text}"
    )
    evidence = [Evidence(fact="rule", node=blamed.node, says=said)]
    if blamed.moved:
        counted = f"it counted {blamed.moved} packets while {case.burst_size} probes went unanswered"
        evidence.append(
            Evidence(fact="rule_counter", node=blamed.node, before=blamed.before, after=blamed.after, says=counted)
        )
    if blamed.walked:
        evidence.append(
            Evidence(fact="packet_walk", node=blamed.node, says=f"a walk through the rules of {blamed.node} ends in it")
        )
    if blamed.told:
        says = f"the kernel of {blamed.node} itself says so of {blamed.told} traced packets"
        evidence.append(Evidence(fact="rule_trace", node=blamed.node, value=str(blamed.told), says=says))
    verb = "rejects" if blamed.verdict == "reject" else "drops"
    what = f"{blamed.asked.protocol} {blamed.asked.source} → {blamed.asked.destination}"
    cause = Cause(
        code=CODE,
        confidence=blamed.confidence,
        object=Object(kind=kind, node=blamed.node, name=f"{rule.table}/{rule.chain}/{rule.position}", text=rule.text),
        summary=f"a firewall rule in {rule.table} {rule.chain} on {blamed.node} {verb} {what}",
        evidence=tuple(evidence),
        fix=rule.delete_command,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=_scope(case, blamed))


def _scope(case: Case, blamed: Blamed) -> Scope:
    """What the rule stops beside this flow: as wide as its own matches leave it."""
    flow = case.flow
    nodes = (blamed.node,)
    if blamed.carries:
        return Scope(nodes=nodes, crossing=True, network=flow.network)
    words = blamed.rule.text.split()
    narrow_protocol = any(w in {"-p", "--protocol", "tcp", "udp", "icmp", "icmpv6", "l4proto"} for w in words)
    narrow_port = any(w in {"--dport", "--dports", "--sport", "--sports", "dport", "sport"} for w in words)
    narrow_address = any(w in {"-s", "-d", "--source", "--destination", "saddr", "daddr"} for w in words)
    return Scope(
        nodes=nodes,
        pairs=((flow.source.node, flow.destination.node),)
        if narrow_address and flow.crosses and _single(words)
        else (),
        family=flow.family if blamed.rule.table and blamed.rule.family == flow.family else None,
        method=flow.method if narrow_protocol else None,
        port=flow.port if narrow_port and flow.port else None,
    )


def _single(words: list[str]) -> bool:
    """Whether the rule names single addresses rather than prefixes, so that it concerns one pair of ends."""
    prefixes = [w for w in words if "/" in w and w[0].isalnum() and ("." in w or ":" in w)]
    return bool(prefixes) and all(w.endswith(("/32", "/128")) for w in prefixes)


CAUSE = CauseType(
    code=CODE,
    title="A host firewall rule drops or rejects the traffic",
    sign="shaped as the rule: one node, one direction, one protocol or port",
    evidence="the rule whose counter moved with the probes, or in which a walk through the host's rules ends",
    find=find,
    concerns=lambda flow: bool(flow.nodes),
    needs=frozenset({"links"}),
    late=True,
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down", "service.target_port_mismatch"),
)
