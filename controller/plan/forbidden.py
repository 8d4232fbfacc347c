"""Probes of what policies forbid: that it is blocked indeed is seen by nothing else. Pure.

Each node is the guard of its own pods: what they may not receive is asked for by the endpoint of another node, its
witness, and what they may not send they try to send to that endpoint. So rules that are missing on one node show on
that node alone. Few at a time (RATE), in turn where there are more. Only TCP, and only ports that pods declare, since
silence on any other port would say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from controller.cluster.state import Pod, family_of
from controller.plan.draft import Context, Draft, Target, spread, vantage_of
from controller.plan.expectation import expect, pod_ref
from model.diagnosis import Expectation
from model.probes import ENDPOINT_PORT, stable_id
from model.words import MatrixKind, Method, Network

RATE, SHORTEST_S, LONGEST_S = 1.0, 3.0, 6.0


class Denied(NamedTuple):
    """A connection that policy forbids."""

    source: Pod
    destination: Pod
    address: str
    port: int
    expected: Expectation


def add_forbidden(drafts: Mapping[str, Draft], context: Context, turn: int) -> bool:
    """Adds what is forbidden, guard by guard; says whether there is more than fits, so that another turn is due."""
    more = False
    endpoints = sorted(node for node in context.endpoints if node in drafts)
    for at, guard in enumerate(sorted(drafts)):
        others = [node for node in (*endpoints[at + 1 :], *endpoints[: at + 1]) if node != guard]
        if not others or context.policy is None:
            continue
        found = list(_denied(context, guard, context.endpoints[others[0]]))
        found.sort(key=lambda d: stable_id(guard, d.source.uid, d.destination.uid, d.address, d.port))
        taken, interval_s = spread(len(found), RATE, SHORTEST_S, LONGEST_S)
        more = more or taken < len(found)
        first = turn * taken % len(found) if found else 0
        for denied in (*found[first:], *found[:first])[:taken]:
            _add(drafts[denied.source.node], denied, interval_s)
    return more


def _denied(context: Context, guard: str, witness: Pod) -> Iterator[Denied]:
    """What the guard's pods may not receive from the witness, and not send to it."""
    model = context.policy
    families = {family_of(a) for a in witness.addresses}
    for pod in context.cluster.pods_by_node.get(guard, ()):
        if not pod.ready or pod.host_network or pod.deleting or pod is witness:
            continue
        for family in families & {family_of(a) for a in pod.addresses}:
            ports = (p.port for p in pod.container_ports if p.protocol == "TCP")
            for port in ports:
                expected = expect(model, pod_ref(witness), pod_ref(pod), "TCP", port, family)
                if expected.allowed is False:
                    yield Denied(witness, pod, _address(pod, family), port, expected)
                    break
            expected = expect(model, pod_ref(pod), pod_ref(witness), "TCP", ENDPOINT_PORT, family)
            if expected.allowed is False:
                yield Denied(pod, witness, _address(witness, family), ENDPOINT_PORT, expected)


def _address(pod: Pod, family: int) -> str:
    return next(a for a in pod.addresses if family_of(a) == family)


def _add(draft: Draft, denied: Denied, interval_s: float) -> None:
    pod = denied.destination
    target = Target(
        kind=MatrixKind.POLICY,
        network=Network.POD,
        destination=pod.key,
        target_kind="Pod",
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        nodes=frozenset({pod.node}),
    )
    vantage = vantage_of(denied.source)
    draft.add(vantage, target, denied.expected, Method.TCP, denied.address, denied.port, interval_s)
