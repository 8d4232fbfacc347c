"""A packet filter inside a pod: found at both ends and both ways, and only where the walk is sure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.diagnosis import explain
from controller.diagnosis.case import Flow, Place, packets_in_pod
from controller.diagnosis.causes.cni_pod_rules import CODE, find
from controller.diagnosis.scope import Scope
from model.facts import Facts, Packet, Walk
from model.netfilter import RuleRef
from model.words import Method
from tests.controller.diagnosis import world

RULE = RuleRef(
    backend="nft_compat",
    family=4,
    table="filter",
    chain="INPUT",
    position=2,
    text="-p udp -m udp --dport 8700 -j DROP",
    delete_command="iptables -D INPUT 2",
)
FLOW = world.pod_flow()


def asked(flow: Flow, place: Place, *, reply: bool) -> Packet:
    """The packet that the pod at an end meets, there or back."""
    return packets_in_pod(flow, place)[reply]


def walked(flow: Flow, place: Place, verdict: str, rule: RuleRef | None, *, reply: bool = False) -> Facts:
    """What the pod's own namespace makes of that packet."""
    packet = asked(flow, place, reply=reply)
    return Facts(walks=(Walk(asked=packet, verdict=verdict, packet=packet, decided_by=rule),))


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize("end", ["source", "destination"])
def test_named_with_pod_and_rule(end: str, reply: bool) -> None:
    """The object is the rule in that pod; the paths are those to it."""
    place: Place = getattr(FLOW, end)
    after = {place.site: walked(FLOW, place, "drop", RULE, reply=reply)}
    (found,) = explain.ordered(explain.late(world.case(FLOW, burst=world.failed(), after=after)))
    thing, pod = found.cause.object, place.pod
    assert pod is not None
    assert (found.cause.code, thing.node, thing.namespace, thing.name) == (
        CODE,
        place.node,
        "shop",
        f"{pod.name}/filter/INPUT/2",
    )
    assert found.cause.fix == "in the pod's namespace: iptables -D INPUT 2"
    assert found.scope == Scope(targets=(pod.uid,))


def test_a_chains_policy_counts_and_an_unsure_walk_does_not() -> None:
    """Position 0 is the policy of a chain; what the walk cannot judge is no answer, and neither is an accept."""
    place = FLOW.destination
    policy = RuleRef(backend="legacy", family=4, table="filter", chain="INPUT", position=0, text="policy DROP")

    def codes(verdict: str, rule: RuleRef | None) -> list[str]:
        after = {place.site: walked(FLOW, place, verdict, rule)}
        return [f.cause.code for f in find(world.case(FLOW, burst=world.failed(), after=after))]

    assert codes("drop", policy) == [CODE]
    assert codes("unsure", RULE) == codes("accept", RULE) == codes("drop", None) == []


def test_behind_a_service_its_whole_column_is_concerned() -> None:
    """The path that failed was one to the Service."""
    flow = replace(world.pod_flow(Method.TCP, 8080), service=world.SERVICE, service_port=world.SERVICE.ports[0])
    after = {flow.destination.site: walked(flow, flow.destination, "reject", RULE)}
    (found,) = find(world.case(flow, burst=world.failed(), after=after))
    assert found.scope == Scope(columns=("shop/web:80/tcp",))
    assert "rejects tcp" in found.cause.summary


def test_the_pod_meets_its_own_packets_and_those_of_the_other_end() -> None:
    """What it sends comes from no device, what it is sent by that which leads to the sender."""
    source, destination = FLOW.source, FLOW.destination
    there, back = packets_in_pod(FLOW, source)
    assert (there.incoming, there.state, there.destination_port) == ("", "new", 8700)
    assert (back.incoming, back.state, back.source_port) == (f"@{destination.address}", "established", 8700)
    there, back = packets_in_pod(FLOW, destination)
    assert (there.incoming, back.incoming) == (f"@{source.address}", "")
