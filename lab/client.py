"""A small Kubernetes API client for the lab's own services: plain dicts, list and watch, nothing generated.

A resource is named by a key: "pods", "apps/deployments", "discovery/endpointslices", or with the group in
full ("discovery.k8s.io/endpointslices"). It serves the embedded API server and a real one alike.
`lab.reflector` keeps a resource in step with it.
Must not be used by agent or controller, which have typed adapters of their own.
"""

import base64
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import msgspec

Object = dict[str, Any]
# Makes an unconnected stream socket of an address family, e.g. in another network namespace.
Connect = Callable[[int], socket.socket]
PatchType = Literal["strategic", "merge", "json", "apply"]

PATCH_TYPES: Mapping[PatchType, str] = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
GROUPS: Mapping[str, str] = {
    "discovery": "discovery.k8s.io",
    "networking": "networking.k8s.io",
    "coordination": "coordination.k8s.io",
    "events": "events.k8s.io",
    "rbac": "rbac.authorization.k8s.io",
    "authentication": "authentication.k8s.io",
    "authorization": "authorization.k8s.io",
}
REQUEST_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
# A watch is renewed by the server after WATCH_S; one silent for longer than that is dead.
WATCH_S = 240
WATCH_SILENCE_S = 270.0


class ApiError(Exception):
    """The server's refusal: HTTP code, Kubernetes reason ("NotFound", "Conflict", …) and message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        """Keep the three for callers that decide by them."""
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Access:
    """What a kubeconfig's current context says; CA and client certificate as PEM text."""

    server: str
    token: str | None
    ca_pem: str | None
    client_pem: str | None


def resource_path(key: str, namespace: str | None = None, name: str | None = None, sub: str = "") -> str:
    """Return the URL path of a resource key; without a namespace, the collection of all namespaces."""
    group, _, plural = key.rpartition("/")
    parts = ["/api/v1"] if group in ("", "core") else [f"/apis/{GROUPS.get(group, group)}/v1"]
    if namespace is not None:
        parts += ["namespaces", namespace]
    parts += [part for part in (plural, name, sub) if part]
    return "/".join(parts)


class ApiClient:
    """One connection pool to one API server.

    Every request has a deadline; errors are ApiError, aiohttp.ClientError or TimeoutError.
    """

    def __init__(
        self, server_url: str, token: str | None, ca_file: Path | str | None, connect: Connect | None = None
    ) -> None:
        """`connect` makes the sockets, for servers that only another network namespace can reach."""
        pem = Path(ca_file).read_text() if ca_file is not None else None
        self._setup(Access(server_url, token, pem, None), connect)

    @classmethod
    def from_kubeconfig(cls, path: Path | str, connect: Connect | None = None) -> Self:
        """Read the current context. Raises OSError, or ValueError where it names what is not there."""
        client = cls.__new__(cls)
        client._setup(read_kubeconfig(path), connect)
        return client

    def _setup(self, access: Access, connect: Connect | None) -> None:
        self.server_url = access.server.rstrip("/")
        self._headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._tls = _tls_context(access) if self.server_url.startswith("https:") else None
        self._connect = connect
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the pool; no connection is made before the first request."""
        connect = self._connect
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=self._tls if self._tls is not None else True,
            socket_factory=None if connect is None else lambda info: connect(info[0]),
        )
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def list(
        self, key: str, namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> list[Object]:
        """Return the objects of a collection, each with its apiVersion and kind."""
        listing = await self.list_raw(key, namespace, label_selector=label_selector, field_selector=field_selector)
        kind, version = str(listing.get("kind", "")).removesuffix("List"), listing.get("apiVersion")
        return [{"apiVersion": version, "kind": kind, **item} for item in listing.get("items") or []]

    async def list_raw(
        self, key: str, namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> Object:
        """Return the list object itself; metadata.resourceVersion is where a watch may begin."""
        return await self.request(
            "GET", resource_path(key, namespace), params=_selectors(label_selector, field_selector)
        )

    async def get(self, key: str, name: str, namespace: str | None = None) -> Object:
        """Return one object."""
        return await self.request("GET", resource_path(key, namespace, name))

    async def create(self, key: str, body: Object, namespace: str | None = None) -> Object:
        """Create in `namespace`, else in the one of the object's metadata; returns it as it was kept."""
        return await self.request("POST", resource_path(key, _namespace(body, namespace)), body=body)

    async def replace(self, key: str, body: Object, namespace: str | None = None, *, sub: str = "") -> Object:
        """Replace the object (or its status); conflicts (409) if its resourceVersion is not the newest."""
        path = resource_path(key, _namespace(body, namespace), body["metadata"]["name"], sub)
        return await self.request("PUT", path, body=body)

    async def patch(
        self,
        key: str,
        name: str,
        body: Any,
        namespace: str | None = None,
        *,
        patch_type: PatchType = "merge",
        sub: str = "",
    ) -> Object:
        """Patch; "apply" forces conflicts under the field manager "kubereach-lab"."""
        params = {"fieldManager": "kubereach-lab", "force": "true"} if patch_type == "apply" else {}
        path = resource_path(key, namespace, name, sub)
        return await self.request("PATCH", path, body=body, params=params, content=PATCH_TYPES[patch_type])

    async def patch_status(
        self,
        key: str,
        name: str,
        status: Object,
        namespace: str | None = None,
        *,
        patch_type: PatchType = "merge",
    ) -> Object:
        """Merge into the status subresource; None removes a field."""
        body = {"status": status}
        return await self.patch(key, name, body, namespace, patch_type=patch_type, sub="status")

    async def delete(
        self, key: str, name: str, namespace: str | None = None, *, grace_period_s: int | None = None
    ) -> Object:
        """Delete; what comes back is the object on its way out, or a Status."""
        params = {} if grace_period_s is None else {"gracePeriodSeconds": str(grace_period_s)}
        return await self.request("DELETE", resource_path(key, namespace, name), params=params)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Object:
        """Make any request of the API; raises ApiError for a status of 400 and above."""
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content, "Accept": "application/json"}
        async with self._opened().request(
            method, self.server_url + path, params=dict(params or {}), data=data, headers=headers
        ) as response:
            raw = await response.read()
            if response.status >= 400:
                raise _error(response.status, raw)
            result: Object = msgspec.json.decode(raw)
            return result

    @asynccontextmanager
    async def watch(
        self,
        key: str,
        namespace: str | None,
        version: str,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[AsyncIterator[tuple[str, Object]]]:
        """Yield (type, object) from a resourceVersion on until the server ends it; ApiError(410) when too old."""
        params = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            **_selectors(label_selector, field_selector),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=WATCH_SILENCE_S)
        url = self.server_url + resource_path(key, namespace)
        async with self._opened().get(url, params=params, timeout=timeout) as response:
            if response.status >= 400:
                raise _error(response.status, await response.read())
            yield _events(response)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("ApiClient is used outside of its `async with`")
        return self._session


def read_kubeconfig(path: Path | str) -> Access:
    """Return the current context of a kubeconfig; file references are relative to it."""
    import yaml  # noqa: PLC0415 - services that are given URL and token need not load it

    base = Path(path).parent
    config = yaml.safe_load(Path(path).read_text())
    try:
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        server = cluster["server"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no usable current context ({error})") from error
    token = user.get("token")
    if token is None and "tokenFile" in user:
        token = (base / user["tokenFile"]).read_text().strip()
    cert = _pem(user, "client-certificate", base)
    key = _pem(user, "client-key", base)
    client = f"{cert}\n{key}" if cert and key else None
    return Access(server, token, _pem(cluster, "certificate-authority", base), client)


def _named(config: Object, section: str, name: str) -> Object:
    for entry in config[section]:
        if entry["name"] == name:
            found: Object = entry
            return found
    raise KeyError(f"{section}: {name}")


def _pem(section: Object, field: str, base: Path) -> str | None:
    if f"{field}-data" in section:
        return base64.b64decode(section[f"{field}-data"]).decode()
    return (base / section[field]).read_text() if field in section else None


def _tls_context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=access.ca_pem)
    if access.client_pem is not None:
        # OpenSSL's Python face takes a client certificate from a file only; it is gone at once.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(access.client_pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in given.items() if value}


def _namespace(body: Object, namespace: str | None) -> str | None:
    return namespace if namespace is not None else body["metadata"].get("namespace")


def _error(code: int, raw: bytes) -> ApiError:
    try:
        status = msgspec.json.decode(raw)
        return ApiError(code, status.get("reason") or "", status.get("message") or "")
    except (msgspec.DecodeError, AttributeError):
        return ApiError(code, "", raw[:200].decode(errors="replace"))


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Object]]:
    """Split by hand: StreamReader.readline refuses lines as long as a big object's."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line.strip():
                continue
            event = msgspec.json.decode(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
            yield event["type"], event["object"]
