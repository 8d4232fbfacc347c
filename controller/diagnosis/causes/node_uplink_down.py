"""A node's network device is down, or has lost the node's address."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import Facts, Link
from model.words import CellState, MatrixKind

CODE = "node.uplink_down"
GRACE_S = 0.5
"""A path that was measured this much later than the first failure, and passed, contradicts."""


def find(case: Case) -> Iterator[Finding]:
    """Yield the node's device, from the node's own word or, where it is silent, from its neighbours' at layer 2."""
    for node in case.flow.nodes:
        facts = case.host(node)
        found = _by_own_word(case, node, facts) if facts is not None else _by_neighbours(case, node)
        if found is not None:
            yield found


def _by_own_word(case: Case, node: str, facts: Facts) -> Finding | None:
    if facts.links is None or facts.addresses is None:
        return None
    known = case.cluster.nodes.get(node)
    for address in known.addresses if known else ():
        holder = next((a.device for a in facts.addresses if a.address == address), "")
        if not holder:
            device = case.uplinks.get(node, "") or _device_of_default_route(facts)
            link = case.link(node, device)
            family = 6 if ":" in address else 4
            if family != case.flow.family and link is not None and link.up and link.carrier:
                continue
            said = (f"{address}, the address of {node}, is on no device of it",)
            return _finding(
                node, device, said, 0.97, f"ip addr add {address}/{_length(facts, device, address)} dev {device}"
            )
        link = case.link(node, holder)
        if link is not None and not (link.up and link.carrier):
            return _finding(node, holder, (_state(link),), 0.99, f"ip link set {holder} up")
    return None


def _by_neighbours(case: Case, node: str) -> Finding | None:
    """A node that says nothing, reaches nobody, and does not even answer ARP on its own segment."""
    device = case.uplinks.get(node, "")
    asked = [
        (witness, resolution)
        for witness, facts in case.witnesses.items()
        for resolution in facts.resolved or ()
        if resolution.address in case.cluster.nodes[node].addresses and not resolution.error
    ]
    if not device or not asked or any(resolution.macs for _, resolution in asked):
        return None
    crossing = [
        status
        for path, status in case.sampled()
        if path.kind is MatrixKind.HOST and node in path.destination_nodes and path.source_node != node
    ]
    failing = [s for s in crossing if s.state is CellState.FAILING]
    began = min((s.first_failure_at or s.since for s in failing), default=0.0)
    if not failing or any(s.state is CellState.OK and (s.last_at or 0.0) > began + GRACE_S for s in crossing):
        return None
    said = [f"{case.silent.get(node, 'its agent is silent')}"]
    said += [f"{witness}, on the same segment, got no answer to ARP for {r.address}" for witness, r in asked]
    said.append(f"{len(failing)} host paths to {node} fail, and none that was measured since has passed")
    missing = (f"the state of {device} itself, since {node} cannot be asked; a node without power looks the same",)
    return _finding(
        node, device, tuple(said), 0.8, f"on {node}: ip link show {device}; ip link set {device} up", missing
    )


def _finding(
    node: str, device: str, said: tuple[str, ...], confidence: float, fix: str, missing: tuple[str, ...] = ()
) -> Finding:
    evidence = tuple(Evidence(fact="link_state", node=node, says=says) for says in said)
    cause = Cause(
        code=CODE,
        confidence=confidence,
        object=Object(kind="device", node=node, name=device),
        summary=f"{node} is cut off: its device {device} is down, has no carrier or has lost the node's address",
        evidence=evidence,
        fix=fix,
        suppresses=CAUSE.suppresses,
    )
    return Finding(cause=cause, scope=Scope(nodes=(node,), crossing=True), missing=missing)


def _state(link: Link) -> str:
    if not link.up:
        return f"{link.name} is administratively down"
    return f"{link.name} is up but has no carrier (state {link.operstate})"


def _device_of_default_route(facts: Facts) -> str:
    routes = [r.device for r in facts.routes or () if r.destination in {"0.0.0.0/0", "default"} and r.device]
    if routes:
        return routes[0]
    wired = [link.name for link in facts.links or () if link.name.startswith(("eth", "en"))]
    return wired[0] if wired else "eth0"


def _length(facts: Facts, device: str, address: str) -> int:
    family = 6 if ":" in address else 4
    lengths = [
        a.prefix_length
        for a in facts.addresses or ()
        if a.device == device and a.family == family and a.scope == "global"
    ]
    return lengths[0] if lengths else 24 if family == 4 else 64


CAUSE = CauseType(
    code=CODE,
    title="A node's network device is down or has lost its address",
    sign="row and column of one node, host and pod network; its agent is cut off",
    evidence="link state and addresses of the node; or, where it cannot be asked, no answer to ARP on its segment",
    find=find,
    concerns=lambda flow: flow.crosses,
    needs=frozenset({"links", "addresses", "routes"}),
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down", "cni.remote_route_missing"),
)
