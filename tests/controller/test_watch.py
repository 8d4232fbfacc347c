"""The watch against a real API server, one that dies, and one that forgets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from controller.cluster.api import ApiError, ConfigurationError, KubeApi
from controller.cluster.parse import parse_node, parse_pod, parse_service, parse_slice, parse_workload, seconds
from controller.cluster.state import Backend, ClusterState
from controller.cluster.store import RESOURCES, ClusterStore
from controller.cluster.watch import ABSENT_S, BACKOFF_S, WATCH_S, ClusterWatch, backoff_s
from model.clock import SystemClock
from tests.controller.clusters import cluster, pod, service, slice_of, with_pods
from tests.controller.running import add_node, add_pod, created, eventually, patched, populate
from tests.lab.embedded.apiserver_process import Server

POD = {"metadata": {"uid": "u", "namespace": "n", "name": "p"}}


@contextlib.asynccontextmanager
async def watching(kubeconfig: Path, watch_s: int = WATCH_S, absent_s: float = ABSENT_S) -> AsyncIterator[ClusterWatch]:
    """A watch that has read everything."""
    api = await KubeApi.connect(kubeconfig)
    watch = ClusterWatch(api, SystemClock(), watch_s, absent_s)
    task = asyncio.create_task(watch.run())
    try:
        await eventually(lambda: watch.store.synced, f"synced: {watch.errors}")
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """An API server of the test's own, to be killed."""
    server = Server(tmp_path, family="4")
    server.start()
    populate(server, 2)
    yield server
    server.kill()


async def test_objects_come_and_go(api: Server) -> None:
    """What is made, changed and deleted shows in the state, by index."""
    created(api, "/api/v1/namespaces", {"metadata": {"name": "shop"}})
    async with watching(api.kubeconfig()) as watch:
        add_pod(api, "shop", "cart", "node-a", "10.244.1.77", {"app": "cart"})
        state = await eventually(lambda: _has(watch, "10.244.1.77"), "the pod is there")
        assert state.node_of_address("10.244.1.77") == "node-a"
        assert state.endpoint_pods["node-a"].addresses == ("10.244.1.2",)
        api.call("DELETE", "/api/v1/namespaces/shop/pods/cart?gracePeriodSeconds=0")
        await eventually(lambda: "10.244.1.77" not in watch.snapshot().pods_by_address, "the pod is gone")


def _has(watch: ClusterWatch, address: str) -> ClusterState | None:
    state = watch.snapshot()
    return state if address in state.pods_by_address else None


async def test_the_state_survives_the_api(mortal: Server) -> None:
    """Killed: what was known stays, marked as stale; come back: the mark goes, and changes are seen again."""
    async with watching(mortal.kubeconfig()) as watch:
        before = watch.snapshot()
        mortal.kill()
        await eventually(lambda: watch.snapshot().stale_since is not None, "stale", 15)
        assert watch.snapshot().nodes == before.nodes
        assert watch.snapshot().pods == before.pods
        assert watch.errors
        mortal.start()
        await eventually(lambda: watch.snapshot().stale_since is None, "answers again", 15)
        add_node(mortal, 2)
        await eventually(lambda: "node-c" in watch.snapshot().nodes, "the new node", 15)
        await eventually(lambda: not watch.errors, "every watch is well again", 15)


async def test_watches_are_renewed_without_a_new_list(mortal: Server) -> None:
    """A watch that the server ends after its time goes on from where it was."""
    async with watching(mortal.kubeconfig(), watch_s=1) as watch:
        lists = watch.lists
        await asyncio.sleep(2.5)
        patched(mortal, "/api/v1/nodes/node-b", {"spec": {"unschedulable": True}})
        await eventually(lambda: watch.snapshot().nodes["node-b"].unschedulable, "the change")
        assert watch.lists == lists


class ForgetfulApi:
    """An API server that has one node, and answers each watch as it is told."""

    def __init__(self) -> None:
        self.names = ["node-1"]
        self.gone = "event"
        self.lists = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Nodes alone; everything else is empty and quiet."""
        nodes = request.path == "/api/v1/nodes"
        if "watch" in request.query:
            if nodes and request.query["resourceVersion"] == "old":
                return self._expired()
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(60)
            return response
        if request.path == "/version":
            return web.json_response({})
        items = [{"metadata": {"name": name}} for name in self.names] if nodes else []
        self.lists += nodes
        version = "old" if self.lists == 1 else "new"
        return web.json_response({"metadata": {"resourceVersion": version}, "items": items})

    def _expired(self) -> web.StreamResponse:
        self.names = ["node-2"]
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        if self.gone == "status":
            return web.json_response(status, status=410)
        return web.json_response({"type": "ERROR", "object": status})


@pytest.mark.parametrize("gone", ["status", "event"])
async def test_410_leads_to_a_new_list(tmp_path: Path, gone: str) -> None:
    """Whether by status or by event: what is not in the new list is gone."""
    api = ForgetfulApi()
    api.gone = gone
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = tmp_path / "config"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: x, users: [{name: u, user: {}}],"
        f" clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{runner.addresses[0][1]}'}}}}],"
        " contexts: [{name: x, context: {cluster: c, user: u}}]}"
    )
    try:
        async with watching(config) as watch:
            await eventually(lambda: set(watch.snapshot().nodes) == {"node-2"}, "the second list")
            assert api.lists == 2
    finally:
        await runner.cleanup()


async def test_a_refusal_is_an_api_error(api: Server) -> None:
    """Status and message are the server's own."""
    client = await KubeApi.connect(api.kubeconfig("nobody"))
    try:
        with pytest.raises(ApiError) as refused:
            await client.get("/api/v1/nodes")
        assert refused.value.status == 401
    finally:
        await client.close()


@pytest.mark.parametrize(
    "text", [pytest.param(None, id="no file"), pytest.param("{}", id="empty"), pytest.param("x: [", id="no YAML")]
)
async def test_a_bad_kubeconfig_is_named(tmp_path: Path, text: str | None) -> None:
    """A configuration error names the file."""
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=str(file)):
        await KubeApi.connect(file)


def test_waits_grow_to_a_bound() -> None:
    """Each longer than the one before, up to a bound, and never in step with another kind's."""
    waits = [backoff_s(attempt, "Pod") for attempt in range(1, 30)]
    assert all(0 < wait <= 1.5 * BACKOFF_S[-1] for wait in waits)
    assert waits[0] < waits[3] < waits[6]
    assert backoff_s(5, "Pod") != backoff_s(5, "Node")


def test_one_odd_object_hides_no_other() -> None:
    """What cannot be understood is left out and counted."""
    store = ClusterStore()
    odd = {"metadata": {"name": "odd"}, "status": {"addresses": [{"type": "InternalIP", "address": "no address"}]}}
    store.replace("Node", [{"metadata": {"name": "good"}}, odd])
    assert (set(store.snapshot().nodes), store.unreadable) == ({"good"}, 1)


def test_a_heartbeat_is_no_change() -> None:
    """A node's status that says nothing new to us makes no new revision, and so no new plan."""
    store = ClusterStore()
    for kind in RESOURCES:
        store.replace(kind, [])
    beat = {"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert store.put("Node", beat)
    state = store.snapshot()
    beat["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-11-21T00:00:00Z"  # type: ignore[index]
    assert not store.put("Node", beat)
    assert store.snapshot() is state


@pytest.mark.parametrize(
    ("ready", "since", "started", "was"),
    [
        pytest.param("True", "2026-11-21T10:00:05Z", "2026-11-21T10:00:01Z", True, id="ready"),
        pytest.param("False", "2026-11-21T10:09:00Z", "2026-11-21T10:00:01Z", True, id="ready before"),
        pytest.param("False", "2026-11-21T10:00:00Z", "2026-11-21T10:00:01Z", False, id="not yet"),
        pytest.param("False", "2026-11-21T10:00:00Z", None, False, id="not started"),
    ],
)
def test_a_pod_tells_whether_it_was_ready(ready: str, since: str, started: str | None, was: bool) -> None:
    """Its condition changed after its containers had started: then it was ready once, though we did not see it."""
    running = {"running": {"startedAt": started}} if started else {"waiting": {"reason": "ContainerCreating"}}
    status = {
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
        "containerStatuses": [{"state": running}],
    }
    assert parse_pod({**POD, "status": status}).was_ready is was


NOON, LATER = "2026-11-21T12:00:00Z", "2026-11-21T12:00:07Z"


def ran(at: str, restarts: int = 0) -> dict[str, object]:
    """A container's status."""
    return {"state": {"running": {"startedAt": at}}, "restartCount": restarts}


@pytest.mark.parametrize(
    ("containers", "started"),
    [
        pytest.param([ran(NOON), ran(LATER)], LATER, id="the last of them counts"),
        pytest.param([ran(NOON), {"state": {"waiting": {"reason": "ContainerCreating"}}}], None, id="one waits"),
        pytest.param([ran(NOON), ran(LATER, 2)], None, id="one was started again"),
        pytest.param([], None, id="none yet"),
    ],
)
def test_a_pod_tells_when_its_containers_first_ran(containers: list[dict[str, object]], started: str | None) -> None:
    """A container that is started again and again never counts as one that has only just started."""
    assert parse_pod({**POD, "status": {"containerStatuses": containers}}).started_at == seconds(started)


def test_a_workload_tells_when_it_was_written_and_why_it_has_no_pods() -> None:
    """By the API server's book of writes, of which those of the status say nothing; without it, when it was made."""
    meta: dict[str, object] = {"name": "web", "namespace": "shop", "creationTimestamp": "2026-11-21T11:00:00Z"}
    writes = [
        {"manager": "kubectl", "subresource": "scale", "time": NOON},
        {"manager": "kube-controller-manager", "subresource": "status", "time": LATER},
        {"manager": "somebody"},
    ]
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    made = parse_workload("Deployment", {"metadata": meta})
    assert (made.written_at, made.failure) == (seconds("2026-11-21T11:00:00Z"), "")
    conditions = [{"type": "Available", "status": "False"}, refused]
    scaled = {"metadata": {**meta, "managedFields": writes}, "status": {"conditions": conditions}}
    assert parse_workload("Deployment", scaled).written_at == seconds(NOON)
    assert parse_workload("Deployment", scaled).failure == "exceeded quota"
    past = {"metadata": meta, "status": {"conditions": [{**refused, "status": "False"}]}}
    assert parse_workload("Deployment", past).failure == ""


def test_having_been_ready_is_remembered() -> None:
    """What we saw ourselves does not depend on what the status tells of its past."""
    store = ClusterStore()
    store.put("Pod", {**POD, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    store.put("Pod", {**POD, "status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    found = store.snapshot().pods["u"]
    assert (found.ready, found.was_ready) == (False, True)


def test_addresses_have_one_form() -> None:
    """However an API writes an IPv6 address, it is found."""
    raw = {"metadata": {"name": "a"}, "status": {"addresses": [{"type": "InternalIP", "address": "FD77:0001::000b"}]}}
    assert parse_node(raw).addresses == ("fd77:1::b",)


def test_a_headless_service_has_no_address() -> None:
    """And a missing targetPort is the port."""
    meta = {"namespace": "n", "name": "s"}
    found = parse_service({"metadata": meta, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})
    assert (found.headless, found.cluster_ips, found.ports[0].target_port) == (True, (), 80)


def test_missing_conditions_of_an_endpoint_mean_ready() -> None:
    """The API's own words: nil is to be taken for true."""
    raw = {"metadata": {"namespace": "n", "name": "s"}, "endpoints": [{"addresses": ["10.0.0.1"]}]}
    end = parse_slice(raw).endpoints[0]
    assert (end.ready, end.serving, end.terminating) == (True, True, False)


def test_backends_are_joined_from_all_slices() -> None:
    """By the port's name and protocol, each address once, in order."""
    owner = service("cart", "10.96.0.7", 80, 8080)
    one, two = pod("shop", "cart-1", "node-a", "10.244.1.9"), pod("shop", "cart-2", "node-b", "10.244.1.8")
    state = cluster(
        2,
        pods=with_pods(cluster(2), one, two),
        services={owner.key: owner},
        slices={"shop/x": slice_of(owner, one), "shop/y": slice_of(owner, two, ready=False)},
    )
    assert state.backends(owner, owner.ports[0]) == (
        Backend(
            address="10.244.1.8",
            port=8080,
            protocol="TCP",
            ready=False,
            serving=True,
            terminating=False,
            node="node-b",
            pod_uid="uid-cart-2",
        ),
        Backend(
            address="10.244.1.9",
            port=8080,
            protocol="TCP",
            ready=True,
            serving=True,
            terminating=False,
            node="node-a",
            pod_uid="uid-cart-1",
        ),
    )
