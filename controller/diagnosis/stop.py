"""Where the packets of a trace stopped: the last place at which they were seen, and what comes next on the way. Pure.

It names a place and never a reason: that is for the causes to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controller.diagnosis.trace import Trace
from controller.diagnosis.way import SOCKET, Sight, Way, count_of, ends_of_pods, parted
from model.diagnosis import Stop
from model.facts import Link

TUNNELS = frozenset({"vxlan", "ipip", "sit", "geneve", "wireguard"})
INNER = TUNNELS | {"bridge", "loopback", "dummy"}


def stop_of(trace: Trace, way: Way, uplinks: Mapping[str, str], node_of: Callable[[str], str]) -> Stop | None:
    """Where most of the packets ended that had no answer; None if all had one, or nothing is known of the sender.

    `node_of` is the node that holds an address, itself or for a pod; "" if none does.
    """
    source = trace.source
    if source is None:
        return None
    if not source.sent:
        return _at_sender(trace, trace.count, source.refused or "the burst was not sent", source.refused)
    failed = way.lost | way.rejected
    if not failed:
        return None
    dead = [
        (count_of(bits), position, sight)
        for sights in (way.there, way.back)
        for position, sight in enumerate(sights)
        if (bits := way.died(sights, position) & failed)
    ]
    if not dead:
        return _at_sender(trace, count_of(failed), "the kernel took them, and no device sent them", "")
    packets, _, last = max(dead, key=lambda one: one[0])
    error = next((s.seen.note for s in way.errors if s.seen.note), "") if way.rejected else ""
    return _Place(trace, last, uplinks, node_of, packets, error).stop()


def _at_sender(trace: Trace, packets: int, why: str, error: str) -> Stop:
    source = trace.flow.source
    where = f"pod {source.vantage.namespace}/{source.vantage.name}" if not source.vantage.is_host else source.node
    namespace = "" if source.vantage.is_host else f"{source.vantage.namespace}/{source.vantage.name}"
    return Stop(
        place="sender",
        says=f"at the sender, {where}: {why}",
        packets=packets,
        of=trace.count,
        node=source.node,
        namespace=namespace,
        error=error,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """The last sight of packets that came no further."""

    trace: Trace
    last: Sight
    uplinks: Mapping[str, str]
    node_of: Callable[[str], str]
    packets: int
    error: str

    @property
    def _reply(self) -> bool:
        return self.last.seen.way == "reply"

    def stop(self) -> Stop:
        """The place in words and fields."""
        place, says, between = self._where()
        what = "the reply " if self._reply else ""
        return Stop(
            place=place,
            says=what + says + (f"; {self.error}" if self.error else ""),
            packets=self.packets,
            of=self.trace.count,
            node=self.last.node,
            namespace=self.last.namespace,
            device=self.last.seen.device,
            direction=self.last.seen.direction,
            reply=self._reply,
            between=between,
            error=self.error,
        )

    def _where(self) -> tuple[str, str, tuple[str, ...]]:
        last, device = self.last, self.last.seen.device
        here = f"pod {last.namespace}" if last.namespace else last.node
        if device == SOCKET:
            says = f"was delivered to {here}, and nothing came back from there"
            return "destination", says, ()
        if last.is_out and self.is_uplink():
            return self._beyond()
        return "node", self._inside(here), ()

    def _beyond(self) -> tuple[str, str, tuple[str, ...]]:
        """Left the node by its uplink."""
        last = self.last
        carried = f", in a tunnel {last.seen.outer.replace('>', ' → ')}" if last.seen.outer else ""
        left = f"left {last.node} by {last.seen.device}{carried}"
        flow = self.trace.flow
        following = flow.source.node if self._reply else self._next_node()
        if not following or following == last.node:
            to = last.seen.destination if not self._reply else flow.source.address
            return "outside", f"{left} as {last.seen.source} → {to}, and no answer came", ()
        if following not in self.trace.told:
            return "unwatched", f"{left}; {following} was not watched", (last.node, following)
        return "between", f"{left} and never reached {following}", (last.node, following)

    def _next_node(self) -> str:
        """The node that the packets were on their way to: by the tunnel's end, by their address, else the far end's."""
        tunnel = self.last.seen.outer.partition(">")[2]
        address = parted(self.last.seen.destination)[0]
        return self.node_of(tunnel) or self.node_of(address) or self.trace.flow.destination.node

    def _inside(self, here: str) -> str:
        """Seen on a host or in a pod, and not at the device behind that."""
        last, link = self.last, self._link()
        device, kind = last.seen.device, link.kind if link is not None else ""
        if last.namespace:
            if last.is_out:
                return f"left {here} by {device} and did not come out at the other end of that cable on {last.node}"
            return f"reached {device} of {here} and was not handed up to its socket"
        if last.is_out and kind == "bridge":
            return f"left {here} through its bridge {device} and reached no pod behind it"
        if last.is_out and kind in TUNNELS:
            return f"entered the tunnel device {device} of {here} and did not leave it in a tunnel packet"
        if last.is_out:
            return f"left {here} by {device} and was not seen at its other end"
        if last.seen.outer:
            return f"reached {here} by {device} in a tunnel packet and did not come out of the tunnel"
        end = self.trace.flow.source if self._reply else self.trace.flow.destination
        if end.node == last.node and end.vantage.is_host:
            return f"reached {here} by {device} and was not handed up to a socket"
        return f"reached {here} by {device} and left it by no device"

    def is_uplink(self) -> bool:
        """Whether the device leads out of the node: it holds the node's address, or a tunnel's packets left by it."""
        last, link = self.last, self._link()
        if last.namespace:
            return False
        if last.seen.device == self.uplinks.get(last.node):
            return True
        if link is None or link.kind in INNER:
            return False
        return bool(last.seen.outer) or link.index not in ends_of_pods(self.trace, last.node)

    def _link(self) -> Link | None:
        vantages = self.trace.watched[self.last.node]
        known = self.trace.told[self.last.node].devices.get(vantages.index(self.last.vantage), ())
        return next((link for link in known if link.name == self.last.seen.device), None)
