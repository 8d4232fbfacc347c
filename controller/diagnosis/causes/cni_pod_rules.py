"""A packet filter inside a pod's own network namespace drops or rejects the flow."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.blame import STOPS
from controller.diagnosis.case import Case, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import around_pod
from model.diagnosis import Cause, Evidence, Object
from model.facts import Walk
from model.netfilter import RuleRef
from model.words import Network

CODE = "cni.pod_rules"


def find(case: Case) -> Iterator[Finding]:
    """Yield the rules, or the chains' policies, in which a walk through the filter of a pod at either end ends."""
    for place in (case.flow.source, case.flow.destination):
        facts = case.after.get(place.site) if place.pod is not None else None
        for walk in (facts.walks or ()) if facts is not None else ():
            if walk.verdict in STOPS and walk.decided_by is not None:
                yield _finding(case, place, walk, walk.decided_by)


def _finding(case: Case, place: Place, walk: Walk, rule: RuleRef) -> Finding:
    pod, asked = place.pod, walk.asked
    assert pod is not None
    verb = "rejects" if walk.verdict == "reject" else "drops"
    what = f"rule {rule.position}" if rule.position else "the policy"
    blamed = "a firewall rule" if rule.position else f"the policy of {rule.table} {rule.chain}"
    cause = Cause(
        code=CODE,
        confidence=0.93,
        object=Object(
            kind="nft-rule" if rule.backend == "nft" else "iptables-rule",
            node=place.node,
            namespace=pod.namespace,
            name=f"{pod.name}/{rule.table}/{rule.chain}/{rule.position}",
            text=rule.text,
        ),
        summary=f"{blamed} inside pod {pod.key} {verb} {asked.protocol} {asked.source} → {asked.destination}",
        evidence=(
            Evidence(fact="rule", node=place.node, says=f"{rule.table} {rule.chain}, {what}: {rule.text}"),
            Evidence(
                fact="packet_walk",
                node=place.node,
                says=f"a walk through the rules of the pod's own network namespace ends in it ({place.address})",
            ),
        ),
        fix=f"in the pod's namespace: {rule.delete_command}",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=around_pod(case.flow, pod))


CAUSE = CauseType(
    code=CODE,
    title="A firewall inside a pod drops or rejects the traffic",
    sign="one pod, as source or as destination, shaped as the rule",
    evidence="the rule in which a walk through the packet filter of the pod's own network namespace ends",
    find=find,
    concerns=lambda flow: flow.network is Network.POD,
    late=True,
    suppresses=("fabric.blocked",),
)
