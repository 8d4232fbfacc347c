"""A trace: a burst of marked packets, and where each of them was seen, device by device.

The mark survives translation and encapsulation: a token in the payload of UDP and ICMP, in the sequence number of TCP.
Which packets were where is told by number, so that it can be seen which were lost between two devices.
"""

from __future__ import annotations

import msgspec

from model.facts import Link
from model.probes import Vantage

MAX_PACKETS = 1000
"""Packets of one burst: their numbers must fit into the mark."""
MAX_KEPT = 6000
"""Captured packets that one agent sends back: 6000 of 256 octets are 2 MiB in base64, a quarter of a frame."""
SNAP = 256
"""Octets kept of a captured packet."""


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the burst is recognised. `token` has 32 bits, of which TCP uses the upper 20.

    `ports` are those of the far end, before and after translation: they tell a request from its answer. `dns`: the
    burst asks questions, since a DNS server answers nothing else.
    """

    family: int
    protocol: str
    token: int
    ports: tuple[int, ...] = ()
    dns: bool = False


class Burst(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is sent: `count` packets, each from a port of its own. `source` empty: what the kernel chooses.

    `size` is the payload in octets of UDP and ICMP (at least the mark). `repeat_ms`: a SYN without answer is sent
    again after that time, as TCP would; 0 is never.
    """

    destination: str
    port: int = 0
    source: str = ""
    count: int = 5
    interval_ms: int = 20
    size: int = 0
    repeat_ms: int = 0
    wait_ms: int = 500


class TraceOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Watch for marked packets in these namespaces of the node, and send them from the first if `burst` is given.

    The agent says `Armed` once it watches; the burst waits for the cue to send, the watch for the cue to end, and both
    end by themselves after `limit_ms`. `keep` packets are sent back as they were captured.
    """

    vantages: tuple[Vantage, ...]
    mark: Mark
    limit_ms: int
    burst: Burst | None = None
    keep: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Packets of the burst, or answers to them, at one device of one namespace, alike in all that is told here.

    `vantage` is an index into the order's. `device` is "socket" for what the kernel handed up to a socket. `way` is
    request, reply or error (an ICMP error that quotes a packet of the burst; `note` says which, and of whom).
    `source` and `destination` are addresses, with the port where it is the far end's. `outer` is "a>b" in a tunnel.
    `numbers` has bit n set for packet n, in hexadecimal. `after_ns` is the median time since the same number was
    first seen on this node, whichever way. `resets` counts TCP resets, `repeated` packets of a number seen before,
    `reordered` those behind a higher number.
    """

    vantage: int
    device: str
    direction: str
    way: str
    source: str
    destination: str
    numbers: str
    packets: int
    after_ns: int = 0
    outer: str = ""
    note: str = ""
    resets: int = 0
    repeated: int = 0
    reordered: int = 0

    @property
    def bits(self) -> int:
        """The numbers as a bit set."""
        return int(self.numbers, 16)


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A captured packet from its IP header on. `at_ns` is the node's wall clock; `length` what was on the wire."""

    vantage: int
    device: str
    direction: str
    way: str
    number: int
    at_ns: int
    length: int
    data: bytes


class Traced(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one agent saw. `sent` counts packets that the kernel took, `refused` says why it took no others.

    `devices` are those that the way led over, and those next to them, by the index of their namespace.
    `missed`: packets that the kernel could not hand over in time, so that counts may be too small. `errors` are
    namespaces that could not be watched, by their index.
    """

    seen: tuple[Seen, ...] = ()
    sent: int = 0
    repeated: int = 0
    refused: str = ""
    errno: int = 0
    missed: int = 0
    devices: dict[int, tuple[Link, ...]] = {}
    errors: dict[int, str] = {}
    kept: tuple[Kept, ...] = ()
