"""A route of a host throws the flow's packets away: blackhole, unreachable or prohibit."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import THROWN, Case, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Route

CODE = "node.route_blackhole"


def find(case: Case) -> Iterator[Finding]:
    """Yield the most specific route for an end of the flow, where it throws packets away and the kernel says so."""
    for node, source, destination, _reply in case.flow.ways():
        route = case.best_route(node, destination.address)
        if route is None or route.type not in THROWN or (destination.node == node and destination.pod is None):
            continue
        answer = case.route_answer(node, source, destination)
        number, word = THROWN[route.type]
        # IPv6 says ENETUNREACH or EINVAL for any of them (net/ipv6/route.c).
        if answer is not None and (answer.errno == number or (case.flow.family == 6 and answer.errno)):
            yield _finding(case, node, destination, route, word)


def _finding(case: Case, node: str, destination: Place, route: Route, word: str) -> Finding:
    name = f"{route.type} {route.destination}"
    said = f"the kernel of {node} answers {word} for {destination.address}"
    cause = Cause(
        code=CODE,
        confidence=0.98,
        object=Object(kind="route", node=node, name=route.destination, text=name),
        summary=f"the {route.type} route {route.destination} on {node} throws away what goes to {destination.whose}",
        evidence=(
            Evidence(fact="route", node=node, value=name, says=f"the most specific route for {destination.address}"),
            Evidence(fact="route_get", node=node, value=word, says=said),
        ),
        fix=f"ip {'-6 ' if route.family == 6 else ''}route del {name}",
        suppresses=CAUSE.suppresses,
    )
    flow, other = case.flow, destination.node
    scope = Scope(pairs=((node, other),), network=flow.network, family=flow.family)
    return Finding(cause=cause, scope=scope if other and other != node else Scope(nodes=(node,), family=flow.family))


CAUSE = CauseType(
    code=CODE,
    title="A route throws packets away",
    sign="pairs of nodes, or one destination from one node",
    evidence="the most specific route is blackhole, unreachable or prohibit, and the kernel answers with its errno",
    find=find,
    concerns=lambda flow: bool(flow.destination.address),
    needs=frozenset({"routes"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down", "cni.cidr_overlap"),
)
