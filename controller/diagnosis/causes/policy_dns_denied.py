"""An egress policy leaves its pods without the cluster's DNS."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.allowed import asks_dns, denials_of
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.denied import denied, place_text, vital_paths
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from controller.plan.cut_off import is_cut_off
from controller.policy.objects import Direction

CODE = "policy.dns_denied"


def find(case: Case) -> Iterator[Finding]:
    """Yield the policy that comes nearest to letting a pod ask the cluster's DNS, if those that select it forbid it.

    Where the same policies let the pod speak to others by name (`controller.plan.cut_off`), it is a mistake and opens
    an incident; a pod that may send nothing at all needs no names.
    """
    pod = case.flow.source.pod
    if case.passes or pod is None or case.policy is None or not asks_dns(case):
        return
    for denial in denials_of(case):
        if denial.direction is Direction.EGRESS:
            mistake = is_cut_off(case.policy, case.cluster, pod)
            although = ", although it may speak to others by name" if mistake else ""
            summary = f"policy keeps {place_text(case.flow.source)} from the cluster's DNS{although}"
            cause = denied(CODE, case, denial, summary, CAUSE.suppresses)
            yield Finding(cause=cause, scope=Scope(paths=vital_paths(case, denial) or ("none",)), intended=not mistake)


CAUSE = CauseType(
    code=CODE,
    title="An egress policy forgets port 53",
    sign="the pods that it selects resolve no name, their neighbours do; an incident where they may speak to others",
    evidence="the policies that select the pod, the rule that comes nearest to its DNS server, and what it lacks",
    find=find,
    concerns=lambda flow: flow.source.pod is not None,
    suppresses=("policy.ingress_denied", "node.firewall_drop", "fabric.blocked", "dns.replica_down", "dns.all_down"),
)
