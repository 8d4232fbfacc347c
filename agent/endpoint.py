"""The endpoint: answers probes from within the pod network. UDP echo, TCP accept, HTTP 204.

Must stay tiny and harmless: it sends nothing but answers, no answer to a datagram is larger than the question, and an
answer is never taken for a question (its mark differs), so that two echoes cannot be set upon each other.
"""

from __future__ import annotations

import argparse
import selectors
import signal
import socket
import sys
import time
from typing import Final

from model.ports import ENDPOINT_PORT, UDP_MAGIC, UDP_REPLY

MAX_CONNECTIONS: Final = 256
IDLE_S: Final = 5.0
_MAX_REQUEST: Final = 4096
_MAX_DATAGRAM: Final = 65536
_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_ANSWER: Final = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def echo_reply(datagram: bytes) -> bytes | None:
    """Return the answer to an echo request, as long as the request, or None where it is none."""
    if not datagram.startswith(UDP_MAGIC):
        return None
    return UDP_REPLY + datagram[len(UDP_MAGIC) :]


def answer_datagrams(sock: socket.socket, limit: int = 64) -> None:
    """Answer what waits on a non-blocking UDP socket, at most `limit` datagrams, from the address that was asked."""
    for _ in range(limit):
        try:
            datagram, ancillary, _flags, peer = sock.recvmsg(_MAX_DATAGRAM, 64)
        except BlockingIOError:
            return
        except OSError:
            # An ICMP error for an earlier answer; the next datagram is whole.
            continue
        reply = echo_reply(datagram)
        if reply is not None:
            try:
                sock.sendmsg([reply], _from_asked(ancillary), 0, peer)
            except OSError:
                # The asker will see a loss, which is what it is.
                continue


def _from_asked(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Have the answer leave from the address that was asked (ip(7), RFC 3542), by whatever device is right."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return [(level, kind, data[:16] + bytes(4))]
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return [(level, kind, bytes(4) + data[4:])]
    return []


class Endpoint:
    """The sockets of one endpoint and its few connections."""

    def __init__(self, port: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._opened: dict[socket.socket, float] = {}
        family = socket.AF_INET6 if _has_ipv6() else socket.AF_INET
        self._udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (self._udp, self._tcp):
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.bind(("", port))
        self._tcp.listen(128)
        self._selector.register(self._udp, selectors.EVENT_READ)
        self._selector.register(self._tcp, selectors.EVENT_READ)

    def step(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` for something to do, and do it."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._udp:
                answer_datagrams(self._udp)
            elif key.fileobj is self._tcp:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                self._read(key.fileobj)
        self._drop_idle()

    def close(self) -> None:
        """Close every socket."""
        for sock in (*self._opened, self._udp, self._tcp):
            sock.close()
        self._selector.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._opened)

    def _accept(self) -> None:
        for _ in range(64):
            try:
                sock, _peer = self._tcp.accept()
            except OSError:
                return
            if len(self._opened) >= MAX_CONNECTIONS:
                self._close(next(iter(self._opened)))
            sock.setblocking(False)
            self._opened[sock] = time.monotonic()
            self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, sock: socket.socket) -> None:
        try:
            request = sock.recv(_MAX_REQUEST)
            if request.startswith((b"GET ", b"HEAD ")):
                sock.send(_ANSWER)
        except BlockingIOError:
            return
        except OSError:
            # Reset by the asker, which is how most probes end.
            request = b""
        self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        self._opened.pop(sock, None)
        self._selector.unregister(sock)
        sock.close()

    def _drop_idle(self) -> None:
        oldest_allowed = time.monotonic() - IDLE_S
        # Connections stand in the order in which they came.
        while self._opened:
            sock, opened = next(iter(self._opened.items()))
            if opened > oldest_allowed:
                return
            self._close(sock)


def _has_ipv6() -> bool:
    """Whether this namespace can bind the IPv6 wildcard (it cannot where IPv6 is compiled out or disabled)."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::", 0))
    except OSError:
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Run the endpoint until SIGTERM or SIGINT; returns 0, or 2 where the port cannot be had."""
    parser = argparse.ArgumentParser(prog="kubereach endpoint", description="Answer probes on the pod network.")
    parser.add_argument("--port", type=int, default=ENDPOINT_PORT)
    port = parser.parse_args(argv).port
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _frame: ended.append(signum))
    try:
        endpoint = Endpoint(port)
    except OSError as error:
        sys.stderr.write(f"error cannot listen port={port} reason={error.strerror!r}\n")
        return 2
    try:
        while not ended:
            endpoint.step(1.0)
    finally:
        endpoint.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
