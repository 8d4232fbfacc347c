"""The resident agent: wires engine, outbox, uplink, relay, echo and orders together, and ends them in order."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent import memory
from agent.echo import Echo, listen
from agent.engine import Engine
from agent.host.ruletrace import leftovers
from agent.introduction import Introduction, host_port
from agent.journal import Journal
from agent.linkwatch import LinkWatch
from agent.log import log
from agent.ondemand import Orders, Places
from agent.outbox import Outbox
from agent.relay import Relay, among
from agent.uplink import Settings, Uplink
from model.ports import CONTROLLER_PORT, HOST_ECHO_PORT, RELAY_PORT
from model.probes import Observation, Plan, RelayPeer
from model.protocol import Answer, Cue, FromController, Hello, Order, PlanUpdate, Status

VERSION: Final = "0.1.0"
_RETRY_S: Final = 5.0
_SLIM_AFTER_S: Final = 3.0
_END_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, read and checked."""

    node: str
    addresses: tuple[str, ...]
    controllers: tuple[tuple[str, int], ...]
    controller_file: str
    neighbours: tuple[tuple[str, int], ...]
    ca: str
    token_file: str
    places: Places
    state_dir: str
    relay_port: int
    echo_port: int
    rate_limit: float


def parse(argv: list[str] | None) -> Options:
    """Read the command line; ends the process with code 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="kubereach agent", description="Probe from this node, and report.")
    add = parser.add_argument
    add("--node", required=True)
    add("--node-address", action="append", required=True, help="ADDRESS, or several with commas in between")
    add("--controller", action="append", default=[], help="ADDRESS:PORT, [ADDRESS]:PORT for IPv6")
    add("--controller-file", default="", help="instead: the file that tells of it, read anew at every connect")
    add("--neighbour", action="append", default=[], help="ADDRESS:PORT of another agent's relay")
    add("--ca", default="", help="authority of the controller named by --controller, and of HTTPS targets")
    add("--token-file", required=True)
    add("--netns-dir", default="/run/netns")
    add("--cni-conf-dir", default="/etc/cni/net.d")
    add("--cni-bin-dir", default="/opt/cni/bin")
    add("--state-dir", required=True)
    add("--relay-port", type=int, default=RELAY_PORT)
    add("--echo-port", type=int, default=HOST_ECHO_PORT)
    add("--rate-limit", type=float, default=64.0, help="steady probes a second, at most")
    given = parser.parse_args(argv)
    try:
        controllers = tuple(host_port(text, CONTROLLER_PORT) for text in given.controller)
        neighbours = tuple(host_port(text, RELAY_PORT) for text in given.neighbour)
        addresses = tuple(address for text in given.node_address for address in text.split(","))
        for address in addresses:
            host_port(f"[{address}]" if ":" in address else address, 0)
    except ValueError as error:
        parser.error(str(error))
    if bool(controllers) == bool(given.controller_file):
        parser.error("name the controller by --controller, or by --controller-file")
    if controllers and not given.ca:
        parser.error("--controller wants --ca")
    if given.rate_limit <= 0:
        parser.error("--rate-limit must be positive")
    return Options(
        node=given.node,
        addresses=addresses,
        controllers=controllers,
        controller_file=given.controller_file,
        neighbours=neighbours,
        ca=given.ca,
        token_file=given.token_file,
        places=Places(given.netns_dir, given.cni_conf_dir, given.cni_bin_dir, given.ca),
        state_dir=given.state_dir,
        relay_port=given.relay_port,
        echo_port=given.echo_port,
        rate_limit=given.rate_limit,
    )


class Neighbours:
    """Who may relay for us: those of the last plan, kept over a restart, and those named on the command line."""

    def __init__(self, state_dir: str, own: tuple[str, ...], named: tuple[tuple[str, int], ...]) -> None:
        self._file = Path(state_dir) / "relays.json"
        self._own = own
        self._named = [(f"{host}:{port}", host, port) for host, port in named]
        self._peers: tuple[RelayPeer, ...] = ()
        self.clients: tuple[str, ...] = tuple(host for host, _ in named)
        self._named_hosts = self.clients
        try:
            self._peers = msgspec.json.decode(self._file.read_bytes(), type=tuple[RelayPeer, ...])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log("warning", "stored neighbours cannot be read", file=self._file, reason=error)

    def relays(self) -> list[tuple[str, str, int]]:
        """Node, address and port of every neighbour, one address of each after the other."""
        known = [(p.node, a, p.port) for p in self._peers for a in p.addresses[:1] if not among(a, self._own)]
        known += [(p.node, a, p.port) for p in self._peers for a in p.addresses[1:] if not among(a, self._own)]
        have = {(address, port) for _, address, port in known}
        return known + [named for named in self._named if (named[1], named[2]) not in have]

    def learn(self, plan: Plan) -> None:
        """Take the neighbours of a plan, and write them down if they are others than before."""
        self.clients = (*plan.relay_clients, *self._named_hosts)
        if plan.relays == self._peers:
            return
        self._peers = plan.relays
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(msgspec.json.encode(self._peers))
            new.replace(self._file)
        except OSError as error:
            log("warning", "neighbours cannot be stored", file=self._file, reason=error.strerror)


class Agent:
    """One run of the agent."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._boot = os.urandom(6).hex()
        self._neighbours = Neighbours(options.state_dir, options.addresses, options.neighbours)
        self._outbox = Outbox()
        self._engine = Engine(options.node, options.places.netns_dir, options.rate_limit, self._observed, options.ca)
        self._links = LinkWatch(options.addresses)
        self._journal = Journal()
        introduction = Introduction(options.controllers, options.ca, options.controller_file)
        settings = Settings(introduction, options.token_file, self._neighbours.relays, options.addresses)
        self._uplink = Uplink(settings, self._outbox, self)
        self._orders = Orders(options.places, self._answered, self._uplink.armed)
        self._relay = Relay(self._uplink.controllers, lambda peer: among(peer, self._neighbours.clients))
        self._slimmer: asyncio.TimerHandle | None = None

    def _observed(self, observation: Observation, changed: bool) -> None:
        self._outbox.add(observation)
        self._uplink.wake(changed)

    def _answered(self, answer: Answer) -> None:
        self._uplink.answer(answer)
        if answer.facts is not None:
            # Facts of a crowded node are megabytes for a moment.
            self._slim_later()

    # --- what the uplink asks (Client) ---

    def hello(self, via: str) -> Hello:
        """See `Client`."""
        at_ms = time.time_ns() // 1_000_000
        self._links.look_for_device()
        return Hello(
            node=self._options.node,
            boot=self._boot,
            version=VERSION,
            at_ms=at_ms,
            via=via,
            uplink=self._links.device,
        )

    def status(self) -> Status:
        """See `Client`."""
        self._links.look_for_device()
        return Status(
            at_ms=time.time_ns() // 1_000_000,
            plan=self._engine.plan.digest,
            late_ms=self._engine.take_worst_late_ms(),
            rss_kib=memory.rss_kib(),
            cpu_ms=round(time.process_time() * 1000),
            outbox=len(self._outbox),
            vantage_errors=self._engine.vantage_errors(),
            link_events=self._links.events(),
            changes=self._journal.changes(),
            changes_lost=self._journal.lost,
        )

    def status_delivered(self, status: Status) -> None:
        """See `Client`."""
        self._links.delivered(status.link_events)
        self._journal.delivered(status.changes)

    def has_news(self) -> bool:
        """See `Client`."""
        return self._journal.has_changes

    def take(self, message: FromController) -> None:
        """See `Client`."""
        if isinstance(message, PlanUpdate):
            self._neighbours.learn(message.plan)
            self._engine.apply(message.plan)
            log("info", "plan in force", digest=message.plan.digest, tasks=len(message.plan.tasks))
            self._slim_later()
        elif isinstance(message, Order) and message.sweep:
            self._engine.sweep()
            self._uplink.answer(Answer(order=message.order))
        elif isinstance(message, Order):
            self._orders.start(message)
        elif isinstance(message, Cue):
            self._orders.cue(message)

    def _slim_later(self) -> None:
        if self._slimmer is not None:
            self._slimmer.cancel()
        self._slimmer = self._loop.call_later(_SLIM_AFTER_S, memory.slim)

    # --- life ---

    async def run(self, ended: asyncio.Event) -> None:
        """Serve until `ended` is set, then take leave and clear away."""
        self._clear_leftovers()
        echo = Echo()
        services = [
            self._loop.create_task(self._uplink.run()),
            self._loop.create_task(self._serve_echo(echo)),
            *(self._loop.create_task(self._serve_relay(address)) for address in self._options.addresses),
        ]
        end = self._loop.create_task(ended.wait())
        try:
            done, _ = await asyncio.wait((*services, end), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is not end:
                    # A service ends only by a fault of ours: let it be seen, and be started anew.
                    task.result()
        finally:
            end.cancel()
            await self._shut_down(services, echo)

    @staticmethod
    def _clear_leftovers() -> None:
        """What an agent before us could not take away, since it was killed in the midst of a rule trace."""
        try:
            if gone := leftovers.remove():
                log("warning", "leftovers of a killed rule trace are removed", tables=",".join(gone))
        except OSError as error:
            log("warning", "cannot look for leftovers of rule traces", reason=error)

    async def _shut_down(self, services: list[asyncio.Task[None]], echo: Echo) -> None:
        try:
            async with asyncio.timeout(_END_S):
                await self._engine.close()
                await self._orders.close()
                await self._uplink.say_goodbye("asked to end")
        except TimeoutError:
            log("warning", "could not end in good order")
        if self._slimmer is not None:
            self._slimmer.cancel()
        echo.close()
        for task in services:
            task.cancel()
        await asyncio.gather(*services, return_exceptions=True)
        await self._relay.close()
        self._links.close()
        self._journal.close()

    async def _serve_echo(self, echo: Echo) -> None:
        while True:
            try:
                echo.start(self._options.addresses, self._options.echo_port)
            except OSError as error:
                log("error", "cannot listen for echo", port=self._options.echo_port, reason=error.strerror)
                await asyncio.sleep(_RETRY_S)
                continue
            await asyncio.Event().wait()

    async def _serve_relay(self, address: str) -> None:
        while True:
            try:
                sock = listen(address, socket.SOCK_STREAM, self._options.relay_port)
            except OSError as error:
                log("error", "cannot listen for neighbours", port=self._options.relay_port, reason=error.strerror)
                await asyncio.sleep(_RETRY_S)
                continue
            server = await asyncio.start_server(self._relay.accept, sock=sock, limit=32768)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()


async def _amain(options: Options) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    agent = Agent(options)
    log("info", "agent runs", node=options.node, version=VERSION, pid=os.getpid())
    await agent.run(ended)
    log("info", "agent ends", node=options.node)


def main(argv: list[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; returns 0."""
    options = parse(argv)
    memory.tune()
    asyncio.run(_amain(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
