"""Where what policies forbid is enforced, and where it is not: the forbidden paths, node by node. Pure.

The node that has to enforce (the guard) is that of the pod which a policy selects: the destination's for ingress, the
source's for egress. Where both sides forbid, either guard would do, and that it is blocked says nothing of one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.diagnosis.allowed import denials_of
from controller.diagnosis.case import Case
from controller.plan.paths import Path
from controller.policy import AddressRef, PodRef, UnknownPeerError
from controller.policy.objects import Direction
from model.words import MatrixKind, Method, Outcome

TRIED_A_GUARD = 3
TRIED = 48


@dataclass(frozen=True, slots=True)
class Guarded:
    """A forbidden connection that was just tried: the nodes that should have stopped it, and whether it got through."""

    guards: tuple[str, ...]
    policies: tuple[str, ...]
    passes: bool
    says: str

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of the policies: a plugin may enforce one and not another."""
        return frozenset(label.split()[0] for label in self.policies)


def guards_of_flow(case: Case) -> tuple[str, ...]:
    """The nodes that have to stop the case's flow, in order of egress, ingress."""
    flow = case.flow
    ends = {Direction.EGRESS: flow.source.node, Direction.INGRESS: flow.destination.node}
    return tuple(dict.fromkeys(node for d in denials_of(case) if (node := ends[d.direction])))


def guards_of_path(case: Case, path: Path) -> tuple[str, ...]:
    """The nodes that have to stop a forbidden path; empty where it cannot be told."""
    pod = case.cluster.pods.get(path.vantage.pod_uid)
    if case.policy is None or pod is None or path.method is not Method.TCP:
        return ()
    try:
        target = AddressRef(path.address)
        decision = case.policy.decide(PodRef(pod.namespace, pod.name), target, "TCP", path.port, path.family)
    except UnknownPeerError:
        return ()
    if decision.allowed is not False:
        return ()
    nodes = {"egress": (pod.node,), "ingress": tuple(sorted(path.destination_nodes))}
    return nodes.get(decision.direction) or tuple(dict.fromkeys((*nodes["egress"], *nodes["ingress"])))


def to_try(case: Case) -> tuple[Path, ...]:
    """Forbidden paths that tell most beside the flow: TRIED_A_GUARD for each guard, those of its policies first."""
    mine = {d.policy.label for d in denials_of(case)}
    found: dict[str, list[Path]] = {}
    for path in case.paths.values():
        if path.expected.allowed is False and path.kind is MatrixKind.POLICY and path.family == case.flow.family:
            guards = guards_of_path(case, path)
            if len(guards) == 1 and not _is_flow(case, path):
                found.setdefault(guards[0], []).append(path)
    chosen: list[Path] = []
    for paths in found.values():
        paths.sort(key=lambda p: (mine.isdisjoint(p.expected.because), p.id))
        # One of the same policies and one of others, where there are.
        other = [p for p in paths if mine.isdisjoint(p.expected.because)]
        chosen.extend(dict.fromkeys((*paths[: TRIED_A_GUARD - 1], *other[:1], *paths[:TRIED_A_GUARD])))
    return tuple(chosen[:TRIED])


def _is_flow(case: Case, path: Path) -> bool:
    flow = case.flow
    return (path.vantage.pod_uid, path.address, path.port) == (
        flow.source.vantage.pod_uid,
        flow.destination.address,
        flow.port,
    )


def guarded(case: Case) -> Iterator[Guarded]:
    """Yield what was tried just now beside the flow itself."""
    for path_id, outcome in case.tried.items():
        path = case.paths.get(path_id)
        guards = guards_of_path(case, path) if path is not None else ()
        if path is not None and guards and outcome is not Outcome.NOT_MEASURED:
            passes = outcome is Outcome.OK
            yield Guarded(guards, path.expected.because, passes, f"{path}: {outcome.value}")
