"""The endpoint: harmless and small."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.endpoint import MAX_CONNECTIONS, echo_reply
from lab import netns
from tests.agent.bed import ROOT, Net


@pytest.fixture(scope="module")
def endpoint(net: Net) -> Iterator[tuple[str, int]]:
    """A running endpoint: its namespace and process id."""
    name = net.add("endpoint", 30)
    process = subprocess.Popen(netns.nsenter_argv(name, [sys.executable, "-E", "-s", "-m", "agent.endpoint"]), cwd=ROOT)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with netns.socket_in(name, socket.AF_INET, socket.SOCK_STREAM) as sock:
            if sock.connect_ex(("127.0.0.1", 8700)) == 0:
                break
        time.sleep(0.02)
    yield name, process.pid
    process.terminate()
    assert process.wait(5) == 0


@pytest.mark.parametrize("address", ["10.9.0.30", "fd09::30", "127.0.0.9"])
def test_echo_answers_only_marked_datagrams_in_their_length(endpoint: tuple[str, int], address: str) -> None:
    """What bears the mark comes back as long as it was; what does not is dropped; an answer is no question."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.socket_in(endpoint[0], family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        for junk in (b"", b"hello", b"kr-answer"):
            sock.sendto(junk, (address, 8700))
        sock.sendto(b"KR" + b"x" * 1000, (address, 8700))
        reply, peer = sock.recvfrom(65535)
        assert reply == b"kr" + b"x" * 1000
        assert peer[:2] == (address, 8700)
    assert echo_reply(reply) is None


@pytest.mark.parametrize("address", ["10.9.0.30", "fd09::30"])
def test_get_is_answered_with_204(endpoint: tuple[str, int], address: str) -> None:
    """An HTTP probe finds an answer, then the end of the connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.socket_in(endpoint[0], family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect((address, 8700))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 204 ")
        assert sock.recv(1000) == b""


def test_idle_connections_are_bounded(endpoint: tuple[str, int]) -> None:
    """More connections than it holds push out the oldest, and probes go on."""
    held: list[socket.socket] = []
    try:
        for _ in range(MAX_CONNECTIONS + 20):
            sock = netns.socket_in(endpoint[0], socket.AF_INET, socket.SOCK_STREAM)
            held.append(sock)
            sock.settimeout(3)
            sock.connect(("10.9.0.30", 8700))
        assert held[0].recv(1) == b""
        held[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert held[-1].recv(100).startswith(b"HTTP/1.1 204")
    finally:
        for sock in held:
            sock.close()


def test_endpoint_is_small(endpoint: tuple[str, int]) -> None:
    """It runs on every node beside the agent: under 16 MiB resident."""
    status = Path(f"/proc/{endpoint[1]}/status").read_text()
    rss_kib = int(status.split("VmRSS:")[1].split()[0])
    assert rss_kib < 16 * 1024
