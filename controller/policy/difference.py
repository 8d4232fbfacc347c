"""What a change of policy would open and close: two relations held against each other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

from controller.policy.ports import OFFSETS, ranges, span_bits
from controller.policy.relation import PeerName, RangeName, Relation, Row

_Peer = PeerName | RangeName
_Key = tuple[_Peer, _Peer, str]
_Place = tuple[int, int]  # family, first address


class Difference(Struct, frozen=True):
    """Rows that pass only afterwards, and only before. Reasons are those of the relation that has the row."""

    opened: tuple[Row, ...]
    closed: tuple[Row, ...]


def difference(old: Relation, new: Relation) -> Difference:
    """Compare what passes. A peer that only one side has, has its rows on that side alone."""
    cuts = _cuts((*old.allowed, *new.allowed))
    before, after = _table(old.allowed, cuts), _table(new.allowed, cuts)
    return Difference(opened=tuple(_only(after, before)), closed=tuple(_only(before, after)))


def _only(rows: dict[_Key, tuple[int, tuple[str, ...]]], others: dict[_Key, tuple[int, tuple[str, ...]]]) -> list[Row]:
    found = []
    for (source, destination, protocol), (bits, because) in rows.items():
        rest = bits & ~others.get((source, destination, protocol), (0, ()))[0]
        if rest:
            found.append(Row(source, destination, protocol, ranges(rest, protocol), because))
    return _joined(found)


def _table(rows: Iterable[Row], cuts: list[_Place]) -> dict[_Key, tuple[int, tuple[str, ...]]]:
    found = {}
    for row in rows:
        bits = 0
        for first, last in row.ports:
            bits |= span_bits(OFFSETS[row.protocol] + first, OFFSETS[row.protocol] + last)
        for source in _pieces(row.source, cuts):
            for destination in _pieces(row.destination, cuts):
                found[source, destination, row.protocol] = (bits, row.because)
    return found


def _cuts(rows: Iterable[Row]) -> list[_Place]:
    peers = (peer for row in rows for peer in (row.source, row.destination))
    found: set[_Place] = set()
    for peer in peers:
        if isinstance(peer, RangeName):
            end = _place(peer.last)
            found |= {_place(peer.first), (end[0], end[1] + 1)}
    return sorted(found)


def _place(address: str) -> _Place:
    value = ip_address(address)
    return value.version, int(value)


def _text(place: _Place) -> str:
    return str(IPv4Address(place[1]) if place[0] == 4 else IPv6Address(place[1]))


def _pieces(peer: _Peer, cuts: list[_Place]) -> Iterator[_Peer]:
    if not isinstance(peer, RangeName):
        yield peer
        return
    first, last = _place(peer.first), _place(peer.last)
    starts = [first, *(cut for cut in cuts if first < cut <= last)]
    for at, start in enumerate(starts):
        end = last if at + 1 == len(starts) else (start[0], starts[at + 1][1] - 1)
        yield RangeName(_text(start), _text(end))


def _joined(rows: list[Row]) -> list[Row]:
    """Join neighbouring ranges that differ in nothing else."""
    found: list[Row] = []
    for row in sorted(rows, key=_order):
        last = found[-1] if found else None
        joined = _join(last, row) if last is not None else None
        if joined is None:
            found.append(row)
        else:
            found[-1] = joined
    return found


def _join(last: Row, row: Row) -> Row | None:
    if (last.protocol, last.ports, last.because) != (row.protocol, row.ports, row.because):
        return None
    if last.source == row.source and (span := _span(last.destination, row.destination)) is not None:
        return Row(row.source, span, row.protocol, row.ports, row.because)
    if last.destination == row.destination and (span := _span(last.source, row.source)) is not None:
        return Row(span, row.destination, row.protocol, row.ports, row.because)
    return None


def _span(first: _Peer, second: _Peer) -> RangeName | None:
    if not isinstance(first, RangeName) or not isinstance(second, RangeName):
        return None
    end, start = _place(first.last), _place(second.first)
    return RangeName(first.first, second.last) if (end[0], end[1] + 1) == start else None


def _order(row: Row) -> tuple[object, ...]:
    """Sort so that neighbouring ranges of the same pair stand next to each other."""
    names = tuple(
        ("", "", "") if isinstance(peer, RangeName) else (peer.namespace, peer.name, peer.kind)
        for peer in (row.source, row.destination)
    )
    places = tuple(_place(peer.first) for peer in (row.source, row.destination) if isinstance(peer, RangeName))
    return (*names, row.protocol, places)
