"""The process inside a lab's pods: HTTP on TCP ports, echo on UDP ports. Standard library alone, a few MiB.

    python -S -E -s lab/answer.py [--name NAME] --listen PROTOCOL/[ADDRESS:]PORT …

Without an address it listens on all, IPv6 too where the kernel has it; an IPv6 address stands in brackets. `GET
/bytes/N` returns N bytes, any other request one line that names the pod. Must not need any package: it is started by
file name, dozens of times a lab.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys

LARGEST_REQUEST = 65536
LARGEST_ANSWER = 16 * 1024 * 1024
MOST_CONNECTIONS = 900


class UsageError(Exception):
    """An argument that cannot be understood."""


def parse_listen(text: str) -> tuple[str, str, int]:
    """Return (protocol, address or "", port) of `TCP/8080`, `UDP/127.0.0.1:53`, `TCP/[::1]:80`; raises UsageError."""
    protocol, slash, rest = text.partition("/")
    address, _, port = rest.rpartition(":")
    protocol = protocol.upper()
    if not slash or protocol not in ("TCP", "UDP") or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UsageError(f"--listen {text}: expected TCP/[ADDRESS:]PORT or UDP/[ADDRESS:]PORT")
    return protocol, address.strip("[]"), int(port)


def parse_arguments(arguments: list[str]) -> tuple[str, list[tuple[str, str, int]]]:
    """Return the name to answer with, and what to listen on; raises UsageError."""
    name, listens = socket.gethostname(), []
    rest = iter(arguments)
    for option in rest:
        value = next(rest, None)
        if value is None:
            raise UsageError(f"{option}: a value is missing")
        if option == "--listen":
            listens.append(parse_listen(value))
        elif option == "--name":
            name = value
        else:
            raise UsageError(f"{option}: expected --name or --listen")
    return name, listens


def bind(protocol: str, address: str, port: int) -> socket.socket:
    """Return a bound, non-blocking socket; OSError as the kernel gives it."""
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    family = socket.AF_INET if address and ":" not in address else socket.AF_INET6
    try:
        listener = socket.socket(family, kind)
    except OSError:  # a kernel without IPv6
        family = socket.AF_INET
        listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if protocol == "UDP":
            # answer from the address that was asked
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    listener.bind((address, port))
    listener.setblocking(False)
    if kind == socket.SOCK_STREAM:
        listener.listen(1024)
    return listener


def answer_for(request: bytes, name: str) -> tuple[bytes, bool]:
    """Return (response, whether the connection stays open) for one request's head."""
    line, _, headers = request.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/"):
        return b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False
    body = name.encode() + b"\n"
    if words[1].startswith(b"/bytes/") and words[1][7:].isdigit():
        body = b"x" * min(int(words[1][7:]), LARGEST_ANSWER)
    stays = words[2] == b"HTTP/1.1" and b"connection: close" not in headers.lower()
    head = (
        f"HTTP/1.1 200 OK\r\nServer: kubereach-lab\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if stays else 'close'}\r\n\r\n"
    )
    return head.encode() + (b"" if words[0] == b"HEAD" else body), stays


class Connection:
    """One TCP connection: bytes that came, bytes to go."""

    __slots__ = ("incoming", "outgoing", "sock", "stays")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming = b""
        self.outgoing = b""
        self.stays = True


class Server:
    """All listeners of one process, and their connections, in one selector."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._open = 0

    def listen(self, protocol: str, address: str, port: int) -> None:
        """Start to answer there; OSError where the address cannot be had."""
        listener = bind(protocol, address, port)
        serve = self._echo if protocol == "UDP" else self._accept
        self._selector.register(listener, selectors.EVENT_READ, lambda _events: serve(listener))

    def run(self) -> None:
        """Answer for ever."""
        while True:
            for key, events in self._selector.select():
                key.data(events)

    def _echo(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                data, control, _flags, peer = listener.recvmsg(65535, 128)
                listener.sendmsg([data], control, 0, peer)
            except BlockingIOError:
                return
            except OSError:  # the asker is gone or cannot be reached: nobody to tell
                continue

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _peer = listener.accept()
        except OSError:
            return
        if self._open >= MOST_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        self._open += 1
        connection = Connection(sock)
        self._selector.register(sock, selectors.EVENT_READ, lambda events: self._serve(connection, events))

    def _serve(self, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = connection.sock.recv(65536)
                if not data:
                    self._close(connection)
                    return
                connection.incoming += data
                self._answer(connection)
            if connection.outgoing:
                sent = connection.sock.send(connection.outgoing)
                connection.outgoing = connection.outgoing[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)
            return
        if not connection.outgoing and not connection.stays:
            self._close(connection)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outgoing else 0)
        key = self._selector.get_key(connection.sock)
        if key.events != wanted:
            self._selector.modify(connection.sock, wanted, key.data)

    def _answer(self, connection: Connection) -> None:
        while connection.stays and b"\r\n\r\n" in connection.incoming:
            request, _, connection.incoming = connection.incoming.partition(b"\r\n\r\n")
            response, connection.stays = answer_for(request, self._name)
            connection.outgoing += response
        if len(connection.incoming) > LARGEST_REQUEST:
            connection.stays = False

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()
        self._open -= 1


def main(arguments: list[str]) -> int:
    """Answer until told to end; exit code 2 for arguments that make no sense, 1 where a port cannot be had."""
    try:
        name, listens = parse_arguments(arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # the first process of a container gets no signal that it does not ask for, and would be waited for in vain
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = Server(name)
    for protocol, address, port in listens:
        try:
            server.listen(protocol, address, port)
        except OSError as error:
            print(f"error: {protocol}/{address}:{port}: {error.strerror}", file=sys.stderr)
            return 1
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
