"""The model against an evaluator written literally from the specification, and its own three faces against each
other, on random clusters.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Any

from hypothesis import HealthCheck, given, settings

from controller.policy import AddressRef, PeerName, PodRef, PolicyModel, Profile, RangeName, blocks, relation
from controller.policy.peers import PeerRef
from controller.policy.ports import OFFSETS, ranges
from tests.controller.policy.building import model_of
from tests.controller.policy.naive import PROTOCOLS, Cluster, Question, is_host, used_addresses
from tests.controller.policy.random_clusters import OUTSIDE, PORTS, clusters

EXAMPLES = int(os.environ.get("KUBEREACH_EXAMPLES", "40"))
often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def build(cluster: Cluster) -> PolicyModel:
    """Make the model of a random cluster."""
    objects = [*cluster.namespaces, *cluster.nodes, *cluster.pods, *cluster.policies]
    return model_of(objects, profile=Profile(ip_blocks_select_pods=cluster.blocks_select_pods))


def ref(peer: dict[str, Any] | str) -> PeerRef:
    """Name a peer as the model wants it."""
    if isinstance(peer, str):
        return AddressRef(peer)
    return PodRef(peer["metadata"]["namespace"], peer["metadata"]["name"])


def pairs(cluster: Cluster) -> list[tuple[Any, Any]]:
    """Give the pairs of peers that can be asked about."""
    found: list[tuple[Any, Any]] = [(a, b) for a in cluster.pods for b in cluster.pods if ref(a) != ref(b)]
    for address in OUTSIDE:
        found += [(pod, address) for pod in cluster.pods] + [(address, pod) for pod in cluster.pods]
    # Peers without a common address family have no connection that a policy could be asked about.
    return [pair for pair in found if None not in used_addresses(*pair)]


def open_by_design(source: Any, destination: Any, allowed: bool | None) -> bool:
    """Egress to a pod's own node is left open where NetworkPolicy alone denies it."""
    if not isinstance(destination, dict) or not isinstance(source, dict):
        return False
    return allowed is None and is_host(destination) and source["spec"]["nodeName"] == destination["spec"]["nodeName"]


@often
@given(clusters())
def test_decisions_agree_with_the_literal_reading(cluster: Cluster) -> None:
    """Every pair of peers, protocol and port has the verdict that the text of the specification gives it."""
    model = build(cluster)
    for source, destination in pairs(cluster):
        for protocol in PROTOCOLS:
            for port in PORTS:
                got = model.decide(ref(source), ref(destination), protocol, port)
                expected = Question(cluster, source, destination, protocol, port).allowed()
                if open_by_design(source, destination, got.allowed):
                    assert expected is False
                    continue
                assert got.allowed is expected, (source, destination, protocol, port, got)
                assert got.because
                assert bool(got.missing) is not expected


@often
@given(clusters())
def test_the_relation_agrees_with_decisions(cluster: Cluster) -> None:
    """A port is listed for a pair exactly if it is allowed, and outside ranges cover every address once."""
    model = build(cluster)
    found = relation(model)
    listed: dict[tuple[Any, Any, str], list[tuple[int, int]]] = {}
    for row in found.allowed:
        listed[_key(row.source), _key(row.destination), row.protocol] = list(row.ports)
    spans = {peer for row in found.allowed for peer in (row.source, row.destination) if isinstance(peer, RangeName)}
    for source, destination in pairs(cluster):
        for protocol in PROTOCOLS:
            ends = [_within(peer, spans) for peer in (source, destination)]
            spots = listed.get((ends[0], ends[1], protocol), [])
            for port in (*PORTS, 1, 65535):
                got = model.decide(ref(source), ref(destination), protocol, port)
                assert (got.allowed is True) is any(first <= port <= last for first, last in spots)


def _key(peer: PeerName | RangeName) -> Any:
    return peer if isinstance(peer, RangeName) else PodRef(peer.namespace, peer.name)


def _within(peer: Any, spans: set[RangeName]) -> Any:
    if isinstance(peer, dict):
        return ref(peer)
    value = ip_address(peer)
    for span in spans:
        first, last = ip_address(span.first), ip_address(span.last)
        if first.version == value.version and int(first) <= int(value) <= int(last):
            return span
    return None


@often
@given(clusters())
def test_blocks_agree_with_pairs(cluster: Cluster) -> None:
    """The relation by classes says of every pair of items what judging that pair alone says, and says it once."""
    model = build(cluster)
    count = len(model.universe.items)
    found = list(blocks(model))
    for source in range(count):
        for destination in range(count):
            hits = [block for block in found if (block.sources >> source) & (block.destinations >> destination) & 1]
            assert len(hits) <= 1
            leaving, entering = model.judge_items(source, destination)
            assert (hits[0].allowed if hits else 0) == leaving.allowed & entering.allowed


@often
@given(clusters(), clusters())
def test_a_changed_model_equals_a_new_one(first: Cluster, second: Cluster) -> None:
    """Replacing policies gives the model that building with them gives."""
    policies = build(second).policies
    changed = build(first).replace(policies=policies)
    objects = [*first.namespaces, *first.nodes, *first.pods, *second.policies]
    fresh = model_of(objects, profile=Profile(ip_blocks_select_pods=first.blocks_select_pods))
    for source, destination in pairs(first):
        for port in (80, 8080):
            question = (ref(source), ref(destination), "TCP", port)
            assert changed.decide(*question) == fresh.decide(*question)


def test_ranges_are_the_ports_of_one_protocol() -> None:
    """Ranges of a set name just its ports, joined where they touch."""
    bits = sum(1 << (OFFSETS["UDP"] + port) for port in (1, 53, 54, 55, 65535)) | 1 << 80
    assert ranges(bits, "UDP") == ((1, 1), (53, 55), (65535, 65535))
    assert ranges(bits, "TCP") == ((80, 80),)
    assert ranges(bits, "SCTP") == ()
