"""The lab's own API client and reflector, against a real server process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lab import pki
from lab.client import ApiClient, ApiError, resource_path
from lab.reflector import Reflector
from tests.lab.embedded.apiserver_process import ADMIN, Server, pod


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, which it may kill."""
    running = Server(tmp_path)
    running.start()
    yield running
    running.kill()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[ApiClient]:
    """An open client."""
    async with ApiClient(server.url, ADMIN, server.ca) as opened:
        yield opened


async def _until(condition: Callable[[], bool], changed: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        while not condition():
            changed.clear()
            if condition():
                return
            await changed.wait()


@contextlib.asynccontextmanager
async def _running(reflector: Reflector) -> AsyncIterator[None]:
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(20):
            await reflector.synced.wait()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        pytest.param(("pods",), "/api/v1/pods", id="all"),
        pytest.param(("pods", "a", "b", "status"), "/api/v1/namespaces/a/pods/b/status", id="status"),
        pytest.param(("apps/deployments", "a"), "/apis/apps/v1/namespaces/a/deployments", id="group"),
        pytest.param(("discovery/endpointslices",), "/apis/discovery.k8s.io/v1/endpointslices", id="short group"),
        pytest.param(("nodes", None, "n"), "/api/v1/nodes/n", id="cluster-wide"),
    ],
)
def test_a_key_names_a_path(arguments: tuple[str, ...], path: str) -> None:
    """Short and full group names lead to the same paths as kubectl's."""
    assert resource_path(*arguments) == path


async def test_objects_are_made_changed_and_removed(client: ApiClient) -> None:
    """Each call of the client does what its name says, and a refusal is an ApiError with its code."""
    made = await client.create("configmaps", {"metadata": {"name": "a"}, "data": {"k": "1"}}, "default")
    made["data"] = {"k": "2"}
    await client.replace("configmaps", made)
    with pytest.raises(ApiError) as stale:
        await client.replace("configmaps", {**made, "data": {}})
    assert (stale.value.code, stale.value.reason) == (409, "Conflict")
    await client.patch("configmaps", "a", {"data": {"x": "y"}}, "default")
    assert (await client.get("configmaps", "a", "default"))["data"] == {"k": "2", "x": "y"}
    await client.create("pods", pod("p"), "default")
    await client.patch_status("pods", "p", {"phase": "Running"}, "default")
    running = await client.list("pods", field_selector="status.phase=Running")
    assert [(item["kind"], item["metadata"]["name"]) for item in running] == [("Pod", "p")]
    await client.delete("configmaps", "a", "default")
    with pytest.raises(ApiError) as gone:
        await client.get("configmaps", "a", "default")
    assert gone.value.code == 404


async def test_a_kubeconfig_and_sockets_of_ones_own_are_enough(server: Server) -> None:
    """`from_kubeconfig` finds address, CA and token; `connect` makes every socket."""
    made: list[int] = []

    def connect(family: int) -> socket.socket:
        made.append(family)
        return socket.socket(family, socket.SOCK_STREAM)

    async with ApiClient.from_kubeconfig(server.kubeconfig(), connect) as client:
        assert len(await client.list("namespaces")) == 4
    assert made == [socket.AF_INET]
    broken = server.folder / "broken"
    broken.write_text("{}")
    with pytest.raises(ValueError, match="no usable current context"):
        ApiClient.from_kubeconfig(broken)


async def test_another_authority_is_not_believed(server: Server, tmp_path: Path) -> None:
    """TLS is verified against the CA that was given."""
    import aiohttp

    other = pki.make_ca(tmp_path / "other")
    async with ApiClient(server.url, ADMIN, other.cert) as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.list("namespaces")


async def test_a_reflector_stays_in_step_through_kill_9(server: Server, client: ApiClient) -> None:
    """It lists, watches, and after a crash of the server catches up with what changed meanwhile."""
    seen: list[tuple[str, str]] = []
    reflector = Reflector(
        client, "configmaps", "default", on_change=lambda kind, item: seen.append((kind, item["metadata"]["name"]))
    )
    async with _running(reflector):
        assert set(reflector.objects) == {("default", "kube-root-ca.crt")}
        await client.create("configmaps", {"metadata": {"name": "a"}}, "default")
        await _until(lambda: ("default", "a") in reflector.objects, reflector.changed)
        server.kill()
        server.start()
        async with ApiClient(server.url, ADMIN, server.ca) as other:
            await other.create("configmaps", {"metadata": {"name": "b"}}, "default")
            await other.delete("configmaps", "a", "default")
        await _until(lambda: ("default", "b") in reflector.objects, reflector.changed)
        await _until(lambda: ("default", "a") not in reflector.objects, reflector.changed)
    assert seen == [("ADDED", "kube-root-ca.crt"), ("ADDED", "a"), *seen[2:]]
    assert sorted(seen[2:]) == [("ADDED", "b"), ("DELETED", "a")]
    assert reflector.objects["default", "b"]["kind"] == "ConfigMap"


def test_private_keys_are_their_owners_alone(tmp_path: Path) -> None:
    """0600 for keys, whatever the umask."""
    pki.make_ca(tmp_path)
    pair = pki.issue(tmp_path, "server", ["10.77.1.10", "fd77:1::10"], ["kubernetes"])
    assert [path.stat().st_mode & 0o777 for path in (pair.key, tmp_path / "ca.key")] == [0o600, 0o600]
    with pytest.raises(ValueError, match="not-an-address"):
        pki.issue(tmp_path, "bad", ["not-an-address"])
