"""What the causes of a denial by policy share: the object, the words, the evidence, the mend. Pure."""

from __future__ import annotations

from controller.diagnosis.case import Case, Place
from controller.diagnosis.mend_policy import mend
from controller.policy.explain import Denial
from controller.policy.objects import Direction
from model.diagnosis import Cause, Evidence, Object

CONFIDENCE = 0.99


def denied(code: str, case: Case, denial: Denial, summary: str, suppresses: tuple[str, ...]) -> Cause:
    """The cause for one denied direction: the policy that comes nearest to allowing it, and what it lacks."""
    flow, policy = case.flow, denial.policy
    side = flow.destination if denial.direction is Direction.INGRESS else flow.source
    where = denial.rule.where if denial.rule is not None else ""
    selects = f"{policy.label} selects {place_text(side)} for {denial.direction.value}"
    return Cause(
        code=code,
        confidence=CONFIDENCE,
        object=Object(kind=policy.kind, namespace=policy.namespace, name=policy.name),
        summary=f"{summary}: {denial.text}",
        evidence=(
            Evidence(fact="policy", says=selects, value=where),
            Evidence(fact="policy_lacks", says=denial.text),
        ),
        fix=mend(denial, flow, case.cluster),
        suppresses=suppresses,
    )


def asked_text(case: Case) -> str:
    """What was asked for: "TCP 8443"."""
    return f"{case.flow.protocol.upper()} {case.flow.port}"


def place_text(place: Place) -> str:
    """An end of the flow in words."""
    if place.pod is not None:
        return f"pod {place.pod.namespace}/{place.pod.name}"
    return f"node {place.node}" if place.node else place.address


def vital_paths(case: Case, denial: Denial) -> tuple[str, ...]:
    """The paths that nobody can do without, and that this policy has a part in denying."""
    return tuple(
        path.id
        for path in case.paths.values()
        if path.vital and path.expected.allowed is False and denial.policy.label in path.expected.because
    )
