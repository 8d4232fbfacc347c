"""What enforces policies on one node is not what the policies say: it stops what they allow, or lets through what they
forbid.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.allowed import decision_of, denials_of
from controller.diagnosis.blame import Blamed, enforces, enforcing_rules
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.denied import asked_text, place_text
from controller.diagnosis.enforced import guarded, guards_of_flow
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.netfilter import RuleRef
from model.words import MatrixKind

CODE = "policy.enforcement_stale"
ADMINISTRATOR = "administrator"
BEFORE = frozenset({"raw", "mangle", "nat"})
"""Tables in which network plugins mark and translate, but decide nothing."""


def find(case: Case) -> Iterator[Finding]:
    """Yield what opens the way on one node, if the flow passes although policies forbid it; else what shuts it."""
    return _find_open(case) if case.passes else _find_shut(case)


def _find_open(case: Case) -> Iterator[Finding]:
    """Yield the node that lets through what policies forbid, while others stop it; or the rule there that does so."""
    guards = guards_of_flow(case)
    tried = list(guarded(case))
    # That a node enforces policies of one kind says nothing of another kind.
    kinds = {d.policy.kind for d in denials_of(case)}
    stopped = [one for one in tried if not one.passes and kinds & one.kinds]
    for node in guards:
        rule = _opening_rule(case, node)
        if rule is None and not stopped:
            continue
        thing = _rule_object(node, rule) if rule is not None else Object(kind="Node", name=node, node=node)
        ends = f"{place_text(case.flow.source)} reaches {place_text(case.flow.destination)} on {asked_text(case)}"
        denied = "; ".join(d.text for d in denials_of(case))
        evidence = [Evidence(fact="expectation", says=f"{ends}, which policies forbid: {denied}")]
        if rule is not None:
            evidence.append(Evidence(fact="packet_walk", node=node, says=f"before any policy is met: {_said(rule)}"))
        evidence += [
            Evidence(fact="probe", node=one.guards[0], says=f"stopped as it should be: {one.says}")
            for one in stopped[:4]
        ]
        by = f"a rule in {rule.table} {rule.chain} on {node} lets" if rule is not None else f"the rules of {node} let"
        cause = Cause(
            code=CODE,
            confidence=0.97 if rule is not None else 0.94,
            object=thing,
            summary=f"{by} through what policies forbid: {ends}",
            evidence=tuple(evidence),
            fix=rule.delete_command if rule is not None else _restart(node),
            suppresses=CAUSE.suppresses,
        )
        yield Finding(cause=cause, scope=Scope(kinds=(MatrixKind.POLICY,), nodes=(node,)))
        return


def _opening_rule(case: Case, node: str) -> RuleRef | None:
    """The administrator's rule that accepts the flow on a node before any rule of the policies' enforcer is met."""
    flow = case.flow
    for walk in case.walks((node, "")):
        asked = walk.asked
        if (asked.source, asked.destination, asked.destination_port) != (
            flow.source.address,
            flow.destination.address,
            flow.port,
        ):
            continue
        for step in walk.steps:
            if enforces(step.rule) and step.rule.table not in BEFORE:
                break
            if step.verdict == "accept" and step.rule.owner == ADMINISTRATOR and step.rule.position > 0:
                return step.rule
    return None


def _find_shut(case: Case) -> Iterator[Finding]:
    """Yield the first of the rules of the policies' enforcer that stop what every policy allows."""
    if case.policy is None or decision_of(case.flow, case.policy).allowed is not True:
        return
    for blamed in enforcing_rules(case):
        if not blamed.carries and "ctstate INVALID" not in blamed.rule.text:
            yield _shut(case, blamed)
            return


def _shut(case: Case, blamed: Blamed) -> Finding:
    rule, node = blamed.rule, blamed.node
    ends = f"{asked_text(case)} from {place_text(case.flow.source)} to {place_text(case.flow.destination)}"
    evidence = [
        Evidence(fact="expectation", says=f"every policy allows {ends}"),
        Evidence(fact="rule", node=node, says=_said(rule), value=rule.target),
    ]
    if blamed.moved:
        says = f"it counted {blamed.moved} packets while {case.burst_size} probes went unanswered"
        evidence.append(Evidence(fact="rule_counter", node=node, before=blamed.before, after=blamed.after, says=says))
    if blamed.walked:
        evidence.append(Evidence(fact="packet_walk", node=node, says=f"a walk through the rules of {node} ends in it"))
    of = f" (of {rule.target})" if rule.target else ""
    cause = Cause(
        code=CODE,
        confidence=max(blamed.confidence, 0.95),
        object=_rule_object(node, rule),
        summary=f"a rule in {rule.table} {rule.chain}{of} on {node} stops what every policy allows: {ends}",
        evidence=tuple(evidence),
        fix=_restart(node),
        suppresses=CAUSE.suppresses,
    )
    pod = case.flow.destination.pod or case.flow.source.pod
    port = case.flow.port if rule.position and "dport" in rule.text else None
    return Finding(cause=cause, scope=Scope(nodes=(node,), targets=(pod.uid,) if pod else (), port=port))


def _rule_object(node: str, rule: RuleRef) -> Object:
    kind = "nft-rule" if rule.backend == "nft" else "iptables-rule"
    return Object(kind=kind, node=node, name=f"{rule.table}/{rule.chain}/{rule.position}", text=rule.text)


def _said(rule: RuleRef) -> str:
    return f"{rule.table} {rule.chain}, rule {rule.position}: {rule.text}"


def _restart(node: str) -> str:
    pods = f"kubectl get pods -A --field-selector spec.nodeName={node}"
    return f"{pods}   (restart the one that enforces policies, so that it writes its rules anew)"


CAUSE = CauseType(
    code=CODE,
    title="A node's rules are not what the policies say",
    sign="one node stops what every policy allows, or lets through what one forbids; its peers do not",
    evidence="a rule of the policies' enforcer that stops the flow; or forbidden connections tried on every node",
    find=find,
    concerns=lambda flow: flow.source.pod is not None or flow.destination.pod is not None,
    late=True,
    suppresses=("node.firewall_drop", "fabric.blocked", "dns.replica_down", "service.target_port_mismatch"),
)
