"""`python -m lab.supervisor NAME`: builds a lab whose lab.json is written, starts its processes and keeps them running.

Whatever dies is started again (0.2 s, then up to 2 s later). It adopts orphans of its services, so that no zombie
stays, and leads loopback ports of the machine to API server and controller. SIGTERM takes the lab away, whole.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import aiohttp

from lab import netns, services, topology
from lab.client import ApiClient, ApiError, Object
from lab.forward import open_forward, port_of
from lab.kubernetes.plane import beside
from lab.kubernetes.start import Kubernetes
from lab.manifests import Applier, in_order, read_documents
from lab.ready import pods_not_ready, wait_ready
from lab.services import ServiceSpec
from lab.spec import API_PORT, MEMBER_VARIABLE, Topology, load_topology
from lab.state import LabState, ProcessId, save_state, start_time, this_process
from lab.teardown import tear_down

FIRST_BACKOFF_S: Final = 0.2
LONGEST_BACKOFF_S: Final = 2.0
STEADY_S: Final = 10.0
API_DEADLINE_S: Final = 60.0
PODS_DEADLINE_S: Final = 90.0
SWEEP_DEADLINE_S: Final = 60.0
TOKEN_LIFETIME_S: Final = 365 * 24 * 3600
SAMPLE: Final = Path(__file__).parent / "sample"
SYSTEM: Final = Path(__file__).parent / "kubernetes"
SAMPLE_FILES: Final = (SAMPLE / "workload.yaml", SAMPLE / "policies.yaml")
_PR_SET_CHILD_SUBREAPER: Final = 36

log = logging.getLogger("lab.supervisor")


class Supervisor:
    """One lab from its start to its end."""

    def __init__(self, plan: Topology, *, agents: bool, sample: bool, endpoints: bool) -> None:
        self._plan = plan
        self._agents = agents
        self._sample = sample
        self._endpoints = endpoints
        self._state = LabState("starting", this_process())
        self._running: dict[str, ProcessId] = {}
        self._servers: list[asyncio.Server] = []
        self._kubernetes: Kubernetes | None = None

    def _tell(self, **changes: object) -> None:
        values = {field: getattr(self._state, field) for field in LabState.__struct_fields__} | changes
        self._state = LabState(**values | {"processes": dict(self._running)})
        save_state(self._plan.name, self._state)

    async def run(self) -> None:
        """Bring the lab up and keep it so until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reap_orphans())
            try:
                await self._bring_up(group)
            except (netns.NetnsError, ApiError, aiohttp.ClientError, OSError, TimeoutError) as error:
                log.exception("the lab could not be brought up")
                self._tell(phase="failed", message=f"{self._state.message}: {str(error) or 'took too long'}")

    async def _bring_up(self, group: asyncio.TaskGroup) -> None:
        plan, begun = self._plan, time.monotonic()

        def keep(service: ServiceSpec) -> None:
            group.create_task(self._keep(service))

        self._tell(message="network namespaces and links")
        await topology.build(plan)
        self._tell(message="certificates and API server")
        token = services.prepare(plan)
        if plan.spec.real:
            self._kubernetes = Kubernetes(plan, keep)
            await self._kubernetes.begin()
        else:
            keep(services.apiserver(plan))
        forward = await open_forward(plan.control_netns, "127.0.0.1", API_PORT)
        self._servers.append(forward)
        path = plan.directory / "kubeconfig"
        server = f"https://127.0.0.1:{port_of(forward)}"
        services.write_private(path, services.kubeconfig(plan, server, services.ADMIN, token))
        self._tell(kubeconfig=str(path))
        for service in beside(plan) if plan.spec.real else services.lab_services(plan):
            if importlib.util.find_spec(service.argv[2]) is not None:
                group.create_task(self._keep(service))
        async with ApiClient.from_kubeconfig(path) as client:
            await self._wait_for_api(client)
            if self._kubernetes is not None:
                self._tell(message="nodes of Kubernetes")
                await self._kubernetes.join(client)
            self._tell(message="objects of the cluster")
            await self._apply(client)
            if self._agents:
                await self._start_kubereach(client, group, token)
            self._tell(message="pods to become ready")
            async with asyncio.timeout(PODS_DEADLINE_S):
                while waiting := pods_not_ready(await client.list("pods")):
                    self._tell(message=f"pods to become ready: {len(waiting)} to go, {waiting[0]}")
                    await asyncio.sleep(0.1)
        if self._agents:
            self._tell(message="every node to report and the first sweep to be whole")
            await wait_ready(self._state.url, token, SWEEP_DEADLINE_S)
        self._tell(phase="up", message=f"up after {time.monotonic() - begun:.1f} s")

    async def _wait_for_api(self, client: ApiClient) -> None:
        async with asyncio.timeout(API_DEADLINE_S):
            while True:
                try:
                    await client.list("namespaces")
                    return
                except (ApiError, aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)

    async def _apply(self, client: ApiClient) -> None:
        real = self._plan.spec.real
        files = [SYSTEM / "dns.yaml" if real else SAMPLE / "dns.yaml", *(SAMPLE_FILES if self._sample else ())]
        if self._endpoints:
            files.insert(0, SAMPLE / "kubereach.yaml")
        documents = [item for path in files for item in read_documents(path.read_text(), path.name)]
        applier = Applier(client)
        for item in in_order(documents):
            await applier.apply(item if self._plan.spec.dual else _without_ipv6(item))

    async def _start_kubereach(self, client: ApiClient, group: asyncio.TaskGroup, token: str) -> None:
        plan = self._plan
        own = await _issue_token(client, "kubereach-controller", [])
        server = f"https://{plan.control_ipv4}:{API_PORT}"
        text = services.kubeconfig(plan, server, "kubereach-controller", own)
        services.write_private(plan.directory / "controller/kubeconfig", text)
        for node in plan.nodes:
            agents = await _issue_token(client, "kubereach-agent", [services.TOKEN_AUDIENCE])
            services.write_private(plan.node_directory(node.name) / "agent/token", agents)
        forward = await open_forward(plan.nodes[0].netns, "127.0.0.1", services.CONTROLLER_PLAIN_PORT)
        self._servers.append(forward)
        self._tell(url=f"http://127.0.0.1:{port_of(forward)}/#token={token}")
        group.create_task(self._keep(services.controller(plan)))
        for node in plan.nodes:
            enter = self._kubernetes.enter(node.name) if self._kubernetes is not None else ()
            group.create_task(self._keep(services.agent(plan, node, enter)))

    async def _keep(self, service: ServiceSpec) -> None:
        """Start a service, and again whenever it ends; output goes to logs/NAME.log."""
        backoff_s = FIRST_BACKOFF_S
        path = self._plan.directory / "logs" / f"{service.name.replace('/', '-')}.log"
        argv = list(service.argv)
        if service.netns is not None:
            argv = netns.nsenter_argv(service.netns, argv, service.enter)
        environment = {**os.environ, MEMBER_VARIABLE: self._plan.name, "PYTHONUNBUFFERED": "1"}
        environment.update(service.environment)
        environment.pop("KUBEREACH_LAB", None)
        while True:
            begun = time.monotonic()
            with path.open("ab") as output:
                # the kernel ends it with us, however we end
                process = await asyncio.create_subprocess_exec(
                    *("setpriv", "--pdeathsig", "KILL", *argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                )
            self._running[service.name] = ProcessId(process.pid, start_time(process.pid) or 0)
            self._tell()
            code = await process.wait()
            self._running.pop(service.name, None)
            log.warning("%s ended with code %s", service.name, code)
            if time.monotonic() - begun > STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)

    async def _reap_orphans(self) -> None:
        """Collect dead processes that were handed to us because their own parent died."""
        while True:
            await asyncio.sleep(1.0)
            while True:
                try:
                    dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # noqa: ASYNC222 - WNOHANG
                except ChildProcessError:
                    break
                own = {process.pid for process in self._running.values()}
                if dead is None or dead.si_pid in own:
                    break
                os.waitpid(dead.si_pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait


def _without_ipv6(item: Object) -> Object:
    spec = item.get("spec")
    if item["kind"] != "Service" or not spec or "clusterIPs" not in spec:
        return item
    only4 = [address for address in spec["clusterIPs"] if ":" not in address]
    return {**item, "spec": {**spec, "clusterIPs": only4}}


async def _issue_token(client: ApiClient, account: str, audiences: list[str]) -> str:
    path = f"/api/v1/namespaces/{services.NAMESPACE}/serviceaccounts/{account}/token"
    spec: Object = {"expirationSeconds": TOKEN_LIFETIME_S}
    if audiences:
        spec["audiences"] = audiences
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = await client.request("POST", path, body=body)
    return str(answer["status"]["token"])


async def _main(plan: Topology, *, agents: bool, sample: bool, endpoints: bool) -> None:
    task = asyncio.ensure_future(Supervisor(plan, agents=agents, sample=sample, endpoints=endpoints).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("told to end")


def main(arguments: list[str]) -> int:
    """Supervise one lab until told to end, then take it away."""
    parser = argparse.ArgumentParser(prog="python -m lab.supervisor")
    parser.add_argument("name")
    parser.add_argument("--no-agents", action="store_true")
    parser.add_argument("--no-sample", action="store_true")
    parser.add_argument("--no-endpoints", action="store_true")
    options = parser.parse_args(arguments)
    plan = load_topology(options.name)
    (plan.directory / "logs").mkdir(exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parts = {name: not getattr(options, f"no_{name}") for name in ("agents", "sample", "endpoints")}
    asyncio.run(_main(plan, **parts))
    tear_down(options.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
