"""The API for people: what it says, whom it lets in, and what it makes of bad input."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from controller.app import Controller
from controller.options import OptionError, egress_target, parse
from controller.plan.paths import EgressTarget
from controller.web.handlers import MAX_PROBES
from model.diagnosis import Incident, Matrix
from model.protocol import Answer, Order
from model.words import CellState, Outcome
from tests.controller.running import DEADLINE_S, agent, call, created, eventually, running, token_of, url
from tests.lab.embedded.apiserver_process import ADMIN, CAROL, Server

PEOPLE = ["/api/v1/cluster", "/api/v1/matrix", "/api/v1/paths", "/api/v1/incidents", "/api/v1/events", "/metrics"]


@pytest.fixture
def token(api: Server) -> str:
    """What agents show."""
    return token_of(api, "kubereach-agent")


async def test_the_matrix_is_that_of_the_contract(controller: Controller, token: str) -> None:
    """Rows and columns are the nodes; a cell of the row that reports is ok, the others are unknown."""
    async with agent(controller, "node-a", token) as one:
        await one.report(1, await one.plan())
        status, raw = await call(controller, "GET", "/api/v1/matrix?kind=node")
        assert status == 200
        found = msgspec.convert(raw, Matrix)
        assert found.rows == found.columns == ("node-a", "node-b", "node-c")
        assert [c.source for c in found.cells] == [n for n in found.rows for _ in found.columns]
        assert {c.state for c in found.cells if c.source == "node-a"} == {CellState.OK}
        assert {c.state for c in found.cells if c.source == "node-b"} == {CellState.UNKNOWN}


async def test_the_cluster_tells_of_nodes_and_agents(controller: Controller, token: str) -> None:
    """Each node with its zone, readiness, endpoint and what its agent does."""
    async with agent(controller, "node-a", token, via="node-b") as one:
        await one.plan()
        _, found = await call(controller, "GET", "/api/v1/cluster")
        nodes = {n["name"]: n for n in found["nodes"]}
        assert nodes["node-a"]["agent"] | {"age_s": 0, "silent_since": None} == nodes["node-a"]["agent"] | {
            "state": "reporting",
            "via": "node-b",
            "version": "test",
            "age_s": 0,
        }
        assert nodes["node-b"]["agent"]["state"] == "never"
        assert (nodes["node-a"]["zone"], nodes["node-a"]["ready"], nodes["node-a"]["endpoint"]) == (
            "zone-1",
            True,
            "kubereach/endpoint-0",
        )
    _, later = await call(controller, "GET", "/api/v1/cluster")
    assert {n["name"]: n["agent"]["state"] for n in later["nodes"]}["node-a"] == "silent"


async def test_a_cell_shows_its_paths(controller: Controller, token: str) -> None:
    """Every path of host and pod network, with address, method and outcome."""
    async with agent(controller, "node-a", token) as one:
        await one.report(1, await one.plan(), Outcome.REFUSED)
        _, found = await call(controller, "GET", "/api/v1/paths?source=node-a&destination=node-b&kind=node")
        assert {(p["network"], p["method"], p["address"]) for p in found["paths"]} >= {
            ("pod", "udp", "10.244.2.2"),
            ("pod", "tcp", "10.244.2.2"),
            ("host", "icmp", "10.77.1.12"),
        }
        assert {p["outcome"] for p in found["paths"]} == {"refused"}


async def test_a_sweep_is_whole_when_everything_was_seen(controller: Controller, token: str) -> None:
    """It asks agents to probe now; it is not whole before every path was observed since."""
    async with agent(controller, "node-a", token) as one:
        plan = await one.plan()
        asked = asyncio.create_task(call(controller, "POST", "/api/v1/sweep"))
        order = await one.receive(Order)
        assert order.sweep
        await one.send(Answer(order=order.order))
        status, before = await asked
        assert (status, before["whole"], before["nodes_reporting"]) == (200, False, ["node-a"])
        assert before["silent"] == ["node-b", "node-c"]
        await one.report(1, plan)
        _, after = await call(controller, "GET", "/api/v1/sweep/state")
        assert after["covered"] == before["covered"] + len(plan.tasks)
        for name in ("node-b", "node-c"):
            async with agent(controller, name, token) as other:
                await other.report(1, await other.plan())
        _, whole = await call(controller, "GET", "/api/v1/sweep/state?wait=5")
        assert whole["whole"]


async def test_changes_are_streamed(controller: Controller, token: str) -> None:
    """A reader is told of agents that come and of cells that change, as events."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as session,
        session.get(url(controller, "/api/v1/events")) as response,
    ):
        await eventually(lambda: controller.services.hub.readers, "the stream is open")
        async with agent(controller, "node-a", token) as one:
            await one.report(1, await one.plan())
            cells = await _event(response, "cells")
            assert {c["source"] for c in cells} == {"node-a"}
            assert {"node", "pod", "host"} <= {c["kind"] for c in cells}
            assert {c["state"] for c in cells if c["kind"] == "node"} == {"ok"}


async def _event(response: aiohttp.ClientResponse, name: str) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        async for line in response.content:
            if line.strip() == f"event: {name}".encode():
                data = await response.content.readline()
                return msgspec.json.decode(data.removeprefix(b"data: "))
    raise AssertionError("the stream has ended")


async def test_a_reader_that_does_not_read_is_dropped(controller: Controller) -> None:
    """Its queue is bounded; whoever falls behind is let go, and counted."""
    hub = controller.services.hub
    reader = hub.join()
    assert reader is not None
    for number in range(reader.frames.maxsize + 1):
        hub._agents["node-a"] = bool(number % 2)
        hub.flush(controller.services.watch.snapshot())
    assert reader.ended.is_set()
    assert (hub.dropped, hub.readers) == (1, 0)


async def test_an_end_does_not_wait_for_open_streams(api: Server, token: str) -> None:
    """Stream and agent still connected: the controller is gone soon."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN}"}) as session:
        async with running(api) as controller:
            response = await session.get(url(controller, "/api/v1/events"))
            connection = agent(controller, "node-a", token)
            one = await connection.__aenter__()
            began = time.monotonic()
        assert time.monotonic() - began < 10
        await connection.__aexit__(None, None, None)
        assert one.socket.closed
        response.close()


@pytest.mark.parametrize("path", PEOPLE)
@pytest.mark.parametrize(
    ("who", "status"),
    [
        pytest.param(None, 401, id="nobody"),
        pytest.param("made-up", 401, id="unknown"),
        pytest.param(CAROL, 403, id="carol"),
    ],
)
async def test_nothing_is_told_to_strangers(controller: Controller, path: str, who: str | None, status: int) -> None:
    """No token, no valid token, no right: 401, 401, 403; and a line that says what would help."""
    found, body = await call(controller, "GET", path, token=who)
    assert found == status
    assert body["error"]
    assert body["hint"]


async def test_an_agents_token_is_no_persons(controller: Controller, token: str) -> None:
    """What opens the agents' socket opens nothing else."""
    assert (await call(controller, "GET", "/api/v1/cluster", token=token))[0] == 401


async def test_rights_are_those_of_rbac(controller: Controller, api: Server) -> None:
    """Whoever may get /kubereach/read reads, and does not probe."""
    group = "/apis/rbac.authorization.k8s.io/v1"
    role = {"metadata": {"name": "reader"}, "rules": [{"nonResourceURLs": ["/kubereach/read"], "verbs": ["get"]}]}
    created(api, f"{group}/clusterroles", role)
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": "kubereach"}
    reference = {"kind": "ClusterRole", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
    created(
        api,
        f"{group}/clusterrolebindings",
        {"metadata": {"name": "reader"}, "subjects": [subject], "roleRef": reference},
    )
    reader = token_of(api, "reader", audience="https://kubernetes.default.svc.cluster.local")
    assert (await call(controller, "GET", "/api/v1/cluster", token=reader))[0] == 200
    assert (await call(controller, "POST", "/api/v1/sweep", token=reader))[0] == 403


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/", "/static/app.js"])
async def test_page_and_health_are_open(controller: Controller, path: str) -> None:
    """They tell nothing of the cluster; and the page may load nothing from elsewhere."""
    async with aiohttp.ClientSession() as session, session.get(url(controller, path)) as response:
        assert response.status == 200
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "names"),
    [
        pytest.param("GET", "/api/v1/matrix?kind=nodes", None, 422, "kind", id="unknown kind"),
        pytest.param("GET", "/api/v1/incidents?state=closed", None, 422, "state", id="unknown state"),
        pytest.param("GET", "/api/v1/paths?source=node-a", None, 422, "destination", id="no destination"),
        pytest.param("GET", "/api/v1/incidents/nope", None, 404, "nope", id="no such incident"),
        pytest.param("GET", "/api/v2/matrix", None, 404, "/api/v2/matrix", id="no such path"),
        pytest.param("DELETE", "/api/v1/matrix", None, 405, "DELETE", id="no such method"),
        pytest.param("POST", "/api/v1/sweep?wait=forever", None, 422, "wait", id="no number"),
        pytest.param("POST", "/api/v1/probe", b"{", 400, "JSON", id="no JSON"),
        pytest.param("POST", "/api/v1/probe", b'{"source":"node/node-a"}', 422, "destination", id="a field missing"),
        pytest.param(
            "POST",
            "/api/v1/probe",
            b'{"source":"node/node-a","destination":"node/node-b","port":70000}',
            422,
            "70000",
            id="port 70000",
        ),
        pytest.param(
            "POST", "/api/v1/probe", b'{"source":"node/x","destination":"node/node-b"}', 404, "'x'", id="unknown node"
        ),
        pytest.param("POST", "/api/v1/probe", b'{"x":"' + b"y" * 10_000_000 + b'"}', 413, "larger", id="ten megabytes"),
    ],
)
async def test_bad_input_is_named(
    controller: Controller, method: str, path: str, body: bytes | None, status: int, names: str
) -> None:
    """The right status, and one line that names what is wrong."""
    found, answer = await call(controller, method, path, body=body)
    assert (found, names in answer["error"]) == (status, True), answer


async def test_too_many_probes_at_once_are_refused(controller: Controller) -> None:
    """Rates are capped; the line says to come back."""
    controller.services.counts.probing = MAX_PROBES
    body = b'{"source":"node/node-a","destination":"node/node-b"}'
    assert (await call(controller, "POST", "/api/v1/probe", body=body))[0] == 429
    controller.services.counts.probing = 0


async def test_metrics_grow_with_nodes_and_not_with_pairs(controller: Controller, token: str) -> None:
    """Prometheus' text; no label names a pair of nodes."""
    async with agent(controller, "node-a", token) as one:
        await one.report(1, await one.plan())
        _, raw = await call(controller, "GET", "/metrics")
        text = raw.decode()
        assert 'kubereach_agent_connected{node="node-a"} 1.0' in text
        assert 'kubereach_paths{state="ok"}' in text
        assert not any("node-a" in line and "node-b" in line for line in text.splitlines())


async def test_the_description_is_whole(controller: Controller) -> None:
    """OpenAPI 3.1: every route of the server is in it, and every reference leads somewhere."""
    _, found = await call(controller, "GET", "/openapi.json", token=None)
    routes = {path for path in found["paths"] if path.startswith("/api/")}
    known = {r.resource.canonical for r in _routes(controller) if r.resource.canonical.startswith("/api/")}
    assert found["openapi"] == "3.1.0"
    assert routes == known
    text = msgspec.json.encode(found).decode()
    for reference in text.split('"$ref":"#/components/schemas/')[1:]:
        assert reference.split('"')[0] in found["components"]["schemas"]


def _routes(controller: Controller) -> Any:
    return controller.server._runner.app.router.routes()


async def test_incidents_and_agents_outlive_the_controller(api: Server, token: str, tmp_path: Path) -> None:
    """A controller with the same state directory knows which agents there were; what it measured begins anew."""
    async with running(api, tmp_path) as first, agent(first, "node-b", token) as one:
        await one.report(1, await one.plan())
    async with running(api, tmp_path) as second:
        info = second.services.agents.get("node-b")
        assert info is not None
        assert (info.connected, info.uplink) == (False, "eth0")
        assert second.services.agents.serving() == frozenset({"node-b"})
        assert {s.state for s in second.services.matrix.statuses().values()} == {CellState.UNKNOWN}
        async with agent(second, "node-b", token) as again:
            await again.report(1, await again.plan())
            assert second.services.agents.repeated == 0
        _, listed = await call(second, "GET", "/api/v1/incidents")
        assert msgspec.convert(listed, list[Incident]) == []


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        pytest.param(["--listen", "127.0.0.1:1"], "--tls-cert", id="no TLS"),
        pytest.param(["--listen", "none", "--listen-plain", "none"], "nobody", id="nobody could reach it"),
        pytest.param(["--listen", "none", "--listen-plain", "0.0.0.0:1"], "clear", id="tokens in the clear"),
        pytest.param(["--listen", "none", "--listen-plain", "here"], "ADDRESS:PORT", id="no address"),
        pytest.param(["--listen", "none", "--listen-plain", "127.0.0.1:70000"], "70000", id="port 70000"),
        pytest.param(["--listen", "none", "--cluster-cidr", "10.0.0.1/8"], "10.0.0.1/8", id="no CIDR"),
        pytest.param(["--listen", "none", "--egress-target", "ftp://x"], "ftp://x", id="no URL"),
        pytest.param(["--tls-cert", "/nowhere"], "belong together", id="no key"),
        pytest.param(["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere", id="no file"),
    ],
)
def test_a_wrong_option_is_named(argv: list[str], names: str) -> None:
    """One line that names the option."""
    with pytest.raises(OptionError, match=names):
        parse(argv)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        pytest.param("http://web.test/x", EgressTarget("http://web.test/x", "web.test", 80, ()), id="a name"),
        pytest.param(
            "https://web.test,203.0.113.10,2001:db8:f::10",
            EgressTarget("https://web.test", "web.test", 443, ("203.0.113.10", "2001:db8:f::10")),
            id="a name with addresses",
        ),
        pytest.param(
            "http://203.0.113.10:81",
            EgressTarget("http://203.0.113.10:81", "203.0.113.10", 81, ("203.0.113.10",)),
            id="an address",
        ),
    ],
)
def test_egress_targets_are_read(text: str, target: EgressTarget) -> None:
    """URL, and addresses where a host's resolver cannot know the name."""
    assert egress_target(text) == target
