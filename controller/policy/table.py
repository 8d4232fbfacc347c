"""The relation between groups of pods (namespaces, workloads): all that may pass from one to the other. Pure.

By equivalence classes, never by pairs of pods. A pod to itself counts for nothing much, so it is not left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

from msgspec import Struct

from controller.policy.model import PolicyModel
from controller.policy.objects import PROTOCOLS, Owner, Pod
from controller.policy.ports import ALL, ranges, ranges_text
from controller.policy.relation import blocks
from controller.policy.universe import bits_of, mask_of

SHOWN_PORTS = 8


class Expected(StrEnum):
    """What may pass between two groups: everything between all pods, something, nothing, or it is left open."""

    ALLOWED = "allowed"
    PARTLY = "partly"
    DENIED = "denied"
    UNKNOWN = "unknown"


class Entry(Struct, frozen=True):
    """What may pass from one group to another; `ports` in words ("TCP 8080"), of any pod to any other."""

    expected: Expected
    ports: tuple[str, ...] = ()


NOTHING = Entry(Expected.DENIED)
EVERYTHING = Entry(Expected.ALLOWED)
LEFT_OPEN = Entry(Expected.UNKNOWN)
Groups = dict[str, int]


def groups_of(model: PolicyModel, name_of: Callable[[Pod], str]) -> Groups:
    """Groups by name, each the set of items that its pods are; pods that count as their node are left out."""
    universe = model.universe
    found: dict[str, set[int]] = {}
    for place, pod in universe.pods.items():
        if not pod.terminated and not universe.counts_as_node(pod):
            found.setdefault(name_of(pod), set()).add(universe.pod_item[place])
    size = len(universe.items)
    return {name: mask_of(found[name], size) for name in sorted(found)}


def by_namespace(pod: Pod) -> str:
    """The namespace."""
    return pod.namespace


def by_workload(pod: Pod) -> str:
    """The workload, "namespace/name"; a pod without one stands for itself."""
    owner = pod.owner or Owner("Pod", pod.name)
    return f"{pod.namespace}/{owner.name}"


def table(model: PolicyModel, groups: Groups) -> dict[tuple[str, str], Entry]:
    """What may pass between any two groups; a pair that is not in it may exchange nothing."""
    names, sizes = list(groups), [mask.bit_count() for mask in groups.values()]
    whole: dict[tuple[int, int], int] = {}
    # Sets of ports are long numbers: pairs keep which ones they have, and those are joined once for each combination.
    kinds: dict[int, int] = {}
    ports: dict[tuple[int, int], int] = {}
    unknown: set[tuple[int, int]] = set()
    for block in blocks(model):
        kind = 1 << kinds.setdefault(block.allowed, len(kinds))
        full = block.allowed == ALL
        destinations = _counts(block.destinations, groups.values())
        for source, senders in _counts(block.sources, groups.values()):
            for destination, receivers in destinations:
                pair = (source, destination)
                ports[pair] = ports.get(pair, 0) | kind
                if full:
                    whole[pair] = whole.get(pair, 0) + senders * receivers
                if block.unknown:
                    unknown.add(pair)
    entries: dict[int, Entry] = {}
    found = {}
    for pair, chosen in ports.items():
        source, destination = pair
        if whole.get(pair) == sizes[source] * sizes[destination]:
            entry = EVERYTHING
        else:
            if chosen not in entries:
                entries[chosen] = _some(chosen, list(kinds))
            entry = entries[chosen]
            if entry is NOTHING and pair in unknown:
                entry = LEFT_OPEN
        found[names[source], names[destination]] = entry
    return found


def _some(chosen: int, kinds: list[int]) -> Entry:
    bits = 0
    for at in bits_of(chosen):
        bits |= kinds[at]
    return Entry(Expected.PARTLY, _words(bits)) if bits else NOTHING


def _counts(mask: int, groups: Iterable[int]) -> list[tuple[int, int]]:
    return [(at, (mask & group).bit_count()) for at, group in enumerate(groups) if mask & group]


def _words(bits: int) -> tuple[str, ...]:
    if bits == ALL:
        return ("every port of some pods",)
    said = [f"{protocol} {ranges_text(spans)}" for protocol in PROTOCOLS if (spans := ranges(bits, protocol))]
    return tuple(said[:SHOWN_PORTS])
