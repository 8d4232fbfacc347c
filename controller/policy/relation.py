"""The complete relation: who may reach whom on which ports. Pure.

`blocks` gives it by equivalence classes, whatever the size of the cluster; `relation` writes it out pair by pair in
the shape of the contract of `kubereach policy -o json`, for manifests of a size that people read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from controller.policy.compiled import View
from controller.policy.evaluate import FREE_PORTS, PortJudgement, judge_ports
from controller.policy.model import PolicyModel
from controller.policy.objects import PROTOCOLS, NamedPort, Owner, Pod
from controller.policy.ports import ALL, Ranges, ranges

DEFAULT = "no policy selects either side"
MAX_PEERS = 500


class TooManyPeersError(ValueError):
    """More peers than a relation pair by pair is of use for; the text says how many."""


class PeerName(Struct, frozen=True, order=True):
    """A pod or a workload."""

    kind: str
    namespace: str
    name: str


class RangeName(Struct, frozen=True):
    """Outside addresses, first to last."""

    first: str
    last: str
    kind: Literal["AddressRange"] = "AddressRange"


class Row(Struct, frozen=True):
    """Ports of one protocol from one peer to another, and the policies that decided."""

    source: PeerName | RangeName
    destination: PeerName | RangeName
    protocol: str
    ports: Ranges
    because: tuple[str, ...]


class Relation(Struct, frozen=True):
    """What passes; what is in neither list is denied. `unknown` is what the standard leaves open."""

    allowed: tuple[Row, ...]
    unknown: tuple[Row, ...]


class Block(Struct, frozen=True):
    """Items of the universe that all reach one another in the same way (pairs of an item with itself included)."""

    sources: int
    destinations: int
    allowed: int
    unknown: int


@dataclass(frozen=True, slots=True)
class _Cell:
    allowed: int
    unknown: int
    because: tuple[str, ...]


_EMPTY = _Cell(0, 0, ())


def relation(
    model: PolicyModel, by: Literal["pod", "workload"] = "pod", owner_of: Callable[[Pod], Owner] | None = None
) -> Relation:
    """Write out the relation.

    By workload a row holds where any pod of the source reaches any pod of the destination. `owner_of` gives a pod's
    workload where its own `owner` is not the last word. Pairs of a peer with itself, and range to range, are left
    out, as are pods that have ended.

    Raises:
        TooManyPeersError: there are more than MAX_PEERS.

    """
    groups = _groups(model, by, owner_of or _owner)
    if len(groups) > MAX_PEERS:
        raise TooManyPeersError(f"{len(groups)} {by}s are more than the {MAX_PEERS} whose relation is written out")
    return _Writer(model).write(groups)


def _owner(pod: Pod) -> Owner:
    return pod.owner or Owner("Pod", pod.name)


def _groups(model: PolicyModel, by: str, owner_of: Callable[[Pod], Owner]) -> dict[PeerName, list[Pod]]:
    groups: dict[PeerName, list[Pod]] = {}
    for pod in model.universe.pods.values():
        if pod.terminated:
            continue
        owner = owner_of(pod) if by == "workload" else Owner("Pod", pod.name)
        groups.setdefault(PeerName(owner.kind, pod.namespace, owner.name), []).append(pod)
    return dict(sorted(groups.items()))


class _Writer:
    """Holds what was computed for pairs of items while rows are written."""

    def __init__(self, model: PolicyModel) -> None:
        self.model = model
        self.universe = model.universe
        self._cells: dict[tuple[int, int], _Cell] = {}

    def write(self, groups: dict[PeerName, list[Pod]]) -> Relation:
        found: list[tuple[PeerName | RangeName, PeerName | RangeName, _Cell]] = []
        for source, senders in groups.items():
            for destination, receivers in groups.items():
                if source != destination:
                    found.append((source, destination, self._between(senders, receivers)))
        for span, leaving, entering in self._ranges(groups):
            for name, cell in leaving.items():
                found.append((name, span, cell))
            for name, cell in entering.items():
                found.append((span, name, cell))
        spans: dict[int, tuple[list[tuple[str, Ranges]], list[tuple[str, Ranges]]]] = {}
        allowed, unknown = [], []
        for first, second, cell in found:
            # Cells are few and shared; `found` keeps them, so that an id stands for one cell.
            if id(cell) not in spans:
                spans[id(cell)] = (_spans(cell.allowed), _spans(cell.unknown))
            passing, open_ = spans[id(cell)]
            allowed += [Row(first, second, protocol, ports, cell.because) for protocol, ports in passing]
            unknown += [Row(first, second, protocol, ports, cell.because) for protocol, ports in open_]
        return Relation(tuple(allowed), tuple(unknown))

    def _between(self, senders: list[Pod], receivers: list[Pod]) -> _Cell:
        pairs = {(self._item(sender), self._item(receiver)) for sender in senders for receiver in receivers}
        cells = [self._cell(*pair) for pair in sorted(pairs)]
        return _merge([*cells, *self._own_node(senders, receivers)])

    def _own_node(self, senders: list[Pod], receivers: list[Pod]) -> Iterator[_Cell]:
        """Give what holds only between a node and the pods on it."""
        nodes = {pod.node for pod in senders if pod.node and self.universe.counts_as_node(pod)}
        if any(pod.node in nodes and not self.universe.counts_as_node(pod) for pod in receivers):
            yield _Cell(ALL, 0, ("a node always reaches the pods on it",))
        nodes = {pod.node for pod in receivers if pod.node and self.universe.counts_as_node(pod)}
        for pod in senders:
            view = self.model.egress[self.model.egress_of[self._item(pod)]]
            if pod.node in nodes and view.network and not self.universe.counts_as_node(pod):
                rest = judge_ports(view.without_network(), self.universe.node_item[pod.node], 0, ())
                yield _Cell(0, rest.allowed | rest.unknown, tuple(entry.policy.label for entry in view.network))

    def _item(self, pod: Pod) -> int:
        return self.universe.pod_item[pod.namespace, pod.name]

    def _cell(self, source: int, destination: int) -> _Cell:
        key = (source, destination)
        if key not in self._cells:
            leaving, entering = self.model.judge_items(source, destination)
            allowed = leaving.allowed & entering.allowed
            unknown = (leaving.allowed | leaving.unknown) & (entering.allowed | entering.unknown) & ~allowed
            names = dict.fromkeys(hit.policy.label for side in (leaving, entering) for hit in side.hits)
            because = tuple(names) or (DEFAULT,)
            self._cells[key] = _Cell(allowed, unknown, because) if allowed or unknown else _EMPTY
        return self._cells[key]

    def _ranges(
        self, groups: dict[PeerName, list[Pod]]
    ) -> Iterator[tuple[RangeName, dict[PeerName, _Cell], dict[PeerName, _Cell]]]:
        """Give outside ranges with what passes to and from them, neighbours joined where nothing tells them apart."""
        items = {name: sorted({self._item(pod) for pod in pods}) for name, pods in groups.items()}
        for family in self._families():
            first = self.universe.first_range[family]
            last: tuple[RangeName, dict[PeerName, _Cell], dict[PeerName, _Cell]] | None = None
            for place in range(first, first + len(self.universe.cuts[family])):
                leaving = {name: _merge([self._cell(at, place) for at in found]) for name, found in items.items()}
                entering = {name: _merge([self._cell(place, at) for at in found]) for name, found in items.items()}
                span = self.universe.items[place].span
                if last is not None and (leaving, entering) == last[1:]:
                    last = (RangeName(last[0].first, span[1]), leaving, entering)
                    continue
                if last is not None:
                    yield last
                last = (RangeName(*span), leaving, entering)
            if last is not None:
                yield last

    def _families(self) -> tuple[int, ...]:
        pods = self.universe.pods.values()
        second = len(self.universe.cuts[1]) > 1 or any(":" in address for pod in pods for address in pod.addresses)
        return (0, 1) if second else (0,)


def _spans(bits: int) -> list[tuple[str, Ranges]]:
    return [(protocol, found) for protocol in PROTOCOLS if (found := ranges(bits, protocol))]


def _merge(cells: list[_Cell]) -> _Cell:
    if len(cells) == 1:
        return cells[0]
    allowed = unknown = 0
    because: dict[str, None] = {}
    for cell in cells:
        allowed |= cell.allowed
        unknown |= cell.unknown
        because.update(dict.fromkeys(cell.because))
    return _Cell(allowed, unknown & ~allowed, tuple(because))


def blocks(model: PolicyModel) -> Iterator[Block]:
    """Give every pair of items on which something may pass, each pair in exactly one block.

    Own-node traffic is per pod, not per class, and is therefore not in here; see `PolicyModel.decide`.
    """
    products: dict[tuple[int, int], tuple[int, int]] = {}
    entering = list(_parts(model, model.ingress, ingress=True))
    for senders, reached, leaving in list(_parts(model, model.egress, ingress=False)):
        for receivers, reaching, arriving in entering:
            sources, destinations = senders & reaching, receivers & reached
            if not sources or not destinations:
                continue
            key = (id(leaving), id(arriving))
            if key not in products:
                allowed = leaving.allowed & arriving.allowed
                maybe = (leaving.allowed | leaving.unknown) & (arriving.allowed | arriving.unknown)
                products[key] = (allowed, maybe & ~allowed)
            passing, unknown = products[key]
            if passing or unknown:
                yield Block(sources, destinations, passing, unknown)


def _parts(model: PolicyModel, views: list[View], *, ingress: bool) -> Iterator[tuple[int, int, PortJudgement]]:
    """Give subjects, peers and the judgement that holds between all of them, where it lets anything pass."""
    universe = model.universe
    named = _by_named_ports(model)
    second = 0
    for item in universe.second_family_only:
        second |= 1 << item
    for view in views:
        for family, family_mask in ((0, universe.everybody & ~second), (2, second)):
            members = view.members & family_mask
            if members and view.empty:
                yield members, universe.everybody, FREE_PORTS
            elif members:
                yield from _view_parts(view, members, family, named, universe.everybody, ingress=ingress)


def _view_parts(
    view: View,
    members: int,
    family: int,
    named: dict[tuple[NamedPort, ...], int],
    everybody: int,
    *,
    ingress: bool,
) -> Iterator[tuple[int, int, PortJudgement]]:
    """Do it for one view. Names of ports are the destination's: the members' own, or their peers'."""
    tables = named if view.names else {(): everybody}
    for ports, holders in tables.items():
        subjects, peers = (members & holders, everybody) if ingress else (members, holders)
        if subjects:
            for part, end in _split(view, family, peers, ports):
                yield subjects, part, end


def _split(
    view: View, family: int, everybody: int, named: tuple[NamedPort, ...]
) -> Iterator[tuple[int, PortJudgement]]:
    """Cut the peers into sets that no rule of the view tells apart, and judge one of each."""
    parts = [everybody]
    for mask in dict.fromkeys(mask for rule in view.rules for mask in (rule.peers[family], rule.perhaps)):
        parts = [piece for part in parts for piece in (part & mask, part & ~mask) if piece]
    for part in parts:
        end = judge_ports(view, (part & -part).bit_length() - 1, family, named)
        if end.allowed or end.unknown:
            yield part, end


def _by_named_ports(model: PolicyModel) -> dict[tuple[NamedPort, ...], int]:
    universe = model.universe
    found: dict[tuple[NamedPort, ...], int] = {}
    for at, item in enumerate(universe.items):
        found[item.named_ports] = found.get(item.named_ports, 0) | (1 << at)
    return found
