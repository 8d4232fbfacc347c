"""The model against an evaluator written literally from the specification, and its own three faces against each
other, on random clusters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address
from random import Random
from typing import Any

from controller.policy import AddressRef, PeerName, PodRef, PolicyModel, Profile, RangeName, blocks, relation
from controller.policy.peers import PeerRef
from controller.policy.ports import OFFSETS, ranges
from controller.policy.universe import bits_of
from tests.controller.policy.building import model_of
from tests.controller.policy.naive import PROTOCOLS, Cluster, Question, is_host, used_addresses
from tests.controller.policy.random_clusters import OUTSIDE, PORTS
from tests.controller.policy.random_clusters import cluster as random_cluster

EXAMPLES = int(os.environ.get("KUBEREACH_EXAMPLES", "150"))
FIRST = int(os.environ.get("KUBEREACH_SEED", "1"))


def clusters() -> Iterator[tuple[int, Cluster]]:
    """Give the random clusters of this run, each with its seed."""
    for seed in range(FIRST, FIRST + EXAMPLES):
        yield seed, random_cluster(Random(seed))


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


def test_decisions_agree_with_the_literal_reading() -> None:
    """Every pair of peers, protocol and port has the verdict that the text of the specification gives it."""
    for seed, cluster in clusters():
        model = build(cluster)
        for source, destination in pairs(cluster):
            for protocol in PROTOCOLS:
                for port in PORTS:
                    got = model.decide(ref(source), ref(destination), protocol, port)
                    expected = Question(cluster, source, destination, protocol, port).allowed()
                    if open_by_design(source, destination, got.allowed):
                        assert expected is False, seed
                        continue
                    assert got.allowed is expected, (seed, source, destination, protocol, port, got)
                    assert got.because
                    assert bool(got.missing) is not expected


def test_the_relation_agrees_with_decisions() -> None:
    """A port is listed for a pair exactly if it is allowed, and outside ranges cover every address once."""
    for seed, cluster in clusters():
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
                    inside = any(first <= port <= last for first, last in spots)
                    assert (got.allowed is True) is inside, (seed, source, destination, protocol, port, got)


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


def test_blocks_agree_with_pairs() -> None:
    """The relation by classes says of every pair of items what judging that pair alone says, and says it once."""
    for seed, cluster in clusters():
        model = build(cluster)
        count = len(model.universe.items)
        found = list(blocks(model))
        for source in range(count):
            for destination in range(count):
                hits = [block for block in found if (block.sources >> source) & (block.destinations >> destination) & 1]
                assert len(hits) <= 1, seed
                leaving, entering = model.judge_items(source, destination)
                assert (hits[0].allowed if hits else 0) == leaving.allowed & entering.allowed, seed


def test_policies_that_may_not_be_implemented_leave_open_what_depends_on_them() -> None:
    """Where a plugin that implements them and one that does not agree, that is the answer; elsewhere there is none."""
    doubted = frozenset({"AdminNetworkPolicy", "ClusterNetworkPolicy"})
    for seed, cluster in clusters():
        select = cluster.blocks_select_pods
        certain = [policy for policy in cluster.policies if policy["kind"] not in doubted]
        others = [*cluster.namespaces, *cluster.nodes, *cluster.pods]
        model = model_of([*others, *cluster.policies], profile=Profile(select, doubted=doubted))
        ends = [model_of([*others, *held], profile=Profile(select)) for held in (cluster.policies, certain)]
        found = list(blocks(model))
        for source, destination in pairs(cluster):
            for port in (80, 8080):
                question = (ref(source), ref(destination), "TCP", port)
                first, second = (end.decide(*question) for end in ends)
                got = model.decide(*question)
                if first.allowed is second.allowed and first.direction == second.direction:
                    assert got.allowed is first.allowed, (seed, question)
                else:  # Each direction is judged by itself, so two denials for different reasons may stay open.
                    assert got.allowed is None or first.allowed is second.allowed is got.allowed, (seed, question)
                assert bool(got.missing) is (got.allowed is not True)
        for block in found:
            source, destination = (bits_of(mask)[0] for mask in (block.sources, block.destinations))
            leaving, entering = model.judge_items(source, destination)
            maybe = (leaving.allowed | leaving.unknown) & (entering.allowed | entering.unknown)
            assert (block.allowed, block.allowed | block.unknown) == (leaving.allowed & entering.allowed, maybe), seed


def test_a_changed_model_equals_a_new_one() -> None:
    """Replacing policies gives the model that building with them gives."""
    before: Cluster | None = None
    for seed, cluster in clusters():
        if before is not None:
            changed = build(before).replace(policies=build(cluster).policies)
            objects = [*before.namespaces, *before.nodes, *before.pods, *cluster.policies]
            fresh = model_of(objects, profile=Profile(ip_blocks_select_pods=before.blocks_select_pods))
            for source, destination in pairs(before):
                for port in (80, 8080):
                    question = (ref(source), ref(destination), "TCP", port)
                    assert changed.decide(*question) == fresh.decide(*question), seed
        before = cluster


def test_ranges_are_the_ports_of_one_protocol() -> None:
    """Ranges of a set name just its ports, joined where they touch."""
    bits = sum(1 << (OFFSETS["UDP"] + port) for port in (1, 53, 54, 55, 65535)) | 1 << 80
    assert ranges(bits, "UDP") == ((1, 1), (53, 55), (65535, 65535))
    assert ranges(bits, "TCP") == ((80, 80),)
    assert ranges(bits, "SCTP") == ()
