"""A real controller over a real API server, and agents that speak the real protocol to it by script."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec

from controller.app import Controller
from controller.cluster.api import KubeApi
from controller.options import Options
from controller.plan.paths import PlanSettings
from controller.web.server import Listen
from model.clock import SystemClock
from model.probes import Observation, Plan
from model.protocol import (
    SUBPROTOCOL,
    Ack,
    Batch,
    FromAgent,
    FromController,
    Hello,
    Order,
    PlanUpdate,
    Welcome,
    decode_from_controller,
    encode,
)
from model.words import Outcome
from tests.lab.embedded.apiserver_process import ADMIN, Server

Found = TypeVar("Found")
Message = TypeVar("Message", bound=FromController)
ENDPOINT = {"app.kubernetes.io/name": "kubereach", "app.kubernetes.io/component": "endpoint"}
DEADLINE_S = 10.0


async def eventually(look: Callable[[], Found | None], what: str, deadline_s: float = DEADLINE_S) -> Found:
    """What `look` gives as soon as that is something."""
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {deadline_s:g} s: {what}")


def created(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Makes an object; one that is there stays."""
    status, answer = server.call("POST", path, body)
    assert status in (201, 409), answer
    return answer


def patched(server: Server, path: str, body: dict[str, Any]) -> None:
    """Merges into an object or its status."""
    status, answer = server.call("PATCH", path, body, content="application/merge-patch+json")
    assert status == 200, answer


def add_node(server: Server, index: int) -> str:
    """A Ready node with our endpoint pod on it."""
    name = f"node-{'abcdefgh'[index]}"
    zone = {"topology.kubernetes.io/zone": f"zone-{index % 2 + 1}"}
    created(server, "/api/v1/nodes", {"metadata": {"name": name, "labels": zone}})
    status = {
        "addresses": [{"type": "InternalIP", "address": f"10.77.1.{11 + index}"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }
    patched(server, f"/api/v1/nodes/{name}/status", {"status": status})
    add_pod(server, "kubereach", f"endpoint-{index}", name, f"10.244.{index + 1}.2", ENDPOINT)
    return name


class Definition(NamedTuple):
    """A kind that a project's manifests install."""

    group: str
    plural: str
    kind: str
    version: str
    scope: str = "Cluster"

    @property
    def object(self) -> dict[str, Any]:
        """The CustomResourceDefinition, which takes objects of any shape."""
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        served = {"name": self.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{self.plural}.{self.group}"},
            "spec": {
                "group": self.group,
                "scope": self.scope,
                "names": {"plural": self.plural, "kind": self.kind},
                "versions": [served],
            },
        }


POLICY_API = "policy.networking.k8s.io"
ADMIN_POLICIES = (
    Definition(POLICY_API, "adminnetworkpolicies", "AdminNetworkPolicy", "v1alpha1"),
    Definition(POLICY_API, "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", "v1alpha1"),
    Definition(POLICY_API, "clusternetworkpolicies", "ClusterNetworkPolicy", "v1alpha2"),
)
IP_POOLS = Definition("crd.projectcalico.org", "ippools", "IPPool", "v1")
ADDRESS_POOLS = (IP_POOLS, Definition("metallb.io", "ipaddresspools", "IPAddressPool", "v1beta1", "Namespaced"))
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def define(server: Server, kinds: tuple[Definition, ...]) -> None:
    """Installs definitions."""
    for kind in kinds:
        created(server, DEFINITIONS, kind.object)


def add_pod(server: Server, namespace: str, name: str, node: str, address: str, labels: dict[str, str]) -> None:
    """A pod that runs and is ready."""
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "kubereach-lab"}]}
    path = f"/api/v1/namespaces/{namespace}/pods"
    created(server, path, {"metadata": {"name": name, "labels": labels}, "spec": spec})
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    patched(server, f"{path}/{name}/status", {"status": status})


def populate(server: Server, nodes: int = 3) -> None:
    """Our namespace, the agents' account, and nodes."""
    created(server, "/api/v1/namespaces", {"metadata": {"name": "kubereach"}})
    for name in ("kubereach-agent", "stranger", "reader"):
        created(server, "/api/v1/namespaces/kubereach/serviceaccounts", {"metadata": {"name": name}})
    for index in range(nodes):
        add_node(server, index)


def token_of(server: Server, account: str, *, audience: str = "kubereach", pod: str = "") -> str:
    """A ServiceAccount's token, bound to a pod if one is named."""
    spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 3600}
    if pod:
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
    path = f"/api/v1/namespaces/kubereach/serviceaccounts/{account}/token"
    status, answer = server.call("POST", path, {"spec": spec})
    assert status == 201, answer
    token: str = answer["status"]["token"]
    return token


@contextlib.asynccontextmanager
async def running(
    server: Server, state_dir: Path | None = None, kubeconfig: Path | None = None
) -> AsyncIterator[Controller]:
    """A controller that listens on a free loopback port and has read the cluster."""
    options = Options(
        kubeconfig=kubeconfig or server.kubeconfig(),
        listen=(Listen("127.0.0.1", 0),),
        tls=None,
        state_dir=state_dir,
        settings=PlanSettings(),
        agent_account="kubereach-agent",
        verbose=False,
    )
    controller = Controller(await KubeApi.connect(options.kubeconfig), options, SystemClock())
    task = asyncio.create_task(controller.run())
    try:
        await eventually(lambda: controller.server.ports or task.done(), "the controller listens")
        if task.done():
            await task
        await eventually(lambda: controller.services.matrix.plan.nodes, "a plan")
        yield controller
    finally:
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(task, return_exceptions=True)


def url(controller: Controller, path: str) -> str:
    """A URL of this controller."""
    return f"http://127.0.0.1:{controller.server.ports[0]}{path}"


async def call(
    controller: Controller, method: str, path: str, *, token: str | None = ADMIN, body: bytes | None = None
) -> tuple[int, Any]:
    """One request: the status, and the body decoded if it is JSON."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session,
        session.request(method, url(controller, path), data=body and io.BytesIO(body), headers=headers) as response,
    ):
        raw = await response.read()
        return response.status, msgspec.json.decode(raw) if response.content_type == "application/json" else raw


class ScriptedAgent:
    """An agent that does only what the test says."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen: list[FromController] = []

    async def send(self, message: FromAgent) -> None:
        """One message."""
        await self.socket.send_str(encode(message).decode())

    async def receive(self, kind: type[Message], deadline_s: float = DEADLINE_S) -> Message:
        """The next message of a kind; others on the way are kept in `seen`."""
        async with asyncio.timeout(deadline_s):
            while True:
                message = decode_from_controller(await self.socket.receive_str())
                if isinstance(message, kind):
                    return message
                self.seen.append(message)

    async def plan(self) -> Plan:
        """The next plan."""
        return (await self.receive(PlanUpdate)).plan

    async def order(self) -> Order:
        """The next order."""
        return await self.receive(Order)

    async def report(self, sequence: int, plan: Plan, outcome: Outcome = Outcome.OK) -> None:
        """A batch with one result of every task, taken when this returns."""
        now = int(time.time() * 1000)
        await self.send(
            Batch(sequence=sequence, observations=tuple(Observation(t.id, now, outcome, 80) for t in plan.tasks))
        )
        assert (await self.receive(Ack)).sequence == sequence


@contextlib.asynccontextmanager
async def agent(
    controller: Controller, node: str, token: str, *, boot: str = "b1", via: str = "", hello: bool = True
) -> AsyncIterator[ScriptedAgent]:
    """A connected agent; with `hello` it has said so and was welcomed."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url(controller, "/api/v1/agent"), headers=headers, protocols=(SUBPROTOCOL,)) as socket,
    ):
        one = ScriptedAgent(socket)
        if hello:
            now = int(time.time() * 1000)
            await one.send(Hello(node=node, boot=boot, version="test", at_ms=now, via=via, uplink="eth0"))
            await one.receive(Welcome)
        yield one
