"""A small network of namespaces, a controller that speaks the real protocol, and real agents: for tests and bench."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import WSMsgType, web

from lab import netns, pki
from model.probes import Observation, Plan, Task, Vantage
from model.protocol import (
    SUBPROTOCOL,
    Ack,
    Answer,
    Armed,
    Batch,
    FromAgent,
    FromController,
    Goodbye,
    Hello,
    Order,
    PlanUpdate,
    Status,
    Welcome,
    decode_from_agent,
    encode,
)
from model.words import Method

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-test"
# A busy machine is waited for: how soon is measured by `make bench`.
SOON_S = 20.0
_serial = itertools.count(1)


def ip(namespace: str, *words: str) -> None:
    """Run `ip …` in a namespace."""
    netns.run_sync(namespace, ["ip", *words])


class Net:
    """Namespaces on one bridge, 10.9.0.0/24 and fd09::/64; `add` makes one more."""

    def __init__(self) -> None:
        self.prefix = f"kra-{os.getpid()}-{next(_serial)}"
        self.hub = f"{self.prefix}-hub"
        self._names: list[str] = []
        netns.create(self.hub)
        ip(self.hub, "link", "add", "br0", "type", "bridge")
        ip(self.hub, "link", "set", "br0", "up")

    def add(self, name: str, number: int) -> str:
        """A namespace with eth0, 10.9.0.NUMBER and fd09::NUMBER; returns its full name."""
        full = f"{self.prefix}-{name}"
        netns.create(full)
        self._names.append(full)
        ip(full, "link", "add", "eth0", "type", "veth", "peer", "name", f"p-{name}", "netns", self.hub)
        netns.sysctl_set(full, {"ipv6/conf/eth0/accept_dad": "0"})
        ip(self.hub, "link", "set", f"p-{name}", "master", "br0", "up")
        ip(full, "link", "set", "lo", "up")
        ip(full, "address", "add", f"10.9.0.{number}/24", "dev", "eth0")
        ip(full, "address", "add", f"fd09::{number}/64", "dev", "eth0", "nodad")
        ip(full, "link", "set", "eth0", "up")
        return full

    def remove(self, full: str) -> None:
        """Take one namespace away."""
        self._names.remove(full)
        netns.delete(full)

    def close(self) -> None:
        """Take all away."""
        for name in (*self._names, self.hub):
            netns.delete(name)
        self._names.clear()


@contextlib.contextmanager
def network() -> Iterator[Net]:
    """A network that is gone afterwards."""
    net = Net()
    try:
        yield net
    finally:
        net.close()


@dataclass
class FakeController:
    """Takes in what agents send, each batch once, and records it. Knobs: `acking`, `status`, `plan`."""

    address: str
    port: int = 8703
    plan: Plan = field(default_factory=lambda: Plan(digest="none", vantages=(), tasks=()))
    acking: bool = True
    status: int = 101
    hellos: list[Hello] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    armed: list[int] = field(default_factory=list)
    goodbyes: list[Goodbye] = field(default_factory=list)
    batches: dict[tuple[str, int], Batch] = field(default_factory=dict)
    arrivals: list[tuple[float, Observation]] = field(default_factory=list)
    received: int = 0
    peers: list[str] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    listening: socket.socket | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One agent's stream."""
        if self.status != 101 or request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=self.status if self.status != 101 else 401)
        ws = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await ws.prepare(request)
        self.sockets.append(ws)
        self.peers.append(request.remote or "")
        boot = ""
        try:
            async for message in ws:
                if message.type is not WSMsgType.TEXT:
                    break
                said = decode_from_agent(message.data)
                if isinstance(said, Hello):
                    boot = said.boot
                    self.hellos.append(said)
                    await ws.send_str(encode(Welcome(at_ms=0, controller="test")).decode())
                    await ws.send_str(encode(PlanUpdate(plan=self.plan)).decode())
                else:
                    await self.take(ws, boot, said)
        finally:
            self.sockets.remove(ws)
        return ws

    async def take(self, ws: web.WebSocketResponse, boot: str, said: FromAgent) -> None:
        """Record one message."""
        if isinstance(said, Batch):
            self.received += 1
            if (boot, said.sequence) not in self.batches:
                self.batches[boot, said.sequence] = said
                now = time.time()
                self.arrivals += [(now, o) for o in said.observations]
            if self.acking:
                await ws.send_str(encode(Ack(sequence=said.sequence)).decode())
        elif isinstance(said, Status):
            self.statuses.append(said)
        elif isinstance(said, Answer):
            self.answers[said.order] = said
        elif isinstance(said, Armed):
            self.armed.append(said.order)
        elif isinstance(said, Goodbye):
            self.goodbyes.append(said)

    def observations(self, task: str = "") -> list[Observation]:
        """All observations so far (of one task)."""
        return [o for _, o in self.arrivals if not task or o.task == task]

    async def send(self, message: FromController) -> None:
        """Send to every agent that is connected."""
        for ws in list(self.sockets):
            await ws.send_str(encode(message).decode())

    async def set_plan(self, plan: Plan) -> None:
        """Put another plan in force."""
        self.plan = plan
        await self.send(PlanUpdate(plan=plan))

    async def ask(self, order: Order, timeout_s: float = 20.0) -> Answer:
        """Give an order and wait for its answer."""
        await self.send(order)
        await until(lambda: order.order in self.answers, f"answer to order {order.order}", timeout_s)
        return self.answers[order.order]

    def break_connections(self) -> None:
        """Cut every stream at once, without a word."""
        for ws in list(self.sockets):
            transport = ws._req.transport if ws._req is not None else None
            if transport is not None:
                transport.abort()


@contextlib.asynccontextmanager
async def controller(namespace: str, address: str, folder: Path) -> AsyncIterator[FakeController]:
    """A controller in a namespace; its CA is `folder`/ca.crt, its token `folder`/token."""
    pki.make_ca(folder)
    pair = pki.issue(folder, "controller", ips=[address])
    (folder / "token").write_text(TOKEN + "\n")
    fake = FakeController(address)
    app = web.Application()
    app.router.add_get("/api/v1/agent", fake.handle)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)

    def listen() -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, fake.port))
        return sock

    fake.listening = netns.call_in(namespace, listen)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.SockSite(runner, fake.listening, ssl_context=tls).start()
    try:
        yield fake
    finally:
        fake.break_connections()
        await runner.cleanup()


@dataclass
class AgentProcess:
    """A running agent."""

    process: asyncio.subprocess.Process
    folder: Path
    log_file: Path

    @property
    def pid(self) -> int:
        """Its process id (nsenter becomes it)."""
        return self.process.pid

    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text()

    async def end(self, timeout_s: float = 5.0) -> int:
        """SIGTERM, and wait."""
        if self.process.returncode is None:
            self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), timeout_s)


@contextlib.asynccontextmanager
async def agent(
    namespace: str,
    node: str,
    address: str,
    controller_address: str,
    folder: Path,
    *more: str,
    launcher: tuple[str, ...] = (),
) -> AsyncIterator[AgentProcess]:
    """A real agent in a namespace. `folder` holds the controller's CA and token; netns files lie in folder/netns.

    `launcher` is a command that runs it, such as setpriv.
    """
    own = folder / node
    (own / "state").mkdir(parents=True, exist_ok=True)
    (folder / "netns").mkdir(exist_ok=True)
    target = f"[{controller_address}]:8703" if ":" in controller_address else f"{controller_address}:8703"
    arguments = [
        *("--node", node, "--node-address", address, "--controller", target),
        *("--ca", str(folder / "ca.crt"), "--token-file", str(folder / "token")),
        *("--netns-dir", str(folder / "netns"), "--state-dir", str(own / "state"), *more),
    ]
    log_file = own / "log"
    with log_file.open("a") as log:
        process = await asyncio.create_subprocess_exec(
            *netns.nsenter_argv(namespace, [*launcher, sys.executable, "-E", "-s", "-m", "agent.app", *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    running = AgentProcess(process, own, log_file)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(holds: Callable[[], object], what: str, timeout_s: float = SOON_S) -> float:
    """Poll until it holds; returns how long that took. Fails at the deadline."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < timeout_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - start


HOST = Vantage()


def plan_of(*tasks: Task, vantages: tuple[Vantage, ...] = (HOST,), digest: str = "", **more: object) -> Plan:
    """A plan of these tasks."""
    return Plan(digest=digest or str(len(tasks)), vantages=vantages, tasks=tasks, **more)  # type: ignore[arg-type]


def udp(name: str, address: str, port: int = 8701, interval_ms: int = 200, vantage: int = 0) -> Task:
    """A UDP echo task."""
    family = ipaddress.ip_address(address).version
    return Task(
        id=name,
        vantage=vantage,
        method=Method.UDP,
        family=family,
        address=address,
        port=port,
        interval_ms=interval_ms,
        timeout_ms=400,
    )


def add_pod(folder: Path, uid: str, namespace: str) -> None:
    """Let the agents of `folder` find a pod's namespace under its UID."""
    (folder / "netns").mkdir(exist_ok=True)
    (folder / "netns" / uid).unlink(missing_ok=True)
    (folder / "netns" / uid).symlink_to(netns.path_of(namespace))
