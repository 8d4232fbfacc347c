"""A pod has no route to the other end of the flow."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Place, Prefix
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import around_pod
from model.diagnosis import Cause, Evidence, Object
from model.facts import Route
from model.words import Network

CODE = "cni.pod_route_missing"
# The table of the pod's own addresses (RT_TABLE_LOCAL).
LOCAL = 255
SOME = 3


def find(case: Case) -> Iterator[Finding]:
    """Yield the pod at either end whose tables cover the other end's address by no route."""
    flow = case.flow
    for place, other in ((flow.source, flow.destination), (flow.destination, flow.source)):
        facts = case.facts.get(place.site) if place.pod is not None else None
        if facts is None or facts.routes is None or not other.address:
            continue
        # A table of the pod's own may have the way, if a rule leads to it.
        routes = [r for r in facts.routes if r.family == flow.family and r.table != LOCAL]
        if not any(other.address in Prefix(r.destination) for r in routes):
            yield _finding(case, place, other, routes)


def _finding(case: Case, place: Place, other: Place, routes: list[Route]) -> Finding:
    node, pod = place.node, place.pod
    assert pod is not None
    has = ", ".join(r.destination for r in routes[:SOME]) + (", …" if len(routes) > SOME else "")
    gateway = _gateway(case, place)
    renewed = f"kubectl delete pod -n {pod.namespace} {pod.name} (whoever made it makes it anew, with its routes)"
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=Object(kind="route", node=node, namespace=pod.namespace, name=f"{pod.name}/default"),
        summary=f"pod {pod.key} on {node} has no route to {other.address}",
        evidence=(
            Evidence(fact="route", node=node, says=f"inside the pod there are routes to {has or 'nowhere'} alone"),
        ),
        fix=f"in the pod's namespace: ip route add default via {gateway}; or {renewed}" if gateway else renewed,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=around_pod(case.flow, pod))


def _gateway(case: Case, place: Place) -> str:
    """The address of the node's bridge out of the pod's own range, which is what its pods send by; "" without one."""
    host = case.host(place.node)
    bridges = {link.name for link in (host.links or () if host is not None else ()) if link.kind == "bridge"}
    held = [a for a in (host.addresses or () if host is not None else ()) if a.device in bridges]
    cidr = case.pod_cidr_of(place.node, place.address)
    return next((a.address for a in held if cidr and a.family == case.flow.family and a.address in Prefix(cidr)), "")


CAUSE = CauseType(
    code=CODE,
    title="A pod has no route out",
    sign="one pod, beyond its own subnet",
    evidence="the routes inside the pod's own network namespace",
    find=find,
    concerns=lambda flow: flow.network is Network.POD,
    needs=frozenset({"links", "addresses"}),
    pod_needs=frozenset({"routes"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down"),
)
