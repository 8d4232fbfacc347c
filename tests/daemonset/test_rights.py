"""RBAC with nothing to spare: what the controller really asks of the API, held against what it may."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from controller.app import Controller
from controller.cluster.api import KubeApi
from controller.cluster.pools import POOLS
from controller.cluster.state import Pod
from controller.cluster.store import RESOURCES
from controller.diagnosis.node_case import Sign
from controller.options import parse
from lab.embedded.apiserver.requests import selected_name, target_of
from model.clock import SystemClock
from tests.controller.running import (
    ADDRESS_POOLS,
    ADMIN_POLICIES,
    add_node,
    agent,
    call,
    define,
    eventually,
    patched,
    token_of,
)
from tests.controller.test_watch import watching
from tests.daemonset.manifests import rendered
from tests.lab.embedded.apiserver_process import Server

Right = tuple[str, str, str, str]
SERVICE_ACCOUNTS = "/api/v1/namespaces/kubereach/serviceaccounts"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
}


class RecordingApi(KubeApi):
    """The controller's real client, which writes down what it asks and what was refused."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.asked: set[tuple[str, str]] = set()
        self.refused: list[str] = []

    async def _send(self, method: str, path: str, params: Any, body: Any, timeout: Any) -> Any:
        watch = "&watch=true" if params and params.get("watch") else ""
        self.asked.add((method, f"{path}{'&' if '?' in path else '?'}{watch}"))
        try:
            return await super()._send(method, path, params, body, timeout)
        except Exception as error:
            self.refused.append(f"{method} {path}: {error}")
            raise


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An API server with the installation's accounts, rights and empty objects, and one node."""
    (tmp_path / "api").mkdir()
    one = Server(tmp_path / "api", family="4")
    one.start()
    for (kind, namespace, _), item in rendered().items():
        if kind in PATHS:
            assert one.call("POST", PATHS[kind].format(namespace), item)[0] == 201, item
    add_node(one, 0)
    define(one, ADMIN_POLICIES + ADDRESS_POOLS)
    yield one
    one.kill()


def as_account(server: Server, folder: Path) -> Path:
    """A kubeconfig of the controller's ServiceAccount."""
    config = msgspec.json.decode(server.kubeconfig().read_bytes())
    audience = "https://kubernetes.default.svc.cluster.local"
    config["users"][0]["user"]["token"] = token_of(server, "kubereach-controller", audience=audience)
    path = folder / "controller.kubeconfig"
    path.write_bytes(msgspec.json.encode(config))
    return path


def rights(asked: set[tuple[str, str]]) -> set[Right]:
    """Requests as RBAC sees them: verb, group, resource, name."""
    found = set()
    for method, path in asked:
        parts = urlsplit(path)
        target = target_of(parts.path)
        if target is None:
            continue
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        action = target.action(method, watch="watch" in query, selected=selected_name(query))
        found.add((action.verb, action.group, action.resource, action.name))
    return found


def granted() -> set[Right]:
    """What the roles bound to the controller's account allow."""
    bound = {
        (item["roleRef"]["kind"], item["roleRef"]["name"])
        for item in rendered().values()
        if any(subject["name"] == "kubereach-controller" for subject in item.get("subjects") or ())
    }
    rules = [rule for (kind, _, name), item in rendered().items() if (kind, name) in bound for rule in item["rules"]]
    return {
        (verb, group, resource, name)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
    }


async def test_the_controller_asks_for_all_that_it_may_and_for_nothing_else(server: Server, tmp_path: Path) -> None:
    """A life of it as its own account: begins, lets people in, asks why a pod waits. Nothing refused, or spare."""
    argv = ["--kubeconfig", str(as_account(server, tmp_path)), "--listen=127.0.0.1:0", "--listen-plain=127.0.0.1:0"]
    argv += ["--publish=kubereach-controller", "--tls-secret=kubereach-tls", "--advertise=127.0.0.1"]
    options = parse(argv)
    api = await RecordingApi.connect(options.kubeconfig)
    assert isinstance(api, RecordingApi)
    controller = Controller(api, options, SystemClock())
    task = asyncio.create_task(controller.run())
    try:
        await eventually(lambda: controller.server.ports or task.done(), "the controller listens")
        plain = controller.server.ports[1]
        controller.server.ports = (plain,)
        await eventually(lambda: controller.services.matrix.plan.nodes, "a plan")
        await eventually(lambda: len(rights(api.asked)) >= 2 * len(RESOURCES), "all watches run")
        async with agent(controller, "node-a", token_of(server, "kubereach-agent")):
            assert (await call(controller, "GET", "/api/v1/cluster"))[0] == 200
            waiting = Pod(uid="u", namespace="kubereach", name="kubereach-endpoint-x", node="node-a")
            await controller.node_watch.look(Sign("node-a", "has no sandbox", waiting))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [one for one in api.refused if "403" in one] == []
    assert rights(api.asked) == granted()


async def test_a_role_from_before_the_pools_holds_nothing_up(server: Server, tmp_path: Path) -> None:
    """The image renewed without its role: all is read but what may not be seen, and what that is can be read."""
    path = f"{PATHS['ClusterRole']}/kubereach-controller"
    role = server.call("GET", path)[1]
    kinds = {"servicecidrs", "ippools", "ipaddresspools"}
    rules = [rule for rule in role["rules"] if not kinds & set(rule.get("resources", ()))]
    assert len(rules) == len(role["rules"]) - len(kinds)
    patched(server, path, {"rules": rules})
    async with watching(as_account(server, tmp_path)) as watch:
        assert len(watch.snapshot().nodes) == 1
        assert watch.errors.keys() == POOLS.keys()
        assert all("403" in why or "forbidden" in why for why in watch.errors.values()), watch.errors


def test_tls_is_what_agents_use() -> None:
    """The port for agents exists only with TLS, the plain one only on loopback: the parser refuses all else."""
    argv = ["--publish=c", "--tls-secret=s", "--advertise=127.0.0.1"]
    secure, plain = parse(argv).listen
    assert isinstance(secure.tls, ssl.SSLContext)
    assert (plain.tls, plain.host) == (None, "127.0.0.1")
