"""The controller found by kubeconfig: who asks, what is trusted, and the port-forward, over real TLS and WebSockets."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import WSMsgType, web

from cli.client import Client, ConfigError
from cli.kubeconfig import Identity, load
from cli.locate import find_access
from lab import pki, spec
from lab.state import LabState, save_state, this_process
from tests.cli.conftest import run_kubereach
from tests.web.stub_controller import INCIDENT, TOKEN, StubController

USER = "the-users-token"


class ApiServer:
    """What the command asks of an API server: pods, tokens, and port-forwards as a kubelet serves them.

    Source: kubelet's pkg/kubelet/server/portforward/websocket.go (v4.channel.k8s.io).
    """

    def __init__(self, folder: Path, stub: StubController) -> None:
        self.folder = folder
        self.stub = stub
        self.pods: list[dict[str, Any]] = [{"metadata": {"name": "controller-x"}, "status": {"phase": "Running"}}]
        self.error = ""
        self.asked: list[tuple[str, str]] = []
        self.runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listens with TLS that takes client certificates."""
        pki.make_ca(self.folder)
        pki.issue(self.folder, "api", ["127.0.0.1"], ["localhost"])
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self.folder / "api.crt", self.folder / "api.key")
        app = web.Application()
        base = "/api/v1/namespaces/{namespace}"
        app.router.add_get(f"{base}/pods", self._pods)
        app.router.add_get(f"{base}/pods/controller-x/portforward", self._forward)
        app.router.add_post(f"{base}/serviceaccounts/{{account}}/token", self._token)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.url = f"https://127.0.0.1:{self.runner.addresses[0][1]}"

    def config(self, user: dict[str, Any], **cluster: Any) -> Path:
        """A kubeconfig with this user."""
        path = self.folder / "config"
        given = {"server": self.url, "certificate-authority": "ca.crt"} | cluster
        content = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": given}],
            "users": [{"name": "u", "user": user}],
        }
        path.write_text(json.dumps(content))
        return path

    def _who(self, request: web.Request) -> None:
        self.asked.append((request.path.rpartition("/")[2], request.headers.get("Authorization", "")))

    async def _pods(self, request: web.Request) -> web.Response:
        self._who(request)
        assert request.query["labelSelector"].endswith("component=controller")
        return web.json_response({"items": self.pods})

    async def _token(self, request: web.Request) -> web.Response:
        self._who(request)
        if request.match_info["account"] != "kubereach-viewer":
            return web.json_response({"message": "forbidden"}, status=403)
        return web.json_response({"status": {"token": TOKEN}}, status=201)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        self._who(request)
        assert request.query["ports"] == "8704"
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        port = (8704).to_bytes(2, "little")
        await socket.send_bytes(b"\0" + port)
        await socket.send_bytes(b"\1" + port)
        if self.error:
            await socket.send_bytes(b"\1" + self.error.encode())
            await socket.close()
            return socket
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.stub.url.rpartition(":")[2]))
        back = asyncio.create_task(self._back(reader, socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY and message.data[:1] == b"\0":
                    writer.write(message.data[1:])
        finally:
            back.cancel()
            writer.transport.abort()
            await asyncio.gather(back, writer.wait_closed(), return_exceptions=True)
        return socket

    async def _back(self, reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
        while data := await reader.read(3000):
            await socket.send_bytes(b"\0" + data)


@pytest_asyncio.fixture
async def api(tmp_path: Path, stub: StubController) -> AsyncIterator[ApiServer]:
    """An API server before the stub controller."""
    server = ApiServer(tmp_path, stub)
    await server.start()
    try:
        yield server
    finally:
        assert server.runner is not None
        await server.runner.cleanup()


@pytest.mark.parametrize("named", ["KUBECONFIG", "HOME"])
async def test_the_current_kubeconfig_leads_to_the_controller(
    api: ApiServer, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any option and lab: its pod is looked up, a port forwarded, the user's own token shown at both doors."""
    monkeypatch.setattr(spec, "LABS_DIR", api.folder / "no-labs")
    config = api.config({"token": TOKEN})
    (api.folder / ".kube").symlink_to(".")
    environ = {"KUBECONFIG": str(config)} if named == "KUBECONFIG" else {"HOME": str(api.folder)}

    def ask() -> Any:
        return Client(find_access(lab=None, url=None, token=None, kubeconfig=None, environ=environ)).get(
            "/api/v1/matrix", {"kind": "node"}
        )

    assert (await asyncio.to_thread(ask))["rows"] == ["node-a", "node-b", "node-c", "node-d"]
    assert [name for name, _ in api.asked] == ["pods", "portforward"]
    assert {who for _, who in api.asked} == {f"Bearer {TOKEN}"}


async def test_a_large_answer_passes_whole(api: ApiServer) -> None:
    """Hundreds of messages, put together in order."""
    large = [INCIDENT | {"id": f"{number:012}"} for number in range(500)]
    api.stub.incidents = large
    config = str(api.config({"token": TOKEN}))
    done = await run_kubereach("incidents", "-o", "json", "--kubeconfig", config)
    assert [one["id"] for one in done.json] == [one["id"] for one in large]


async def test_a_client_certificate_borrows_a_service_account(api: ApiServer) -> None:
    """It cannot be passed on: a token of the prober's account is asked for, of the viewer's where that is refused."""
    pki.issue(api.folder, "me", [], ["me"])
    user = {"client-certificate": "me.crt", "client-key": "me.key"}
    done = await run_kubereach("matrix", "-o", "json", "--kubeconfig", str(api.config(user)))
    assert (done.code, done.err) == (0, "")
    assert api.asked == [("pods", ""), ("token", ""), ("token", ""), ("portforward", "")]


FAILURES = [
    pytest.param({"pods": []}, {}, 4, "no controller runs in namespace 'kubereach'", id="not installed"),
    pytest.param({"error": "dial tcp4 127.0.0.1:8704"}, {}, 4, "", id="the pod does not listen"),
    pytest.param({}, {"certificate-authority": "other.crt"}, 2, "is not trusted", id="another authority"),
    pytest.param({}, {"server": "https://127.0.0.1:9"}, 4, "cannot be reached", id="no API server"),
    pytest.param({}, {"server": ""}, 2, "has no server", id="no server named"),
]


@pytest.mark.parametrize(("state", "cluster", "code", "why"), FAILURES)
async def test_what_is_missing_on_the_way_is_named(
    api: ApiServer, state: dict[str, Any], cluster: dict[str, Any], code: int, why: str
) -> None:
    """One line; exit code 4 where nobody can be reached, 2 where the configuration is wrong."""
    other = api.folder / "others"
    pki.make_ca(other)
    (api.folder / "other.crt").write_bytes((other / "ca.crt").read_bytes())
    for name, value in state.items():
        setattr(api, name, value)
    done = await run_kubereach("matrix", "--kubeconfig", str(api.config({"token": TOKEN}, **cluster)))
    assert done.code == code
    assert why in done.error_line


def _plugin(body: str) -> dict[str, Any]:
    code = f"import json, os; print(json.dumps({{'status': {body}}}))"
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", code],
        "env": [{"name": "MINE", "value": USER}],
    }


USERS = [
    pytest.param({"token": USER}, Identity(USER), id="token"),
    pytest.param({"token": "stale", "tokenFile": "token"}, Identity(USER), id="token file"),
    pytest.param({"exec": _plugin("{'token': os.environ['MINE']}")}, Identity(USER), id="credential plugin"),
    pytest.param(
        {"exec": _plugin("{'token': json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind']}")},
        Identity("ExecCredential"),
        id="the plugin is told what is asked",
    ),
    pytest.param(
        {
            "client-certificate-data": base64.b64encode(b"C").decode(),
            "client-key-data": base64.b64encode(b"K").decode(),
        },
        Identity("", b"C", b"K"),
        id="certificate within",
    ),
    pytest.param({}, Identity(), id="nobody"),
]


@pytest.mark.parametrize(("user", "identity"), USERS)
def test_users_are_read_as_kubectl_reads_them(tmp_path: Path, user: dict[str, Any], identity: Identity) -> None:
    """Every way to say who asks."""
    (tmp_path / "token").write_text(f"{USER}\n")
    server = ApiServer(tmp_path, StubController(1))
    server.url = "https://x"
    assert load([server.config(user, **{"certificate-authority": ""})]).identity == identity


def test_of_several_files_the_first_that_names_something_wins(tmp_path: Path) -> None:
    """As with kubectl: contexts of one file, clusters of another, paths relative to the file they stand in."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/ca").write_text("THE CA")
    one, two = tmp_path / "one", tmp_path / "sub/two"
    one.write_text(json.dumps({"contexts": [{"name": "c", "context": {"cluster": "k"}}], "current-context": "c"}))
    cluster = {"server": "https://two", "certificate-authority": "ca"}
    two.write_text(json.dumps({"clusters": [{"name": "k", "cluster": cluster}], "current-context": "other"}))
    found = load([one, two])
    assert (found.server, found.ca) == ("https://two", "THE CA")


BROKEN = [
    pytest.param("{", "cannot be read", id="no YAML"),
    pytest.param("[]", "is no kubeconfig", id="a list"),
    pytest.param("{}", "has no current context", id="empty"),
    pytest.param('{"current-context": "x"}', "has no context 'x'", id="no such context"),
]


@pytest.mark.parametrize(("text", "why"), BROKEN)
def test_a_broken_kubeconfig_is_named(tmp_path: Path, text: str, why: str) -> None:
    """The file and what is wrong with it."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        load([path])


async def test_as_kubectl_s_plugin_the_cluster_that_kubectl_means_is_asked(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`kubectl reach` goes by the kubeconfig also where a lab runs; `kubereach` asks the lab."""
    monkeypatch.setattr(spec, "LABS_DIR", tmp_path / "labs")
    (tmp_path / "labs/one").mkdir(parents=True)
    save_state("one", LabState("up", this_process(), url="http://127.0.0.1:9/#token=t"))
    environ = {"KUBECONFIG": str(api.config({"token": TOKEN}))}

    def found(command: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"/usr/bin/{command}"])
        return find_access(lab=None, url=None, token=None, kubeconfig=None, environ=environ).origin

    assert await asyncio.to_thread(found, "kubereach") == "lab one"
    assert await asyncio.to_thread(found, "kubectl-reach") == "pod kubereach/controller-x"


async def test_a_lab_without_a_controller_of_its_own_is_a_cluster_like_any(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Brought up bare, kubereach is installed in it by its manifests, and found as in any cluster."""
    monkeypatch.setattr(spec, "LABS_DIR", tmp_path / "labs")
    (tmp_path / "labs/one").mkdir(parents=True)
    save_state("one", LabState("up", this_process(), kubeconfig=str(api.config({"token": TOKEN}))))
    found = await asyncio.to_thread(find_access, lab="one", url=None, token=None, kubeconfig=None, environ={})
    assert found.origin == "pod kubereach/controller-x"
