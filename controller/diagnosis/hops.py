"""A trace as a report tells it: its hops, figures and place of the stop, and the packets for a capture file. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from controller.diagnosis.stop import stop_of
from controller.diagnosis.trace import Trace
from controller.diagnosis.way import SOCKET, Sight, Way, count_of, translation, way_of
from controller.diagnosis.witness import object_of, taken_by, words_of
from model.diagnosis import Captured, Hop, TraceSummary
from model.netfilter import RuleTrace

MOST_HOPS = 200


def hops_of(way: Way) -> tuple[Hop, ...]:
    """The hops there, back, and of errors, each in the order of the way."""
    found: list[Hop] = []
    for sights in (way.there, way.back, way.errors):
        before: Sight | None = way.there[-1] if sights is way.back and way.there else None
        for position, sight in enumerate(sights):
            is_error = sights is way.errors
            lost = 0 if is_error else count_of(way.died(sights, position))
            follows = before if before is not None and before.seen.way == sight.seen.way else None
            found.append(_hop(sight, lost, "" if is_error else translation(follows, sight)))
            before = sight
    return tuple(found[:MOST_HOPS])


def _hop(sight: Sight, lost: int, translated: str) -> Hop:
    seen = sight.seen
    return Hop(
        node=sight.node,
        namespace=sight.namespace,
        device=seen.device,
        direction=seen.direction,
        packets=seen.packets,
        at_us=seen.after_ns // 1000,
        reply=seen.way != "request",
        outer=seen.outer,
        source=seen.source,
        destination=seen.destination,
        numbers=count_of(seen.bits),
        lost=lost,
        repeated=seen.repeated,
        reordered=seen.reordered,
        resets=seen.resets,
        translated=translated,
        error=seen.note,
    )


def summary_of(trace: Trace, way: Way, uplinks: Mapping[str, str], node_of: Callable[[str], str]) -> TraceSummary:
    """The figures of a trace, and where it stopped."""
    source = trace.source
    at_end = [s.seen for s in way.back if s.end == "source" and s.seen.device == SOCKET and s.node == _source(trace)]
    return TraceSummary(
        sent=source.sent if source is not None else 0,
        answered=count_of(way.answered),
        rejected=count_of(way.rejected),
        lost=count_of(way.lost),
        repeated=source.repeated if source is not None else 0,
        duplicates=sum(s.repeated for s in at_end),
        reordered=sum(s.reordered for s in at_end),
        resets=sum(s.resets for s in at_end),
        network_us=_network_us(trace, way, uplinks),
        stop=stop_of(trace, way, uplinks, node_of),
        missing=tuple(_missing(trace)),
    )


def _source(trace: Trace) -> str:
    return trace.flow.source.node


def _network_us(trace: Trace, way: Way, uplinks: Mapping[str, str]) -> int:
    """Away from the source's uplink, less the stay at the other node: each on one clock. 0 if it cannot be told."""
    here = _source(trace)
    others = {s.node for s in way.there} - {here}
    if len(others) != 1:
        return 0
    there = others.pop()
    ends = [
        _at_uplink(sights, node, direction, uplinks)
        for sights, node, direction in (
            (way.there, here, "out"),
            (way.there, there, "in"),
            (way.back, there, "out"),
            (way.back, here, "in"),
        )
    ]
    if any(end is None for end in ends):
        return 0
    left, arrived, sent_back, came = (end or 0 for end in ends)
    return max(0, (came - left) - (sent_back - arrived)) // 1000


def _at_uplink(sights: Sequence[Sight], node: str, direction: str, uplinks: Mapping[str, str]) -> int | None:
    return next(
        (
            s.seen.after_ns
            for s in sights
            if s.node == node
            and s.vantage.is_host
            and s.seen.device == uplinks.get(node)
            and s.seen.direction == direction
        ),
        None,
    )


def _missing(trace: Trace) -> Iterator[str]:
    """What could not be watched, and why."""
    yield from (f"{node}: {why}" for node, why in sorted(trace.deaf.items()))
    for node, told in sorted(trace.told.items()):
        yield from (f"{node}, {trace.watched[node][index]}: {why}" for index, why in sorted(told.errors.items()))
        if told.missed:
            yield f"{node}: {told.missed} packets came faster than they could be counted"


def captured_of(trace: Trace) -> tuple[Captured, ...]:
    """The captured packets of all nodes, by time; clocks of nodes may differ."""
    found = [
        Captured(
            node=node,
            namespace="" if (v := trace.watched[node][kept.vantage]).is_host else f"{v.namespace}/{v.name}",
            device=kept.device,
            direction=kept.direction,
            way=kept.way,
            number=kept.number,
            at_ns=kept.at_ns,
            length=kept.length,
            data=kept.data,
        )
        for node, told in trace.told.items()
        for kept in told.kept
    ]
    return tuple(sorted(found, key=lambda one: one.at_ns))


def with_rules(summary: TraceSummary, found: RuleTrace | None) -> TraceSummary:
    """The figures with what the kernel said at the stop."""
    words, end = words_of(found), taken_by(found)
    if summary.stop is None or not words:
        return summary
    rule = object_of(end.rule, summary.stop.node) if end is not None and end.rule is not None else None
    stop = msgspec.structs.replace(summary.stop, rule=rule, kernel=words)
    return msgspec.structs.replace(summary, stop=stop)


def told(
    trace: Trace, uplinks: Mapping[str, str], node_of: Callable[[str], str]
) -> tuple[tuple[Hop, ...], TraceSummary]:
    """Hops and figures of a trace. `uplinks` is the device of each node's address, `node_of` whose an address is."""
    way = way_of(trace)
    return hops_of(way), summary_of(trace, way, uplinks, node_of)
