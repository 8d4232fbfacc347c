"""Strict reverse path filter: a host refuses packets whose sender it would answer by another device."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import Case, Place
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import RouteAnswer

CODE = "node.rp_filter"
EINVAL = 22
STRICT = "1"


def find(case: Case) -> Iterator[Finding]:
    """Yield the sysctl, where the kernel refuses a packet, has a way to its destination, and another way to its sender.

    The stricter of `all` and the device's own holds (IN_DEV_RPFILTER, net/ipv4/fib_frontend.c; RFC 3704).
    """
    if case.flow.family != 4:
        return
    for node, source, destination, _reply in case.flow.ways():
        answer = case.route_answer(node, source, destination)
        if answer is None or answer.errno != EINVAL or not answer.incoming:
            continue
        key = _strict(case, node, answer.incoming)
        on, back = case.own_route(node, destination), case.own_route(node, source)
        if key and on is not None and not on.errno and back is not None and back.device != answer.incoming:
            yield _finding(case, node, source, answer, back, key)


def _strict(case: Case, node: str, device: str) -> str:
    keys = [f"net.ipv4.conf.{name}.rp_filter" for name in (device.replace(".", "/"), "all")]
    values = {key: case.sysctl(node, key) or "0" for key in keys}
    if max(values.values()) != STRICT:
        return ""
    return next(key for key, value in values.items() if value == STRICT)


def _finding(case: Case, node: str, source: Place, answer: RouteAnswer, back: RouteAnswer, key: str) -> Finding:
    way = f"would answer by {back.device}" if back.device else "has no way back"
    says = f"packets of {source.address} come in by {answer.incoming}, and {node} {way}"
    refused = f"the kernel of {node} refuses a packet of {source.address} on {answer.incoming}: EINVAL"
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=Object(kind="sysctl", node=node, name=key),
        summary=f"the reverse path filter of {node} drops what {source.address} sends by {answer.incoming}",
        evidence=(
            Evidence(fact="sysctl", node=node, value=STRICT, says=f"{key} is 1 (strict) on {node}"),
            Evidence(fact="route_get", node=node, value="22", says=refused),
            Evidence(fact="route_get", node=node, says=says),
        ),
        fix=f"sysctl -w {key}=2, or have the route to {source.address} lead by {answer.incoming}",
        suppresses=CAUSE.suppresses,
    )
    flow = case.flow
    pair = (flow.source.node, flow.destination.node)
    scope = Scope(pairs=(pair,), network=flow.network, family=4) if all(pair) else Scope(nodes=(node,), family=4)
    return Finding(cause=cause, scope=scope)


CAUSE = CauseType(
    code=CODE,
    title="The reverse path filter drops packets",
    sign="one direction, some sources; where routes are asymmetric",
    evidence="the sysctl, and the kernel's answers for the packet, its destination and its source",
    find=find,
    concerns=lambda flow: flow.family == 4 and bool(flow.destination.address),
    needs=frozenset({"sysctls", "routes"}),
    late=True,
    suppresses=("fabric.blocked", "dns.replica_down", "dns.all_down"),
)
