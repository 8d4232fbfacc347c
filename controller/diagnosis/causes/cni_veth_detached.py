"""The host's end of a pod's cable is not plugged into the bridge."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import around_pod
from model.diagnosis import Cause, Evidence, Object
from model.facts import Link
from model.words import Network

CODE = "cni.veth_detached"


def find(case: Case) -> Iterator[Finding]:
    """Yield the end of a cable that has no master, where the pod's gateway is an address of a bridge of the node."""
    for place in (case.flow.source, case.flow.destination):
        cable, bridge = case.cable(place), case.bridge_of_pods(place)
        if cable is not None and bridge is not None and cable[1].up and not cable[1].master:
            yield _finding(case, place, cable[1], bridge)


def _finding(case: Case, place: Place, port: Link, bridge: Link) -> Finding:
    node, pod = place.node, place.pod
    assert pod is not None
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=Object(kind="device", node=node, name=port.name, text=f"{port.name} ({pod.key})"),
        summary=f"{port.name} on {node}, the cable of pod {pod.key}, is not plugged into {bridge.name}",
        evidence=(
            Evidence(fact="link", node=node, value="no master", says=f"{port.name} of {node} is up and has no master"),
            Evidence(fact="address", node=node, says=f"{bridge.name} of {node} has the gateway by which the pod sends"),
        ),
        fix=f"ip link set {port.name} master {bridge.name}",
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=around_pod(case.flow, pod))


CAUSE = CauseType(
    code=CODE,
    title="A pod's cable is not plugged into the bridge",
    sign="one pod, as source and as destination",
    evidence="the master of the host's end of the pod's veth pair, and the bridge that has the pod's gateway",
    find=find,
    concerns=lambda flow: flow.network is Network.POD,
    needs=frozenset({"links", "addresses"}),
    pod_needs=frozenset({"links", "routes"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down", "node.rp_filter"),
)
