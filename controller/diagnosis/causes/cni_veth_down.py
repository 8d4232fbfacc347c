"""The link of one pod is down: its host's end of the cable, or its own."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import around_pod
from model.diagnosis import Cause, Evidence, Object
from model.facts import Link
from model.words import Network

CODE = "cni.veth_down"


def find(case: Case) -> Iterator[Finding]:
    """Yield the end of a pod's cable that is set down, at either end of the flow."""
    for place in (case.flow.source, case.flow.destination):
        cable = case.cable(place)
        if cable is None:
            continue
        own, far = cable
        if not far.up:
            yield _finding(case, place, far, own, of_host=True)
        elif not own.up:
            yield _finding(case, place, own, far, of_host=False)


def _finding(case: Case, place: Place, down: Link, far: Link, *, of_host: bool) -> Finding:
    pod = place.pod
    assert pod is not None
    where = f"{place.node}" if of_host else f"pod {pod.key}"
    own = f"the host's end of the cable to {far.name} of pod {pod.key}" if of_host else "its own device"
    fix = f"ip link set {down.name} up" if of_host else f"in the pod's namespace: ip link set {down.name} up"
    cause = Cause(
        code=CODE,
        confidence=0.98,
        object=Object(kind="device", node=place.node, name=down.name, text=f"{down.name} ({pod.key})"),
        summary=f"{down.name} on {where} is down, {own}: the pod is cut off",
        evidence=(
            Evidence(fact="link", node=place.node, value="down", says=f"{down.name} of {where} is set down"),
            Evidence(fact="link", node=place.node, says=f"so {far.name}, its other end, has no carrier"),
        ),
        fix=fix,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=around_pod(case.flow, pod))


CAUSE = CauseType(
    code=CODE,
    title="A pod's link is down",
    sign="one pod, as source and as destination",
    evidence="the state of both ends of the pod's veth pair",
    find=find,
    concerns=lambda flow: flow.network is Network.POD,
    needs=frozenset({"links"}),
    pod_needs=frozenset({"links"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down", "cni.remote_route_missing"),
)
