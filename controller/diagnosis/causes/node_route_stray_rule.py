"""A routing rule (`ip rule`) of a host takes the flow's packets away from the main table, and throws them away."""

from __future__ import annotations

from collections.abc import Iterator

from controller.diagnosis.case import MAIN, THROWN, Case, Place, Prefix
from controller.diagnosis.catalogue import CauseType
from controller.diagnosis.finding import Finding
from controller.diagnosis.scope import Scope
from model.diagnosis import Cause, Evidence, Object
from model.facts import PolicyRule, Route

CODE = "node.route_stray_rule"
# What the kernel answers for an action of a rule (net/ipv4/fib_rules.c).
BY_ACTION = {"blackhole": (22, "EINVAL"), "unreachable": (101, "ENETUNREACH"), "prohibit": (13, "EACCES")}
OWN_TABLES = {MAIN: "main", 253: "default", 255: "local"}


def find(case: Case) -> Iterator[Finding]:
    """Yield the rule that decides over the flow on one of its nodes, if it throws away and the kernel says so."""
    for node, source, destination, _reply in case.flow.ways():
        if destination.node == node and destination.pod is None:
            continue
        answer = case.route_answer(node, source, destination)
        if answer is None or not answer.errno:
            continue
        found = _deciding(case, node, source, destination, answer.incoming)
        if found is None:
            continue
        rule, route = found
        number, word = BY_ACTION[rule.action] if route is None else THROWN[route.type]
        # IPv6 says ENETUNREACH or EINVAL for any type of route (net/ipv6/route.c).
        if answer.errno == number or (case.flow.family == 6 and route is not None):
            yield _finding(case, node, destination, rule, route, word)
            return


def _deciding(
    case: Case, node: str, source: Place, destination: Place, incoming: str
) -> tuple[PolicyRule, Route | None] | None:
    """The rule, and the route of its table, that throw a packet away; None where it is routed, or that is not known."""
    facts = case.host(node)
    for rule in sorted((facts.rules or ()) if facts else (), key=lambda r: r.priority):
        if rule.family != case.flow.family:
            continue
        if rule.unread:
            return None
        if _matches(rule, source.address, destination.address, incoming) is rule.inverted:
            continue
        if rule.action in BY_ACTION:
            return rule, None
        route = case.best_route(node, destination.address, rule.table) if rule.action == "to_table" else None
        if route is None or route.type == "throw" or Prefix(route.destination).length <= rule.suppressed:
            continue
        # A route of the main table that throws away is a fault of its own, node.route_blackhole.
        return (rule, route) if route.type in THROWN and rule.table not in OWN_TABLES else None
    return None


def _matches(rule: PolicyRule, source: str, destination: str, incoming: str) -> bool:
    # What is bound to a device, or marked, is asked for by nobody here.
    if rule.outgoing or rule.mark:
        return False
    return (
        (not rule.source or source in Prefix(rule.source))
        and (not rule.destination or destination in Prefix(rule.destination))
        and (not rule.incoming or rule.incoming == (incoming or "lo"))
    )


def selector_of(rule: PolicyRule) -> str:
    """What a rule is about and does, in the words of `ip rule`."""
    words = ["not"] if rule.inverted else []
    words += ["from", rule.source or "all"]
    words += ["to", rule.destination] if rule.destination else []
    words += ["iif", rule.incoming] if rule.incoming else []
    words += ["lookup", OWN_TABLES.get(rule.table, str(rule.table))] if rule.action == "to_table" else [rule.action]
    return " ".join(words)


def _finding(case: Case, node: str, destination: Place, rule: PolicyRule, route: Route | None, word: str) -> Finding:
    text = selector_of(rule)
    then = f", where the {route.type} route {route.destination} is met," if route is not None else ""
    said = f"the kernel of {node} answers {word} for {destination.address}"
    six = "-6 " if rule.family == 6 else ""
    cause = Cause(
        code=CODE,
        confidence=0.97,
        object=Object(kind="routing-rule", node=node, name=str(rule.priority), text=f"{rule.priority}: {text}"),
        summary=f"the routing rule {rule.priority} on {node} ({text}){then}"
        f" throws away what goes to {destination.whose}",
        evidence=(
            Evidence(fact="routing_rule", node=node, value=text, says="the first rule that decides over the packet"),
            Evidence(fact="route_get", node=node, value=word, says=said),
        ),
        fix=f"ip {six}rule del pref {rule.priority} {text}",
        suppresses=CAUSE.suppresses,
    )
    pairs = ((node, destination.node),) if rule.destination and destination.node not in {"", node} else ()
    scope = Scope(pairs=pairs, nodes=() if pairs else (node,), network=case.flow.network, family=case.flow.family)
    return Finding(cause=cause, scope=scope)


CAUSE = CauseType(
    code=CODE,
    title="A routing rule throws packets away",
    sign="row or column of the pods' network of one node, or what the rule selects",
    evidence="the first of the rules of `ip rule` that decides over the packet throws it away, by itself or by a route"
    " of the table that it leads to, and the kernel answers with its errno",
    find=find,
    concerns=lambda flow: bool(flow.destination.address),
    needs=frozenset({"routes", "rules"}),
    suppresses=("node.rp_filter", "fabric.blocked", "dns.replica_down", "dns.all_down", "cni.cidr_overlap"),
)
