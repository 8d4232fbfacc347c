"""The way of a traced burst: its hops in order, what was translated between them, and where packets were seen last.

Pure. Hops of one node are ordered by its own clock, those of different nodes by the way itself: clocks of two nodes are
never compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.diagnosis.trace import Trace
from model.probes import Vantage
from model.trace import Seen

REQUEST, REPLY, ERROR = "request", "reply", "error"
SOCKET = "socket"


@dataclass(frozen=True, slots=True)
class Sight:
    """Packets seen at one device: where, and what. `end` is which end of the flow its namespace is, "" for neither."""

    node: str
    vantage: Vantage
    seen: Seen
    end: str = ""

    @property
    def namespace(self) -> str:
        """NAMESPACE/NAME of the pod, "" for the host."""
        return "" if self.vantage.is_host else f"{self.vantage.namespace}/{self.vantage.name}"

    @property
    def is_out(self) -> bool:
        """Whether it left through the device."""
        return self.seen.direction == "out"


@dataclass(frozen=True, slots=True)
class Way:
    """All sights of a trace in the order of the way, there and back, and what became of the packets, as bit sets.

    `answered` came back to the source's socket as an answer, `rejected` as an ICMP error; `lost` are neither.
    """

    there: tuple[Sight, ...]
    back: tuple[Sight, ...]
    errors: tuple[Sight, ...]
    sent: int
    answered: int
    rejected: int

    @property
    def lost(self) -> int:
        """Numbers that were sent, and of which nothing came back."""
        return self.sent & ~self.answered & ~self.rejected

    @property
    def sights(self) -> tuple[Sight, ...]:
        """There, back, and errors."""
        return (*self.there, *self.back, *self.errors)

    def died(self, sights: Sequence[Sight], index: int) -> int:
        """Numbers that `sights[index]` saw and nothing behind it did, of those that were lost or rejected."""
        later = 0
        for sight in sights[index + 1 :]:
            later |= sight.seen.bits
        if sights is self.there:
            for sight in self.back:
                later |= sight.seen.bits
        return sights[index].seen.bits & ~later & ~self.answered & self.sent


def way_of(trace: Trace) -> Way:
    """Bring what the agents told into order."""
    flow, source = trace.flow, trace.source
    sent = ((1 << trace.count) - 1) << 1 if source is not None and source.sent else 0
    there, back, errors = (tuple(_sights(trace, way)) for way in (REQUEST, REPLY, ERROR))
    at_source = [s for s in (*back, *errors) if s.node == flow.source.node and s.vantage == flow.source.vantage]
    answered = _union(s for s in at_source if s.seen.way == REPLY and s.seen.device == SOCKET)
    rejected = _union(s for s in at_source if s.seen.way == ERROR and not s.is_out) & ~answered & sent
    return Way(there=there, back=back, errors=errors, sent=sent, answered=answered, rejected=rejected)


def _sights(trace: Trace, way: str) -> Iterator[Sight]:
    """Yield the sights of one way: the source's node first on the way there, last on the way back."""
    source = trace.flow.source.node
    nodes = sorted(trace.told, key=lambda node: (node == source) if way != REQUEST else (node != source))
    for node in nodes:
        vantages = trace.watched[node]
        flooded = _flooded(trace, node)
        for seen in trace.told[node].seen:
            if seen.way == way and (seen.vantage, seen.device, seen.direction) not in flooded:
                vantage = vantages[seen.vantage]
                yield Sight(node=node, vantage=vantage, seen=seen, end=_end(trace, node, vantage))


def _flooded(trace: Trace, node: str) -> set[tuple[int, str, str]]:
    """Ports of other pods to which a bridge sends what it knows no port for: that is no part of the way."""
    told, vantages = trace.told[node], trace.watched[node]
    ends = ends_of_pods(trace, node)
    if not ends or Vantage() not in vantages:
        return set()
    host = vantages.index(Vantage())
    ports = [link for link in told.devices.get(host, ()) if link.kind == "veth" and link.master]
    return {(host, link.name, "out") for link in ports if link.index not in ends}


def ends_of_pods(trace: Trace, node: str) -> set[int]:
    """Indices of the host's ends of the watched pods' cables."""
    told = trace.told[node]
    pods = [i for i, vantage in enumerate(trace.watched[node]) if not vantage.is_host]
    return {link.peer_index for i in pods for link in told.devices.get(i, ()) if link.peer_index}


def _end(trace: Trace, node: str, vantage: Vantage) -> str:
    flow = trace.flow
    if (node, vantage) == (flow.source.node, flow.source.vantage):
        return "source"
    if (node, vantage) == (flow.destination.node, flow.destination.vantage):
        return "destination"
    return "" if vantage.is_host else "backend"


def _union(sights: Iterator[Sight]) -> int:
    bits = 0
    for sight in sights:
        bits |= sight.seen.bits
    return bits


def translation(before: Sight | None, here: Sight) -> str:
    """What happened to addresses between two sights: "DNAT 10.96.0.10:53 → 10.244.1.2:53" and the like, "" if nothing.

    In a tunnel the inner addresses are compared; the tunnel itself is told by `outer`.
    """
    if before is None:
        return ""
    was, now = before.seen, here.seen
    undone = " undone" if now.way == REPLY else ""
    far, near = (was.destination, now.destination), (was.source, now.source)
    if now.way == REPLY:
        far, near = near, far
    found = [f"DNAT{undone} {far[0]} → {far[1]}"] if far[0] != far[1] and all(far) else []
    found += [f"SNAT{undone} {near[0]} → {near[1]}"] if near[0] != near[1] and all(near) else []
    return ", ".join(found)


def count_of(bits: int) -> int:
    """How many numbers a bit set has."""
    return bits.bit_count()


def parted(end: str) -> tuple[str, int]:
    """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT."""
    if end.startswith("["):
        address, _, port = end[1:].partition("]:")
        return address, int(port)
    address, _, port = end.partition(":") if end.count(":") == 1 else (end, "", "")
    return address, int(port or 0)
