"""Readiness: what a container's readinessProbe asks, asked from its node's namespace as a kubelet would.

Without a probe a container counts as ready once its process listens on what it is known to open.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab import netns
from lab.client import Object
from lab.embedded.cluster.processes import listening


@dataclass(frozen=True, slots=True)
class Readiness:
    """How one container is asked. Times in seconds."""

    kind: str
    """http, tcp, listen (look at its sockets) or none."""
    port: int
    path: str
    initial_delay_s: float
    period_s: float
    timeout_s: float
    failure_threshold: int


def readiness_of(container: Object, listens: tuple[tuple[str, int], ...]) -> Readiness:
    """Return how to ask this container; exec and gRPC probes count as none."""
    probe: Mapping[str, Any] = container.get("readinessProbe") or {}
    kind, action = "listen" if listens else "none", {}
    if "httpGet" in probe:
        kind, action = "http", probe["httpGet"]
    elif "tcpSocket" in probe:
        kind, action = "tcp", probe["tcpSocket"]
    port = action.get("port", 0)
    if not isinstance(port, int):
        named = [entry for entry in container.get("ports") or [] if entry.get("name") == port]
        port = int(named[0]["containerPort"]) if named else 0
    return Readiness(
        kind=kind,
        port=port,
        path=action.get("path") or "/",
        initial_delay_s=float(probe.get("initialDelaySeconds") or 0),
        period_s=float(probe.get("periodSeconds") or 10),
        timeout_s=float(probe.get("timeoutSeconds") or 1),
        failure_threshold=int(probe.get("failureThreshold") or 3),
    )


async def ask(
    how: Readiness, node_netns: str, address: str, pid: int, listens: tuple[tuple[str, int], ...]
) -> str | None:
    """Return None if ready, else why not."""
    if how.kind == "none":
        return None
    if how.kind == "listen":
        missing = set(listens) - listening(pid)
        return f"not listening on {sorted(missing)}" if missing else None
    try:
        async with asyncio.timeout(how.timeout_s):
            return await _connect(how, node_netns, address)
    except TimeoutError:
        return f"{how.kind} probe of {address} port {how.port}: no answer within {how.timeout_s:g} s"
    except (OSError, netns.NetnsError) as error:
        return f"{how.kind} probe of {address} port {how.port}: {error}"


async def _connect(how: Readiness, node_netns: str, address: str) -> str | None:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = netns.socket_in(node_netns, family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, (address, how.port))
        if how.kind == "tcp":
            return None
        host = f"[{address}]" if ":" in address else address
        request = (
            f"GET {how.path} HTTP/1.1\r\nHost: {host}:{how.port}\r\nUser-Agent: kube-probe\r\nConnection: close\r\n\r\n"
        )
        await loop.sock_sendall(sock, request.encode())
        answer = await loop.sock_recv(sock, 512)
    finally:
        sock.close()
    words = answer.split(b" ", 2)
    if len(words) > 1 and words[1].isdigit() and 200 <= int(words[1]) < 400:
        return None
    return f"http probe of {address} port {how.port}: {answer[:40]!r}"
