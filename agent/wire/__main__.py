"""`python -m agent.wire --netns PATH …`: watches for the marked packets of one trace, sends them if asked, and ends.

On stdin a JSON `TraceOrder`, then a line for each cue: `send` begins the burst, `end` ends the watch, and so does the
end of the input. On stdout {"armed":true} once it watches, then one JSON `Traced`. `--netns` is given once for each
vantage of the order, in its order. Exit code 2 and a line on stderr if the order is not one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import select
import signal
import sys
import time
from typing import Final

import msgspec

from agent.host import links
from agent.host.netlink import Netlink
from agent.netns import NamespaceError, call_in
from agent.wire.watch import Watch
from model.facts import Link
from model.trace import Seen, Traced, TraceOrder

PR_SET_PDEATHSIG: Final = 1
VXLAN_PORTS: Final = (8472, 4789)
# What is on its way through a host when the trace ends.
TAIL_S: Final = 0.03
MOST_S: Final = 120.0
MOST_DEVICES: Final = 32
TUNNEL_KINDS: Final = frozenset({"vxlan", "ipip", "sit", "geneve", "wireguard"})


class Trace:
    """One trace on this node."""

    def __init__(self, order: TraceOrder, paths: list[str]) -> None:
        if not paths or len(paths) != len(order.vantages):
            raise ValueError("one --netns for each vantage is wanted")
        self._order, self._paths = order, paths
        self._errors: dict[int, str] = {}
        self._links = [self._links_of(index, path) for index, path in enumerate(paths)]
        ports = {link.vxlan.port for found in self._links for link in found if link.vxlan is not None}
        self._watch = Watch(order.mark, frozenset({*VXLAN_PORTS, *ports}), order.keep)
        self._sender = None
        if order.burst is not None:
            from agent.wire.burst import Sender  # noqa: PLC0415 - loads scapy, for who sends

            self._sender = Sender(order.mark, order.burst)

    def _links_of(self, index: int, path: str) -> tuple[Link, ...]:
        try:
            return call_in(path, _read_links)
        except (NamespaceError, OSError) as error:
            self._errors[index] = str(error)
            return ()

    def run(self) -> Traced:
        """Arm, wait for the cues, watch, and tell. Everything is closed behind it."""
        try:
            for index, path in enumerate(self._paths):
                try:
                    call_in(path, lambda index=index: self._watch.open(index))  # type: ignore[misc]
                except (NamespaceError, OSError) as error:
                    self._errors[index] = str(error)
            if self._sender is not None:
                call_in(self._paths[0], self._sender.open)
            _say(b'{"armed":true}')
            self._turn()
            return self._told()
        finally:
            self._watch.close()
            if self._sender is not None:
                self._sender.close()

    def _turn(self) -> None:
        """Take packets and send them until the sender is done, the cue to end comes, or the time is over."""
        ends = time.monotonic() + min(self._order.limit_ms / 1000, MOST_S)
        poll = select.poll()
        cues = sys.stdin.fileno()
        for fileno in (*self._watch.filenos(), cues):
            poll.register(fileno, select.POLLIN)
        ended = False
        while (now := time.monotonic()) < ends:
            wake = ends
            if self._sender is not None and not ended:
                due = self._sender.step(now, self._watch.answered)
                if due is None:
                    ended, wake = True, now
                    ends = min(ends, now + TAIL_S)
                else:
                    wake = min(ends, due)
            if ended:
                wake = ends
            for fileno, _ in poll.poll(max(0.0, wake - now) * 1000):
                if fileno != cues:
                    self._watch.take(fileno)
                    continue
                words = os.read(cues, 4096).split()
                if b"end" in words or not words:
                    poll.unregister(cues)
                    ended = True
                    ends = min(ends, time.monotonic() + TAIL_S)
                elif b"send" in words and self._sender is not None:
                    self._sender.begin(time.monotonic())
        # On a busy node the time may be over while packets wait that came in time.
        for fileno in self._watch.filenos():
            self._watch.take(fileno)

    def _told(self) -> Traced:
        seen, kept, missed = self._watch.result()
        sender = self._sender
        return Traced(
            seen=seen,
            kept=kept,
            missed=missed,
            errors=self._errors,
            devices=self._devices(seen),
            sent=len(sender.sent) if sender is not None else 0,
            repeated=sender.repeated if sender is not None else 0,
            refused=sender.refused if sender is not None else "",
            errno=sender.errno if sender is not None else 0,
        )

    def _devices(self, seen: tuple[Seen, ...]) -> dict[int, tuple[Link, ...]]:
        """Pods' devices and their ends on the host, those where packets were seen, their bridges, and tunnels."""
        pods = [i for i, vantage in enumerate(self._order.vantages) if not vantage.is_host]
        ends = {link.peer_index for i in pods for link in self._links[i] if link.peer_index}
        found = {}
        for index, known in enumerate(self._links):
            names = {one.device for one in seen if one.vantage == index}
            near = [k for k in known if k.name in names or k.index in ends or index in pods]
            masters = {link.master for link in near}
            kept = [k for k in known if k in near or k.name in masters or k.kind in TUNNEL_KINDS]
            found[index] = tuple(kept[:MOST_DEVICES])
        return found


def main() -> int:
    """Takes the order, carries it out, tells."""
    parser = argparse.ArgumentParser(prog="python -m agent.wire", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--netns", action="append", default=[], help="a vantage's network namespace")
    parser.add_argument("--parent", type=int, default=0, help="the process whose end is this one's end")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if options.parent and os.getppid() != options.parent:
        return 1
    gc.disable()
    try:
        order = msgspec.json.decode(_first_line(), type=TraceOrder)
        traced = Trace(order, options.netns).run()
    except (msgspec.MsgspecError, ValueError, NamespaceError, OSError) as error:
        sys.stderr.write(f"trace: {error}\n")
        return 2
    _say(msgspec.json.encode(traced))
    return 0


def _first_line() -> bytes:
    """The order, octet by octet from the descriptor: what stands behind it are cues, which a buffer would swallow."""
    line = b""
    while (octet := os.read(sys.stdin.fileno(), 1)) not in {b"", b"\n"}:
        line += octet
    return line


def _read_links() -> tuple[Link, ...]:
    with Netlink() as netlink:
        return links.read(netlink)


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
