"""Address ranges that are claimed twice across the cluster, with who claims each and what comes of it. Pure.

Two claims of one kind of thing are no overlap by themselves (every node may have a docker0). A wider range around
pods' addresses is none either: the more specific one wins, and that is how clusters lie in bigger networks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from controller.cluster.state import ClusterState
from controller.facts.claims import (
    BALANCER,
    BALANCER_POOL,
    LINK,
    NODE,
    POD_POOL,
    PODS,
    ROUTE,
    SERVICE,
    SERVICE_POOL,
    Claim,
    Network,
    of_cluster,
    of_node,
)  # fmt: skip

MOST: Final = 200


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """Two claims on the same addresses. `cidr` is what they share; `effect` what comes of it, in words."""

    cidr: str
    claims: tuple[Claim, Claim]
    effect: str


# Of which kinds a pair is an overlap, and what comes of it. A node's link or route that is at least as specific as what
# it meets takes its packets.
EFFECTS: Final = {
    (PODS, PODS): "{one.node} and {other.node} give pods the same addresses",
    (NODE, PODS): "packets for {other.who} and for {one.node} itself cannot be told apart",
    (SERVICE, PODS): "packets for a pod with this address go to {one.who}",
    (BALANCER, PODS): "packets for a pod with this address go to {one.who}",
    (NODE, SERVICE): "{other.who} and {one.node} have one address",
    (LINK, PODS): "packets of {one.node} for {other.who} leave by {one.who}",
    (ROUTE, PODS): "packets of {one.node} for {other.who} take the {one.who}",
    (SERVICE, LINK): "who has this address behind {other.who} cannot be reached from there: it is {one.who}'s",
    # What is given out later: pods have addresses of their pool by design, load balancers often those of the nodes'
    # network.
    (NODE, POD_POOL): "a pod may be given the address of {one.node}",
    (NODE, SERVICE_POOL): "a Service may be given the address of {one.node}",
    (NODE, BALANCER_POOL): "a load balancer may be given the address of {one.node}",
    (SERVICE, POD_POOL): "a pod may be given the address of {one.who}",
    (BALANCER, POD_POOL): "a pod may be given the address of {one.who}",
    (SERVICE_POOL, PODS): "a Service may be given a pod's address; packets for that pod then go to the Service",
    (BALANCER_POOL, PODS): "a load balancer may be given a pod's address; packets for that pod then go to the Service",
    (POD_POOL, POD_POOL): "both may give one address to two pods",
    (SERVICE_POOL, POD_POOL): "one address may be given to a Service and to a pod",
    (BALANCER_POOL, POD_POOL): "one address may be given to a load balancer and to a pod",
    (SERVICE_POOL, BALANCER_POOL): "one address may be given to two Services, within and from outside",
    (BALANCER_POOL, BALANCER_POOL): "both may give one address to two Services",
    (LINK, POD_POOL): "packets of {one.node} for pods that get an address of these leave by {one.who}",
    (ROUTE, POD_POOL): "packets of {one.node} for pods that get an address of these take the {one.who}",
    (SERVICE_POOL, LINK): "who is behind {other.who} with an address that a Service gets cannot be reached from there",
}
LOCAL: Final = frozenset({LINK, ROUTE})
# Whose addresses come from which pool.
GIVEN: Final = {POD_POOL: PODS, SERVICE_POOL: SERVICE, BALANCER_POOL: BALANCER}
GIVES: Final = {given: pool for pool, given in GIVEN.items()}


def overlaps(cluster: ClusterState, facts: Mapping[str, Mapping[str, Any]]) -> tuple[Overlap, ...]:
    """All overlaps, by address; at most MOST. `facts` are plain JSON values by node and subject."""
    claims = list(of_cluster(cluster))
    index = _Index(claims)
    found: dict[tuple[str, ...], Overlap] = {}
    nodes = frozenset(address for node in cluster.nodes.values() for address in node.addresses)
    local: list[Claim] = []
    for name, its in facts.items():
        own = cluster.nodes[name].pod_cidrs if name in cluster.nodes else ()
        local += of_node(name, its, own, nodes)
    for claim in (*claims, *local):
        for other in index.meeting(claim.network):
            overlap = _overlap(claim, other)
            if overlap is not None:
                found.setdefault(_key(overlap), overlap)
    ordered = sorted(
        _plainest(found.values()), key=lambda one: (one.claims[0].network.version, one.claims[0].network, one.effect)
    )
    return tuple(ordered[:MOST])


def _overlap(one: Claim, other: Claim) -> Overlap | None:
    if one.kind == other.kind and one.who == other.who:
        return None
    for first, second in ((one, other), (other, one)):
        effect = EFFECTS.get((first.kind, second.kind))
        if effect is None:
            continue
        inner, outer = first.network, second.network
        if first.kind in LOCAL and inner.prefixlen < outer.prefixlen:
            # The pods' route is more specific, and wins.
            return None
        if first.kind in LOCAL and first.node == second.node:
            return None
        shared = inner if inner.prefixlen >= outer.prefixlen else outer
        return Overlap(cidr=str(shared), claims=(first, second), effect=effect.format(one=first, other=second))
    return None


def _plainest(found: Collection[Overlap]) -> Iterator[Overlap]:
    """One sentence for one mistake: what is taken says more than what may be; of two pools their ranges say it all."""
    pairs = {(claim, other.kind) for one in found for claim, other in (one.claims, one.claims[::-1])}
    for overlap in found:
        for claim, other in (overlap.claims, overlap.claims[::-1]):
            better = GIVES.get(other.kind) if claim.kind in GIVEN else GIVEN.get(other.kind)
            if better is not None and (claim, better) in pairs:
                break
        else:
            yield overlap


def _key(overlap: Overlap) -> tuple[str, ...]:
    """What makes two overlaps one; of a link that has many Services' addresses the first is told."""
    one, other = overlap.claims
    if (one.kind, other.kind) == (SERVICE, LINK):
        return (other.cidr, other.who)
    return (overlap.cidr, *sorted(f"{claim.kind} {claim.cidr} {claim.who}" for claim in overlap.claims))


class _Index:
    """Finds the claims that share addresses with a network."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._by_network: dict[Network, list[Claim]] = {}
        for claim in claims:
            self._by_network.setdefault(claim.network, []).append(claim)
        self._sorted = {
            version: sorted((one for one in self._by_network if one.version == version), key=_order)
            for version in (4, 6)
        }
        self._starts = {version: [_order(one) for one in found] for version, found in self._sorted.items()}
        self._lengths = {version: sorted({one.prefixlen for one in found}) for version, found in self._sorted.items()}

    def meeting(self, network: Network) -> Iterator[Claim]:
        """Claims of networks that contain this one, are it, or lie in it."""
        version = network.version
        for length in self._lengths[version]:
            if length <= network.prefixlen:
                yield from self._by_network.get(network.supernet(new_prefix=length), ())
        found, starts = self._sorted[version], self._starts[version]
        at = bisect_left(starts, _order(network))
        last = int(network.broadcast_address)
        while at < len(found) and int(found[at].network_address) <= last:
            if found[at].prefixlen > network.prefixlen:
                yield from self._by_network[found[at]]
            at += 1


def _order(network: Network) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen
