"""A policy does not let a pod receive this."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.allowed import asks_dns, denials_of
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.denied import asked_text, denied, place_text, vital_paths
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from controller.policy.objects import Direction

CODE = "policy.ingress_denied"


def find(case: Case) -> Iterator[Finding]:
    """Yield the policy that comes nearest to letting the flow in, if those that select the pod forbid it.

    That is what policies are for, so it answers a question and opens no incident; but where the pod is a DNS server of
    the cluster, nobody can mean it.
    """
    if case.passes:
        return
    for denial in denials_of(case):
        if denial.direction is Direction.INGRESS:
            flow, dns = case.flow, asks_dns(case)
            ends = f"{place_text(flow.destination)} receive {asked_text(case)} from {place_text(flow.source)}"
            cause = denied(CODE, case, denial, f"policy does not let {ends}", CAUSE.suppresses)
            yield Finding(cause=cause, scope=Scope(paths=vital_paths(case, denial) or ("none",)), intended=not dns)


CAUSE = CauseType(
    code=CODE,
    title="A policy does not let the pod receive it",
    sign="pods of one label or namespace, just as policies say; opens no incident, but for the cluster's DNS servers",
    evidence="the policies that select the pod, the rule that comes nearest, and the peer or port that it lacks",
    find=find,
    concerns=lambda flow: flow.destination.pod is not None,
    suppresses=("node.firewall_drop", "fabric.blocked", "dns.replica_down", "service.target_port_mismatch"),
)
