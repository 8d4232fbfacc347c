"""How agents learn of the controller: the two objects, filled by a real controller over a real API server."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.introduction import Introduction as Told
from controller.app import Controller
from controller.cluster.api import ApiError, KubeApi
from controller.introduce import Introducer, Introduction
from controller.options import OptionError, parse
from model.clock import SystemClock
from tests.controller.running import created, eventually, patched
from tests.lab.embedded.apiserver_process import Server

CONFIG_MAPS, SECRETS = (f"/api/v1/namespaces/kubereach/{kind}" for kind in ("configmaps", "secrets"))


@pytest.fixture
def objects(api: Server) -> Iterator[None]:
    """The two objects as the installation makes them: empty."""
    created(api, CONFIG_MAPS, {"metadata": {"name": "kubereach-controller"}})
    created(api, SECRETS, {"metadata": {"name": "kubereach-tls"}, "type": "Opaque"})
    yield
    for path in (f"{CONFIG_MAPS}/kubereach-controller", f"{SECRETS}/kubereach-tls"):
        api.call("DELETE", path)


@pytest.fixture
def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def what(*addresses: str, secret: str = "kubereach-tls", ca: Path | None = None) -> Introduction:
    """An introduction as the Deployment makes it."""
    name = "kubereach-controller.kubereach.svc"
    return Introduction("kubereach", "kubereach-controller", secret, addresses, 8703, name, ca)


async def introduced(api: Server, introduction: Introduction) -> None:
    """One introduction, through an API client of its own."""
    client = await KubeApi.connect(api.kubeconfig())
    try:
        await Introducer(client, introduction, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)).begin()
    finally:
        await client.close()


def published(api: Server) -> dict[str, str]:
    """What the ConfigMap holds."""
    found: dict[str, str] = api.call("GET", f"{CONFIG_MAPS}/kubereach-controller")[1].get("data") or {}
    return found


def secret(api: Server) -> dict[str, str]:
    """What the Secret holds."""
    found: dict[str, str] = api.call("GET", f"{SECRETS}/kubereach-tls")[1].get("data") or {}
    return found


async def test_agents_can_verify_the_controller_that_was_published(
    api: Server, objects: None, tmp_path: Path, free_port: int
) -> None:
    """A controller started as the Deployment starts it serves TLS that an agent's reader of the ConfigMap accepts."""
    argv = ["--kubeconfig", str(api.kubeconfig()), f"--listen=127.0.0.1:{free_port}", "--listen-plain=none"]
    argv += ["--publish=kubereach-controller", "--tls-secret=kubereach-tls", "--advertise=10.77.1.11,fd77:1::11"]
    options = parse(argv)
    controller = Controller(await KubeApi.connect(options.kubeconfig), options, SystemClock())
    task = asyncio.create_task(controller.run())
    try:
        await eventually(lambda: controller.server.ports or task.done(), "the controller listens")
        file = tmp_path / "controller.json"
        file.write_text(published(api)["controller.json"])
        told = Told((), "", str(file))
        assert told.known().addresses == (("10.77.1.11", free_port), ("fd77:1::11", free_port))
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"https://127.0.0.1:{free_port}/livez", ssl=told.tls(), server_hostname=told.known().server_name
            ) as answer,
        ):
            assert answer.status == 200
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_restart_keeps_the_certificate_and_a_move_only_adds_its_address(api: Server, objects: None) -> None:
    """The authority stays, so agents that know the former one trust the controller at its new place."""
    await introduced(api, what("10.77.1.11"))
    first, before = secret(api), published(api)
    await introduced(api, what("10.77.1.11"))
    assert (secret(api), published(api)) == (first, before)
    await introduced(api, what("10.77.2.12"))
    assert secret(api)["ca.crt"] == first["ca.crt"]
    assert secret(api)["tls.crt"] != first["tls.crt"]
    assert published(api)["ca.crt"] == before["ca.crt"]
    assert json.loads(published(api)["controller.json"])["addresses"] == ["10.77.2.12:8703"]


async def test_what_others_keep_there_stays(api: Server, objects: None) -> None:
    """Only our own keys are written."""
    patched(api, f"{SECRETS}/kubereach-tls", {"data": {"other": base64.b64encode(b"x").decode()}})
    patched(api, f"{CONFIG_MAPS}/kubereach-controller", {"data": {"other": "y"}})
    await introduced(api, what("10.77.1.11"))
    assert secret(api)["other"] == base64.b64encode(b"x").decode()
    assert published(api)["other"] == "y"


async def test_given_certificates_are_published_and_no_secret_is_touched(
    api: Server, objects: None, tmp_path: Path
) -> None:
    """As with cert-manager's: only the authority is passed on."""
    (tmp_path / "ca.crt").write_text("THE AUTHORITY")
    await introduced(api, what("10.77.1.11", secret="", ca=tmp_path / "ca.crt"))
    assert secret(api) == {}
    assert json.loads(published(api)["controller.json"])["ca"] == "THE AUTHORITY"


async def test_a_missing_object_is_named(api: Server) -> None:
    """The controller makes none itself, since it has no right to; it says what is missing."""
    with pytest.raises(ApiError, match="belongs to the installation"):
        await introduced(api, what("10.77.1.11"))


OPTIONS: list[tuple[list[str], str]] = [
    (["--tls-secret=s"], "--publish"),
    (["--publish=c"], "--tls-secret"),
    (["--publish=c", "--tls-secret=s"], "--advertise"),
    (["--publish=c", "--tls-secret=s", "--advertise=node-a"], "--advertise node-a"),
    (["--publish=c", "--tls-secret=s", "--advertise=10.0.0.1", "--listen=none"], "--listen"),
    (["--publish=c", "--tls-cert=a", "--tls-key=b", "--advertise=10.0.0.1"], "--tls-ca"),
]


@pytest.mark.parametrize(
    ("argv", "names"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_options_that_do_not_fit_are_named(argv: list[str], names: str) -> None:
    """One line that names the option."""
    with pytest.raises(OptionError, match=names):
        parse(argv)


def told(path: Path, **content: Any) -> None:
    """The file as the kubelet puts a new one in its place."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


def test_the_agent_rereads_and_remembers(tmp_path: Path) -> None:
    """A new address counts at the next look; a file that is gone or broken leaves what was known."""
    path = tmp_path / "controller.json"
    agent = Told((), "", str(path))
    assert agent.known().addresses == ()
    told(path, addresses=["10.0.0.1:8703"], server_name="n", ca="")
    assert agent.known().addresses == (("10.0.0.1", 8703),)
    told(path, addresses=["10.0.0.2", "[fd00::2]:9000"], server_name="n", ca="")
    known = agent.known()
    assert known.addresses == (("10.0.0.2", 8703), ("fd00::2", 9000))
    for text in ("{", '{"addresses": ["a-name:1"]}', '{"addresses": 1}'):
        path.write_text(text)
        assert agent.known() == known
    path.unlink()
    assert agent.known() == known
