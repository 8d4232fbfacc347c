"""From a case to an ordered answer: which causes of the catalogue fit, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType, concerned
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Object
from model.facts import Facts

DECISIVE = 0.94
INCONCLUSIVE = "inconclusive"
NOT_READY = "service.endpoints_not_ready"
POD_NETWORK = "cni."
DENIALS = frozenset({"policy.ingress_denied", "policy.egress_denied", "policy.dns_denied"})


def early(case: Case) -> list[Finding]:
    """What the first round of facts shows."""
    return _find(case, (c for c in concerned(case.flow) if not c.late))


def late(case: Case) -> list[Finding]:
    """What shows once a burst was sent: counters, taps, refusals."""
    return _find(case, (c for c in concerned(case.flow) if c.late))


def again(case: Case) -> tuple[Finding, ...]:
    """All that fits, best first, once something was added to the case."""
    return ordered([*early(case), *late(case)])


def of_pod_network(findings: Iterable[Finding]) -> list[Finding]:
    """Those of the pod network: it is they that leave a pod unready, whose probes get no answer."""
    return [f for f in findings if f.cause.code.startswith(POD_NETWORK)]


def denied(case: Case) -> list[Finding]:
    """The policies that forbid the flow: they are found without any fact."""
    return _find(case, (c for c in concerned(case.flow) if c.code in DENIALS))


def _find(case: Case, causes: Iterable[CauseType]) -> list[Finding]:
    return [finding for cause in causes for finding in cause.find(case)]


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Best first; without those that a better one suppresses, and without doubles."""
    kept: list[Finding] = []
    seen: set[tuple[str, Object]] = set()
    for finding in sorted(findings, key=lambda f: -f.cause.confidence):
        key = (finding.cause.code, finding.cause.object)
        if key in seen or any(finding.cause.code in better.cause.suppresses for better in kept):
            continue
        seen.add(key)
        kept.append(finding)
    return tuple(kept)


def is_decisive(findings: Iterable[Finding]) -> bool:
    """Whether something was found that no burst could make surer."""
    return any(f.cause.confidence >= DECISIVE for f in findings)


def ruled_out(case: Case, *, burst: bool) -> tuple[str, ...]:
    """The causes that were looked for and not found, by code."""
    return tuple(sorted(c.code for c in concerned(case.flow) if burst or not c.late))


def missing_evidence(case: Case) -> tuple[str, ...]:
    """What could not be asked or read, and why."""
    said = [f"{node}: {why}" for node, why in sorted(case.silent.items())]
    for (node, pod), facts in sorted(case.facts.items()):
        place = f"{node}, pod {pod}" if pod else node
        said += _unread(place, facts)
    for (node, _), facts in sorted(case.after.items()):
        said += _unread(node, facts)
    for (node, _), facts in sorted(case.facts.items()):
        for walk in facts.walks or ():
            if walk.verdict == "unsure":
                said.append(f"{node}: the packet walk could not judge {', '.join(walk.unsure)}")
    return tuple(dict.fromkeys(said))


def _unread(place: str, facts: Facts) -> list[str]:
    return [f"{place}: cannot read {subject} because {why}" for subject, why in sorted(facts.errors.items())]


def inconclusive(case: Case, scope: Scope, shape: str) -> Finding:
    """The honest answer where nothing fits: what fails, what was ruled out, what is missing."""
    cause = Cause(
        code=INCONCLUSIVE,
        confidence=0.0,
        object=Object(kind="path", name=shape),
        summary=f"no cause of the catalogue fits the failure of {shape}",
    )
    return Finding(
        cause=cause,
        scope=scope,
        ruled_out=ruled_out(case, burst=case.burst is not None),
        missing=missing_evidence(case),
    )
