"""The Kubernetes API over the kubernetes library: lists, watches and reviews as plain JSON. Its only home.

Its models are not used: they refuse a whole list for one object that lacks a field, and cost ten times the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from aiohttp import ClientError, ClientTimeout
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

Raw = dict[str, Any]

REQUEST_S: Final = 20.0
CONNECT_S: Final = 5.0
FAREWELL_S: Final = 0.1
PAGE: Final = 1000


class ApiError(Exception):
    """The API's refusal, or that it could not be reached (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        """HTTP status and what the server, or the system, says."""
        super().__init__(f"{status} {message}" if status else message)
        self.status = status
        self.message = message


class ConfigurationError(Exception):
    """The access to the API is not configured; the text names what is wrong."""


class KubeApi:
    """One client of one API server."""

    def __init__(self, client: Any) -> None:
        """Use `connect`."""
        self._client = client

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> KubeApi:
        """Reads a kubeconfig, or the pod's own ServiceAccount. Sends nothing yet. Raises ConfigurationError."""
        configuration = Configuration()
        configuration.connection_pool_maxsize = 64
        # The way to the API server is direct, or the kubeconfig's own proxy; the environment's is for the outside.
        configuration.client_session_kwargs = {"trust_env": False}
        try:
            if kubeconfig is not None:
                await load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
            else:
                load_incluster_config(configuration)
        except (ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError) as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster configuration"
            raise ConfigurationError(f"{where}: {' '.join(str(error).split())}") from None
        return cls(ApiClient(configuration))

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.rest_client.close()
        # TLS says farewell behind aiohttp's back, for which the loop has to turn a little longer.
        await asyncio.sleep(FAREWELL_S)

    async def get(self, path: str, params: Mapping[str, str] | None = None, timeout_s: float = REQUEST_S) -> Raw:
        """One GET. Raises ApiError."""
        return await self._json("GET", path, params, None, timeout_s)

    async def post(self, path: str, body: Raw, timeout_s: float = REQUEST_S) -> Raw:
        """One POST. Raises ApiError."""
        return await self._json("POST", path, None, body, timeout_s)

    async def put(self, path: str, body: Raw, timeout_s: float = REQUEST_S) -> Raw:
        """One PUT. Raises ApiError, 409 if the object was changed since it was read."""
        return await self._json("PUT", path, None, body, timeout_s)

    async def list(self, path: str) -> tuple[list[Raw], str]:
        """All objects of a collection, page by page, and the resourceVersion to watch from. Raises ApiError."""
        items: list[Raw] = []
        params = {"limit": str(PAGE)}
        while True:
            page = await self.get(path, params)
            items.extend(page.get("items") or ())
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion") or "")
            params = {"limit": str(PAGE), "continue": meta["continue"]}

    @asynccontextmanager
    async def watch(self, path: str, version: str, duration_s: int) -> AsyncIterator[AsyncIterator[Raw]]:
        """Events from a resourceVersion on, until the server ends the watch. Raises ApiError, 410 if too old."""
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(duration_s),
        }
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=duration_s + 30.0)
        response = await self._send("GET", path, params, None, timeout)
        try:
            yield _events(response)
        finally:
            response.close()

    async def _json(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Raw | None, timeout_s: float
    ) -> Raw:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._send(method, path, params, body, ClientTimeout(total=timeout_s))
                try:
                    raw = await response.read()
                finally:
                    response.release()
            result: Raw = msgspec.json.decode(raw)
        except TimeoutError:
            raise ApiError(0, f"{method} {path}: no answer within {timeout_s:g} s") from None
        except (ClientError, OSError, msgspec.DecodeError) as error:
            raise ApiError(0, f"{method} {path}: {error or type(error).__name__}") from None
        return result

    async def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Raw | None, timeout: ClientTimeout
    ) -> Any:
        """The response, whose status is below 400; the caller closes it."""
        target = f"{path}{'&' if '?' in path else '?'}{urlencode(params)}" if params else path
        try:
            method, url, headers, body, _ = await self._client.param_serialize(
                method, target, header_params={"Accept": "application/json"}, body=body, auth_settings=["BearerToken"]
            )
            answer = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
        except TimeoutError:
            raise ApiError(0, f"{method} {path}: no answer") from None
        except (ClientError, OSError) as error:
            raise ApiError(0, f"{method} {path}: {error or type(error).__name__}") from None
        response = answer.response
        if response.status >= 400:
            try:
                raw = await response.read()
            except (ClientError, OSError, TimeoutError):
                raw = b""
            finally:
                response.release()
            raise ApiError(response.status, _message(raw) or response.reason or "")
        return response


async def _events(response: Any) -> AsyncIterator[Raw]:
    try:
        async for line in response.content:
            if line.strip():
                yield msgspec.json.decode(line)
    except TimeoutError:
        raise ApiError(0, "watch: silent for too long") from None
    except (ClientError, OSError, ValueError) as error:  # ValueError: a line too long, or no JSON
        raise ApiError(0, f"watch: {error or type(error).__name__}") from None


def _message(raw: bytes) -> str:
    try:
        status = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return raw[:200].decode(errors="replace")
    return str(status.get("message", "")) if isinstance(status, dict) else ""
