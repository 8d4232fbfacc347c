"""A policy does not let a pod send this."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.allowed import asks_dns, denials_of
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.denied import asked_text, denied, place_text
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from controller.policy.objects import Direction

CODE = "policy.egress_denied"


def find(case: Case) -> Iterator[Finding]:
    """Yield the policy that comes nearest to letting the flow out, if those that select the pod forbid it.

    It answers a question and opens no incident. Questions to DNS have a cause of their own.
    """
    if case.passes or asks_dns(case):
        return
    for denial in denials_of(case):
        if denial.direction is Direction.EGRESS:
            flow = case.flow
            ends = f"{place_text(flow.source)} send {asked_text(case)} to {place_text(flow.destination)}"
            cause = denied(CODE, case, denial, f"policy does not let {ends}", CAUSE.suppresses)
            yield Finding(cause=cause, scope=Scope(paths=("none",)), intended=True)


CAUSE = CauseType(
    code=CODE,
    title="A policy does not let the pod send it",
    sign="pods of one label or namespace, just as policies say; opens no incident",
    evidence="the policies that select the pod, the rule that comes nearest, and the peer or port that it lacks",
    find=find,
    concerns=lambda flow: flow.source.pod is not None,
    suppresses=("node.firewall_drop", "fabric.blocked"),
)
