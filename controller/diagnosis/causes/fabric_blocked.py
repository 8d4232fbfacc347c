"""Packets leave one host and never arrive at the other, and no host is to blame."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.probes import Vantage
from model.trace import Seen
from model.words import CellState, MatrixKind, Method, Network, Outcome

CODE = "fabric.blocked"
EVERYTHING = "all traffic"


def find(case: Case) -> Iterator[Finding]:
    """Yield the pair and direction in which the burst left one uplink and did not reach the other.

    Both are counted before either host's packet filter has a say, so neither host can have eaten the packets.
    """
    a, b = case.flow.source.node, case.flow.destination.node
    left_a, at_b = _seen(case, a, "out", "request"), _seen(case, b, "in", "request")
    left_b, at_a = _seen(case, b, "out", "reply"), _seen(case, a, "in", "reply")
    if left_a is None or at_b is None or left_b is None or at_a is None:
        return
    if left_a[0] and not at_b[0]:
        yield _finding(case, a, b, left_a)
    elif left_b[0] and not at_a[0]:
        yield _finding(case, b, a, left_b)


def _seen(case: Case, node: str, direction: str, way: str) -> tuple[int, str] | None:
    """Packets at the node's uplink and the tunnel they were in ("" if none), or None if nothing was counted there."""
    uplinks = _uplinks(case, node)
    told = case.trace.told.get(node) if case.trace is not None else None
    if case.trace is None or told is None or not uplinks:
        return None
    host = case.trace.watched[node].index(Vantage())
    at_host = [s for s in told.seen if s.vantage == host and host not in told.errors]
    counts = [s for s in at_host if s.device in uplinks and s.direction == direction and s.way == way]
    return sum(s.packets for s in counts), next((_tunnel(case, node, s) for s in counts if s.outer), "")


def _uplinks(case: Case, node: str) -> set[str]:
    """The devices that hold the node's addresses, and those below them."""
    facts = case.host(node)
    known = case.cluster.nodes.get(node)
    if facts is None or known is None:
        return set()
    return {a.device for a in facts.addresses or () if a.address in known.addresses}


def _tunnel(case: Case, node: str, seen: Seen) -> str:
    facts = case.host(node)
    ports = {link.vxlan.port for link in (facts.links or () if facts else ()) if link.vxlan is not None}
    return f"UDP port {min(ports)} (VXLAN)" if ports else f"tunnel {seen.outer}"


def _finding(case: Case, sender: str, receiver: str, left: tuple[int, str]) -> Finding:
    flow, count = case.flow, left[0]
    # Where nothing passes between the hosts, that the pods' packets are in a tunnel makes no difference.
    tunnel = left[1] if not _is_everything(case) else ""
    what = tunnel or _what(case)
    zones = _zones(case, sender, receiver, only_pods=bool(tunnel))
    name = f"{zones[0]} → {zones[1]}" if zones else f"{sender} → {receiver}"
    between = "zones" if zones else "hosts"
    cause = Cause(
        code=CODE,
        confidence=0.93,
        object=Object(kind="path", name=f"{name} {what}", text=f"from {name}: {what}"),
        summary=f"the network between the {between} eats {what} from {name}",
        evidence=(
            Evidence(fact="trace", node=sender, value=str(count), says=f"{count} packets left the uplink of {sender}"),
            Evidence(
                fact="trace",
                node=receiver,
                value="0",
                says=f"none of them reached the uplink of {receiver}, counted before its packet filter",
            ),
        ),
        fix=f"look at what stands between them (router, switch, security group) for {what} from {sender} to {receiver}",
    )
    scope = Scope(
        pairs=_pairs(case, zones) if zones else ((sender, receiver),),
        network=Network.POD if tunnel else None if what == EVERYTHING else flow.network,
        method=None if tunnel or what == EVERYTHING else flow.method,
    )
    return Finding(cause=cause, scope=scope)


def _what(case: Case) -> str:
    """What is blocked between the pair: everything, one protocol, or one port of it, as probes beside it tell."""
    if _is_everything(case):
        return EVERYTHING
    flow = case.flow
    passing = {method for method, outcome in case.hosts.items() if outcome is Outcome.OK}
    protocol = "ICMP" if flow.method is Method.ICMP else flow.protocol.upper()
    if not flow.port:
        return protocol
    others = {Method.UDP if flow.protocol == "udp" else Method.TCP} & passing
    return f"{protocol} port {flow.port}" if others else protocol


def _is_everything(case: Case) -> bool:
    """Whether no method that was tried passes between the hosts."""
    return len(case.hosts) > 1 and Outcome.OK not in case.hosts.values()


def _zones(case: Case, sender: str, receiver: str, *, only_pods: bool) -> tuple[str, str] | None:
    """The two zones, if every measured pair of nodes across them fails as this one does and there are several."""
    nodes = case.cluster.nodes
    here, there = nodes[sender].zone, nodes[receiver].zone
    if not here or not there or here == there:
        return None
    kind = MatrixKind.POD if only_pods else MatrixKind.HOST
    states: dict[frozenset[str], set[CellState]] = {}
    for path, status in case.sampled():
        for end in (
            path.destination_nodes
            if path.kind is kind and path.method is (Method.UDP if only_pods else path.method)
            else ()
        ):
            if (
                end in nodes
                and path.source_node in nodes
                and {nodes[path.source_node].zone, nodes[end].zone} == {here, there}
            ):
                states.setdefault(frozenset({path.source_node, end}), set()).add(status.state)
    if len(states) < 2 or any(CellState.FAILING not in seen for seen in states.values()):
        return None
    return here, there


def _pairs(case: Case, zones: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    here = [n.name for n in case.cluster.nodes.values() if n.zone == zones[0]]
    there = [n.name for n in case.cluster.nodes.values() if n.zone == zones[1]]
    return tuple((a, b) for a in sorted(here) for b in sorted(there))


CAUSE = CauseType(
    code=CODE,
    title="The network between hosts drops packets",
    sign="pairs of hosts, or all pairs of two zones; all traffic, or one protocol or port",
    evidence="counted at both uplinks: left the one, never reached the other",
    find=find,
    concerns=lambda flow: flow.crosses,
    needs=frozenset({"links", "addresses"}),
    late=True,
)
