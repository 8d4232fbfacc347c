"""`kubereach controller`: puts the parts together, runs them in one event loop, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Final

from controller.agents import AgentChanged, AgentRegistry
from controller.auth import Authenticator
from controller.cluster.api import ApiError, ConfigurationError, KubeApi
from controller.cluster.watch import ClusterWatch, backoff_s
from controller.diagnosis.engine import Diagnoser
from controller.diagnosis.node_watch import NodeWatch
from controller.diagnosis.on_demand import OnDemand
from controller.facts.journal import Journal
from controller.facts.keeper import FactsKeeper
from controller.incident.book import IncidentBook
from controller.introduce import Introducer
from controller.matrix.matrix import MatrixBook
from controller.memory import AgentMemory
from controller.options import OptionError, Options, load_certificate, parse
from controller.planner import Planner
from controller.sweep import Sweep
from controller.web.server import Server
from controller.web.services import Services
from controller.web.stream import EventHub
from model.clock import Clock, SystemClock

log = logging.getLogger(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
TICK_S: Final = 0.25
AGENTS_EVERY: Final = 4
CERTIFICATE_EVERY: Final = 240
HANGS_S: Final = 30.0


class Controller:
    """One controller: made, then `run` until it is cancelled."""

    def __init__(self, api: KubeApi, options: Options, clock: Clock) -> None:
        """Opens the state files; nothing is sent, nothing listens."""
        self._api = api
        self._options = options
        self._clock = clock
        state = options.state_dir
        self._memory = AgentMemory(state / "agents.sqlite" if state else None)
        self._beat = clock.monotonic()
        book = IncidentBook(clock, state / "incidents.sqlite" if state else None)
        watch = ClusterWatch(api, clock, pools=options.pools)
        matrix = MatrixBook(clock)
        agents = AgentRegistry(clock, matrix.ingest)
        planner = Planner(watch, agents, matrix, self._memory, options.settings, clock, options.admin_policies)
        facts = FactsKeeper(agents, Journal(), clock)
        self._diagnoser = Diagnoser(
            cluster=watch.snapshot,
            plan=lambda: matrix.plan,
            matrix=matrix,
            agents=agents,
            book=book,
            clock=clock,
            policy=lambda: planner.policy,
            journal=facts.journal,
        )
        self.node_watch = NodeWatch(
            cluster=watch.snapshot,
            agents=agents,
            book=book,
            api=api,
            namespace=options.settings.namespace,
            clock=clock,
        )
        self.services = Services(
            clock=clock,
            watch=watch,
            planner=planner,
            matrix=matrix,
            agents=agents,
            book=book,
            on_demand=OnDemand(
                cluster=watch.snapshot,
                policy=lambda: planner.policy,
                agents=agents,
                diagnoser=self._diagnoser,
                book=book,
                clock=clock,
                egress=options.settings.egress_targets,
            ),
            sweep=Sweep(matrix, agents, clock),
            hub=EventHub(matrix),
            facts=facts,
            auth=Authenticator(api, clock, options.settings.namespace, options.agent_account),
            alive=lambda: clock.monotonic() - self._beat < HANGS_S,
        )
        self.server = Server(self.services, options.listen)
        tls = next((where.tls for where in options.listen if where.tls is not None), None)
        self._introducer = (
            Introducer(api, options.introduction, tls) if options.introduction is not None and tls is not None else None
        )
        self._connect()

    def _connect(self) -> None:
        """Who tells whom."""
        services = self.services
        services.matrix.on_change(services.hub.on_paths)
        services.book.on_change(services.hub.on_incident)
        services.agents.on_change(services.hub.on_agent)
        services.agents.restore(self._memory.load())
        services.agents.on_change(self._keep_agent)

    def _keep_agent(self, change: AgentChanged) -> None:
        try:
            self._memory.save(change.new)
        except sqlite3.Error as error:
            log.warning("the agent of %s cannot be kept in the state directory: %s", change.new.node, error)

    async def run(self) -> None:
        """Runs until it is cancelled; then closes what is open. Raises OSError if it cannot listen."""
        try:
            if self._introducer is not None:
                await self._introduce(self._introducer)
            await self.server.start()
            async with asyncio.TaskGroup() as group:
                if self._introducer is not None:
                    group.create_task(self._introducer.run(), name="introducer")
                group.create_task(self.services.watch.run(), name="watch")
                group.create_task(self.services.planner.run(), name="planner")
                group.create_task(self._diagnoser.run(), name="diagnoser")
                group.create_task(self.node_watch.run(), name="node watch")
                group.create_task(self.services.facts.run(), name="facts")
                group.create_task(self._tick(), name="tick")
        finally:
            await self.server.stop()
            await self._api.close()
            self.services.book.close()
            self._memory.close()

    async def _introduce(self, introducer: Introducer) -> None:
        """Without a certificate nobody could be let in: the API is asked until it has answered."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await introducer.begin()
            except ApiError as error:
                log.warning("cannot introduce the controller to agents: %s", error)
                await asyncio.sleep(backoff_s(attempt, "introduce"))

    async def _tick(self) -> None:
        """What has to be done by the clock; measures by how much the loop is late."""
        services, turn = self.services, 0
        while True:
            began = self._clock.monotonic()
            self._beat = began
            services.matrix.tick()
            services.hub.flush(services.watch.snapshot())
            if turn % AGENTS_EVERY == 0:
                services.agents.tick()
            if turn % CERTIFICATE_EVERY == CERTIFICATE_EVERY - 1:
                self._renew_certificate()
            await asyncio.sleep(TICK_S)
            lag = self._clock.monotonic() - began - TICK_S
            services.counts.lag_s = max(lag, services.counts.lag_s * 0.99)
            turn += 1

    def _renew_certificate(self) -> None:
        """A renewed certificate is taken up without a restart."""
        for where in self._options.listen:
            if where.tls is not None and self._options.tls is not None:
                try:
                    load_certificate(where.tls, self._options.tls)
                except OptionError as error:
                    log.warning("the former certificate stays: %s", error)


async def _serve(options: Options) -> None:
    # Plans and matrices are many small objects that live long; looking through them for cycles costs more than they do.
    gc.set_threshold(100_000, 50, 100)
    api = await KubeApi.connect(options.kubeconfig)
    controller = Controller(api, options, SystemClock())
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await controller.run()


def _prepare(state_dir: Path | None) -> None:
    if state_dir is not None:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"--state-dir {state_dir}: {error.strerror}") from None


def main(argv: list[str]) -> int:
    """Runs the controller until SIGTERM or SIGINT. Returns the exit code."""
    try:
        options = parse(argv)
        logging.basicConfig(
            level=logging.DEBUG if options.verbose else logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        _prepare(options.state_dir)
        asyncio.run(_serve(options))
    except (OptionError, ConfigurationError) as error:
        print(f"kubereach controller: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (OSError, sqlite3.Error) as error:
        print(f"kubereach controller: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
