"""Policies exist, and nothing enforces them: neither any, or not one of them."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.allowed import denials_of
from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.denied import asked_text, place_text
from controller.diagnosis.enforced import Guarded, guarded, guards_of_flow
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.words import MatrixKind

CODE = "policy.not_enforced"


def find(case: Case) -> Iterator[Finding]:
    """Yield the network plugin if all that policies forbid gets through everywhere; else a policy of which that holds.

    Everywhere means: on every node that was tried, and on two at least where there are two. Of an admin policy one node
    is enough where nothing was stopped by its kind: plugins that enforce NetworkPolicy need not know it.
    """
    denials = denials_of(case) if case.passes else ()
    if not denials:
        return
    tried = list(guarded(case))
    guards = {*guards_of_flow(case), *(node for one in tried for node in one.guards)}
    if all(one.passes for one in tried) and (len(guards) > 1 or len(case.cluster.nodes) == 1):
        yield _finding(case, tried, _plugin(case), guards)
        return
    for denial in denials:
        policy = denial.policy
        admin = policy.kind != "NetworkPolicy"
        mine = [one for one in tried if (policy.kind in one.kinds if admin else policy.label in one.policies)]
        nodes = {*guards_of_flow(case), *(node for one in mine for node in one.guards)}
        if all(one.passes for one in mine) and (admin or (mine and len(nodes) > 1)):
            thing = Object(kind=policy.kind, namespace=policy.namespace, name=policy.name)
            yield _finding(case, mine, thing, nodes)
            return


def _plugin(case: Case) -> Object:
    """The network plugin, by its type in the configuration that a node uses."""
    for facts in case.facts.values():
        for file in facts.cni or ():
            if file.types:
                return Object(kind="NetworkPlugin", name=file.types[0], text=file.path)
    return Object(kind="NetworkPlugin", name="cni")


def _finding(case: Case, tried: list[Guarded], thing: Object, nodes: set[str]) -> Finding:
    whole = thing.kind == "NetworkPlugin"
    ends = f"{place_text(case.flow.source)} reaches {place_text(case.flow.destination)} on {asked_text(case)}"
    name = f"{thing.namespace}/{thing.name}" if thing.namespace else thing.name
    what = f"no {_kinds(case, tried)} is enforced" if whole else f"{thing.kind} {name} is not enforced"
    denied = "; ".join(d.text for d in denials_of(case))
    evidence = [
        Evidence(fact="expectation", says=f"{ends}, which policies forbid: {denied}"),
        *(Evidence(fact="probe", node=one.guards[0], says=f"forbidden too: {one.says}") for one in tried[:6]),
    ]
    fix = (
        f"give {thing.name} something that enforces policies, or restart what should: kubectl get daemonsets -A"
        if whole
        else f"{_describe(thing)}   ({_remark(thing)})"
    )
    where = f"on any of {len(nodes)} nodes" if len(nodes) > 1 else f"on {next(iter(nodes), 'its node')}"
    cause = Cause(
        code=CODE,
        confidence=0.96 if len(nodes) > 1 or len(case.cluster.nodes) == 1 else 0.85,
        object=thing,
        summary=f"{what} {where}: {ends}, although policies forbid it",
        evidence=tuple(evidence),
        fix=fix,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(kinds=(MatrixKind.POLICY,)))


def _kinds(case: Case, tried: list[Guarded]) -> str:
    """The kinds of policy that forbid what was tried: a plugin may well enforce others."""
    kinds = {d.policy.kind for d in denials_of(case)}.union(*(one.kinds for one in tried))
    return " or ".join(sorted(kinds))


def _remark(thing: Object) -> str:
    log = "and the log of its enforcer"
    if thing.kind == "NetworkPolicy":
        return log
    return f"{log}; if the plugin does not implement it: kubereach controller --admin-policies=ignored"


def _describe(thing: Object) -> str:
    where = f"-n {thing.namespace} " if thing.namespace else ""
    return f"kubectl {where}describe {thing.kind.lower()} {thing.name}"


CAUSE = CauseType(
    code=CODE,
    title="Nothing enforces the policies",
    sign="what policies forbid gets through, on every node",
    evidence="forbidden connections tried on every node, from one node to the next",
    find=find,
    concerns=lambda flow: flow.source.pod is not None or flow.destination.pod is not None,
    needs=frozenset({"cni"}),
    suppresses=("policy.enforcement_stale",),
)
