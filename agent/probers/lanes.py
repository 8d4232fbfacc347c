"""Steady probes by datagram, in bulk: a few sockets for good, no task and no timer a probe.

Answers find their probe by the number in them. Round-trip times come from the kernel's time stamps, so it does no harm
to read the sockets late. What needs a connection runs as a probe of `drive`.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Final

from agent.probers.dns import judge_reply
from agent.probers.dnswire import WireError, encode_question
from agent.probers.errors import NetworkError, prepare, read_error, stamp_ns
from agent.probers.flight import Flight, Hub
from agent.probers.icmp import ECHO, only_own, protocol_of, request
from agent.probers.tcp import family_of
from agent.probers.udp import HEADER, is_echo
from model.ports import UDP_MAGIC
from model.words import Method, Outcome

SOURCE_PORTS: Final = 4
PORT_S: Final = 30.0
FAILING_PORT_S: Final = 1.0
RETIRED_S: Final = 3.0
_BUFFER: Final = 1 << 20
_SO_RCVBUFFORCE: Final = 33
_ONE_TURN: Final = 128
_SEND_TRIES: Final = 8
OpenSockets = Callable[[Callable[[], list[socket.socket]]], list[socket.socket]]


class DatagramLane:
    """Common part: sockets, error queue, late errors of other probes."""

    kind = socket.SOCK_DGRAM
    protocol = 0
    count = SOURCE_PORTS

    def __init__(self, hub: Hub, family: int, open_in: OpenSockets) -> None:
        self._hub = hub
        self._family = family
        self._sockets = open_in(lambda: self._open(self.count))
        self._by_fd = {sock.fileno(): sock for sock in self._sockets}
        for fd in self._by_fd:
            hub.watch(fd, self)

    def _open(self, count: int) -> list[socket.socket]:
        opened: list[socket.socket] = []
        try:
            for _ in range(count):
                sock = socket.socket(family_of(self._family), self.kind, self.protocol)
                opened.append(sock)
                prepare(sock, sock.family)
                self._size(sock)
                if self.kind == socket.SOCK_DGRAM:
                    # Bound now, so that the source port stays the same for good.
                    sock.bind(("", 0))
        except OSError:
            for sock in opened:
                sock.close()
            raise
        return opened

    @staticmethod
    def _size(sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def launch(self, flight: Flight) -> None:
        """See `Lane`."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Lane`."""
        for fd, sock in self._by_fd.items():
            self._hub.unwatch(fd)
            sock.close()
        self._by_fd.clear()

    def ready(self, fd: int, *, errors: bool) -> None:
        """See `Lane`."""
        sock = self._by_fd[fd]
        for _ in range(_ONE_TURN):
            try:
                data, ancillary, _flags, peer = sock.recvmsg(2048, 64)
            except BlockingIOError:
                break
            except OSError:
                # The error of an earlier probe, told by the next call; its particulars are in the queue.
                self._take_errors(sock)
                continue
            self._take(data, stamp_ns(ancillary), peer)
        if errors:
            self._take_errors(sock)

    def _send(self, sock: socket.socket, packet: bytes, target: tuple[str, int]) -> None:
        for _ in range(_SEND_TRIES):
            try:
                sock.sendto(packet, target)
            except OSError as error:
                # It may be the error of an earlier probe to somewhere else, which stands in the queue then; a socket
                # that is not connected is never refused on its own account.
                if not self._take_errors(sock) and error.errno != errno.ECONNREFUSED:
                    raise
            else:
                return
        sock.sendto(packet, target)

    def _take_errors(self, sock: socket.socket) -> int:
        """Give every entry of the error queue to its probe; returns how many there were."""
        for count in range(_ONE_TURN):
            error = read_error(sock)
            if error is None:
                return count
            flight = self._whose(error)
            if flight is not None and error.detail:
                rtt_us = 0
                if error.outcome is Outcome.REFUSED:
                    rtt_us = max(1, (time.time_ns() - flight.sent_ns) // 1000)
                self._hub.settle(flight, error.outcome, rtt_us, error.detail)
        return _ONE_TURN

    def _whose(self, error: NetworkError) -> Flight | None:
        raise NotImplementedError

    def _take(self, data: bytes, received_ns: int, peer: tuple[str, int]) -> None:
        raise NotImplementedError

    def _newest_to(self, error: NetworkError) -> Flight | None:
        """The newest flight to where the error points: for errors that quote too little of the packet."""
        for flight in reversed(self._hub.flights.values()):
            task = flight.runner.task
            if task.address == error.destination and (not error.port or task.port == error.port):
                return flight
        return None

    def _ok(self, flight: Flight, received_ns: int) -> None:
        now_ns = time.time_ns()
        rtt_ns = (received_ns or now_ns) - flight.sent_ns
        longest_ns = round((time.monotonic() - flight.sent) * 1e9) + 1_000_000
        if not 0 <= rtt_ns <= longest_ns:
            # The wall clock was set meanwhile.
            rtt_ns = longest_ns
        task = flight.runner.task
        if rtt_ns > task.timeout_ms * 1_000_000:
            self._hub.settle(flight, Outcome.TIMEOUT, 0, f"answer after {rtt_ns // 1_000_000} ms")
        else:
            self._hub.settle(flight, Outcome.OK, max(1, rtt_ns // 1000), "")


class UdpLane(DatagramLane):
    """UDP echo from four source ports in turn."""

    def launch(self, flight: Flight) -> None:
        """See `Lane`."""
        task = flight.runner.task
        sock = self._sockets[flight.turn % SOURCE_PORTS]
        flight.sent_ns = sent_ns = time.time_ns()
        packet = HEADER.pack(UDP_MAGIC, self._hub.boot, flight.number, sent_ns)
        self._send(sock, packet, (task.address, task.port))

    def _find(self, payload: bytes) -> Flight | None:
        if len(payload) < HEADER.size or not is_echo(payload):
            return None
        _mark, boot, number, sent_ns = HEADER.unpack_from(payload)
        flight = self._hub.flights.get(number) if boot == self._hub.boot else None
        return flight if flight is not None and flight.sent_ns == sent_ns else None

    def _take(self, data: bytes, received_ns: int, peer: tuple[str, int]) -> None:
        flight = self._find(data)
        if flight is None:
            return
        task = flight.runner.task
        if peer[1] != task.port or not same_address(peer[0], task.address):
            self._hub.settle(flight, Outcome.WRONG_ANSWER, 0, f"answered by {peer[0]} port {peer[1]}")
            return
        self._ok(flight, received_ns)

    def _whose(self, error: NetworkError) -> Flight | None:
        return self._find(error.payload) or (None if len(error.payload) >= HEADER.size else self._newest_to(error))


class IcmpLane(DatagramLane):
    """ICMP echo from one raw socket with an identifier of its own."""

    kind = socket.SOCK_RAW
    count = 1

    def __init__(self, hub: Hub, family: int, open_in: OpenSockets) -> None:
        self.protocol = protocol_of(family)
        self._identifier = int.from_bytes(hub.boot[:2], "big")
        super().__init__(hub, family, open_in)
        # Replies before the filter stood carry another run's mark and are passed over.
        only_own(self._sockets[0], family, self._identifier)

    def launch(self, flight: Flight) -> None:
        """See `Lane`."""
        flight.sent_ns = sent_ns = time.time_ns()
        payload = HEADER.pack(UDP_MAGIC, self._hub.boot, flight.number, sent_ns)
        packet = request(self._family, self._identifier, flight.number & 0xFFFF, payload)
        self._send(self._sockets[0], packet, (flight.runner.task.address, 0))

    def _find(self, data: bytes, start: int) -> Flight | None:
        if len(data) < start + HEADER.size:
            return None
        _mark, boot, number, sent_ns = HEADER.unpack_from(data, start)
        flight = self._hub.flights.get(number) if boot == self._hub.boot else None
        return flight if flight is not None and flight.sent_ns == sent_ns else None

    def _take(self, data: bytes, received_ns: int, peer: tuple[str, int]) -> None:
        start = 0 if self._family == 6 else (data[0] & 15) * 4
        flight = self._find(data, start + ECHO.size)
        if flight is None:
            return
        if not same_address(peer[0], flight.runner.task.address):
            self._hub.settle(flight, Outcome.WRONG_ANSWER, 0, f"answered by {peer[0]}")
            return
        self._ok(flight, received_ns)

    def _whose(self, error: NetworkError) -> Flight | None:
        found = self._find(error.payload, ECHO.size)
        short = len(error.payload) < ECHO.size + HEADER.size
        return found or (self._newest_to(error) if short else None)


class DnsLane(DatagramLane):
    """DNS over UDP from four source ports in turn; the id is the low half of the probe's number.

    Ports are renewed, as resolvers do it (RFC 5452), and at once where a question fails: a flow that was translated
    while something was broken stays so for as long as its port is used, and would go on failing after the mend.
    """

    def __init__(self, hub: Hub, family: int, open_in: OpenSockets) -> None:
        self._open_in = open_in
        super().__init__(hub, family, open_in)
        self._asked: dict[int, tuple[Flight, bytes]] = {}
        self._born = [time.monotonic()] * SOURCE_PORTS
        self._retired: list[tuple[float, socket.socket]] = []

    def _socket_for(self, flight: Flight) -> socket.socket:
        index = flight.turn % SOURCE_PORTS
        age_s = flight.sent - self._born[index]
        if age_s > (FAILING_PORT_S if flight.runner.failing else PORT_S):
            self._renew(index, flight.sent)
        return self._sockets[index]

    def _renew(self, index: int, now: float) -> None:
        """Put a new socket in the place of one, which is read for a while yet."""
        for sock in [old for since, old in self._retired if now - since > RETIRED_S]:
            self._retire(sock)
        self._retired = [(since, old) for since, old in self._retired if now - since <= RETIRED_S]
        (fresh,) = self._open_in(lambda: self._open(1))
        self._retired.append((now, self._sockets[index]))
        self._sockets[index] = fresh
        self._born[index] = now
        self._by_fd[fresh.fileno()] = fresh
        self._hub.watch(fresh.fileno(), self)

    def _retire(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        self._hub.unwatch(fd)
        del self._by_fd[fd]
        sock.close()

    def launch(self, flight: Flight) -> None:
        """See `Lane`."""
        task = flight.runner.task
        number = flight.number & 0xFFFF
        flight.sent_ns = time.time_ns()
        try:
            query = encode_question(number, task.name, task.record)
        except (WireError, UnicodeError) as error:
            self._hub.settle(flight, Outcome.NOT_MEASURED, 0, str(error))
            return
        if len(self._asked) > 64:
            flights = self._hub.flights
            self._asked = {n: asked for n, asked in self._asked.items() if asked[0].number in flights}
        self._asked[number] = (flight, query)
        self._send(self._socket_for(flight), query, (task.address, task.port))

    def _find(self, data: bytes) -> tuple[Flight, bytes] | None:
        asked = self._asked.get(int.from_bytes(data[:2], "big"))
        return asked if asked is not None and asked[0].number in self._hub.flights else None

    def _take(self, data: bytes, received_ns: int, peer: tuple[str, int]) -> None:
        asked = self._find(data)
        if asked is None:
            return
        flight, query = asked
        task = flight.runner.task
        if peer[1] != task.port or not same_address(peer[0], task.address):
            self._hub.settle(flight, Outcome.WRONG_ANSWER, 0, f"answered by {peer[0]} port {peer[1]}")
            return
        outcome, detail, _records = judge_reply(data, query)
        if outcome is Outcome.OK:
            self._ok(flight, received_ns)
        else:
            self._hub.settle(flight, outcome, 0, detail)

    def _whose(self, error: NetworkError) -> Flight | None:
        asked = self._find(error.payload) if len(error.payload) >= 2 else None
        if asked is not None and asked[0].runner.task.address == error.destination:
            return asked[0]
        return None if len(error.payload) >= 2 else self._newest_to(error)


def same_address(one: str, other: str) -> bool:
    """Whether two texts mean one address: IPv6 is written in more ways than one."""
    if one == other:
        return True
    if ":" not in one or ":" not in other:
        return False
    return socket.inet_pton(socket.AF_INET6, one.partition("%")[0]) == socket.inet_pton(
        socket.AF_INET6, other.partition("%")[0]
    )


LANES: Final[dict[Method, type[UdpLane] | type[IcmpLane] | type[DnsLane]]] = {
    Method.UDP: UdpLane,
    Method.ICMP: IcmpLane,
    Method.DNS: DnsLane,
}
