"""Who probes whom when there are too many nodes for a full mesh, and who relays for whom. Pure.

Nodes stand on a ring in the order of a keyed hash. A node probes those at the same offsets as every other node does, so
each sends and receives the same number. FIXED offsets have distinct pairwise differences, so that two nodes share at
most one target; all other offsets are stepped through, a block an epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import gcd
from typing import Final

from model.probes import stable_id

FULL_MESH_S: Final = 30.0
# The optimal Golomb ruler of order 16: all differences of its marks are distinct.
RULER: Final = (0, 1, 4, 11, 26, 32, 56, 68, 76, 115, 117, 134, 150, 163, 168, 177)
FIXED: Final = len(RULER)
FIXED_INTERVAL_S: Final = 2.0
STEP_RATE: Final = 8.0
EPOCH_S: Final = 30.0
STEPS: Final = int(STEP_RATE * EPOCH_S)
ZONE_EDGES: Final = 4
RELAYS: Final = 3


def is_full_mesh(nodes: int, rate: float) -> bool:
    """Whether every node can probe every other within FULL_MESH_S at `rate` probes a second."""
    return (nodes - 1) / rate <= FULL_MESH_S


def ring_of(zones: Mapping[str, str], key: str) -> tuple[str, ...]:
    """Node names (of node → zone) in the order of a keyed hash, such that the fixed offsets join every pair of zones.

    The key is varied until every ordered pair of zones (a zone and itself too) has ZONE_EDGES edges, or as many as it
    can have; after 16 tries the best is taken.
    """
    best: tuple[int, tuple[str, ...]] | None = None
    offsets = fixed_offsets(len(zones), key)
    for turn in range(16):
        ring = tuple(sorted(zones, key=lambda name: stable_id(key, turn, name)))
        worst = fewest_zone_edges(ring, offsets, zones)
        if best is None or worst > best[0]:
            best = (worst, ring)
        if worst >= ZONE_EDGES:
            break
    return best[1] if best else ()


def fewest_zone_edges(ring: Sequence[str], offsets: Sequence[int], zones: Mapping[str, str]) -> int:
    """The edges of the ordered pair of zones that has fewest; a pair that cannot have ZONE_EDGES counts as full."""
    edges: Counter[tuple[str, str]] = Counter()
    count = len(ring)
    for index, name in enumerate(ring):
        for offset in offsets:
            edges[zones[name], zones[ring[(index + offset) % count]]] += 1
    sizes = Counter(zones[name] for name in ring)
    return min(
        (
            edges[one, other] if sizes[one] * (sizes[other] - (one == other)) >= ZONE_EDGES else ZONE_EDGES
            for one in sizes
            for other in sizes
        ),
        default=ZONE_EDGES,
    )


def fixed_offsets(count: int, key: str) -> tuple[int, ...]:
    """The FIXED offsets of a ring of `count`: the ruler, stretched and turned by the key.

    From 2 × 177 + 1 nodes on, no two pairs of them differ by the same, modulo count.
    """
    seed = int(stable_id(key, "offsets", count), 16)
    stretch = next(s for s in range(1 + seed % count, 3 * count) if gcd(s, count) == 1)
    for turn in range(count):
        offsets = tuple((mark * stretch + seed // count + turn) % count for mark in RULER)
        if 0 not in offsets:
            return offsets
    return tuple(range(1, count))[:FIXED]


def step_offsets(count: int, key: str, epoch: int) -> tuple[int, ...]:
    """The offsets of one epoch: block by block, all but the fixed ones within (count − 1) / STEP_RATE seconds."""
    fixed = set(fixed_offsets(count, key))
    others = [offset for offset in range(1, count) if offset not in fixed]
    blocks = max(1, -(-len(others) // STEPS))
    # Equal blocks, so that the last one is no shorter.
    return tuple(others[epoch % blocks :: blocks])


def targets(ring: Sequence[str], alive: frozenset[str], index: int, offsets: Sequence[int]) -> tuple[str, ...]:
    """The nodes at these offsets from ring[index]; one that left is replaced by the next on the ring, for it alone."""
    count, found = len(ring), dict[str, None]()
    for offset in offsets:
        for further in range(count):
            name = ring[(index + offset + further) % count]
            if name in alive and name != ring[index] and (further == 0 or name not in found):
                found[name] = None
                break
    return tuple(found)


def relays_of(zones: Mapping[str, str], key: str) -> dict[str, tuple[str, ...]]:
    """Node → up to RELAYS neighbours that pass its stream on: two of other zones and one of its own, where there are.

    Taken from a ring, so that each node serves about as many as serve it.
    """
    ring = sorted(zones, key=lambda name: stable_id(key, "relay", name))
    count, found = len(ring), dict[str, tuple[str, ...]]()
    for index, name in enumerate(ring):
        nearest = [ring[(index + step) % count] for step in range(1, min(count, 64))]
        others = [n for n in nearest if zones[n] != zones[name]]
        own = [n for n in nearest if zones[n] == zones[name]]
        chosen = [*others[: RELAYS - 1], *own[:1]]
        rest = [n for n in (*others, *own) if n not in chosen]
        found[name] = tuple([*chosen, *rest][:RELAYS])
    return found
