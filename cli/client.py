"""The client of the controller's API: one request, one answer, a deadline on the whole of it.

It must not print and not interpret what it fetches. Built on the standard library, since a command that starts in
30 ms feels better than one that does not, and one request needs no event loop.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 512 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


class ConfigError(Exception):
    """The command line or its settings are at fault: exit code 2."""


class UnreachableError(Exception):
    """The controller does not answer, or not as a controller does: exit code 4."""


class RefusedError(Exception):
    """The controller answered that it will not do this: `status` is the HTTP status, `hint` the way out or ""."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Access:
    """Where the controller is and what opens it. `origin` says where this comes from, for error messages.

    `connect` makes a connection where `url` alone does not lead there (through the Kubernetes API).
    """

    url: str
    token: str
    origin: str
    ca_file: str = ""
    connect: Callable[[], socket.socket] | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """Requests to one controller. Every call opens a connection of its own."""

    access: Access

    def get(self, path: str, query: dict[str, str] | None = None, *, deadline_s: float = 20.0) -> Any:
        """The JSON document at `path`. Raises UnreachableError, RefusedError, ConfigError."""
        return self._request("GET", path, query, None, deadline_s)

    def post(
        self, path: str, body: Any = None, query: dict[str, str] | None = None, *, deadline_s: float = 20.0
    ) -> Any:
        """The JSON answer to `body`. Raises UnreachableError, RefusedError, ConfigError."""
        return self._request("POST", path, query, json.dumps({} if body is None else body).encode(), deadline_s)

    def _request(
        self, method: str, path: str, query: dict[str, str] | None, body: bytes | None, deadline_s: float
    ) -> Any:
        parts = _split(self.access.url)
        target = parts.path.rstrip("/") + quote(path) + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Host": parts.netloc.rpartition("@")[2]}
        if self.access.token:
            headers["Authorization"] = f"Bearer {self.access.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        with self._translated(deadline_s), contextlib.closing(self._connection(parts)) as connection:
            until = time.monotonic() + deadline_s
            if self.access.connect is not None:
                connection.sock = self.access.connect()
            else:
                connection.connect()
            connection.sock.settimeout(deadline_s)
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return _document(response.status, _read(response, connection.sock, until))

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port or 80, timeout=CONNECT_TIMEOUT_S)
        try:
            context = ssl.create_default_context(cafile=self.access.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the CA file '{self.access.ca_file}' cannot be used: {error}") from None
        return http.client.HTTPSConnection(host, parts.port or 443, timeout=CONNECT_TIMEOUT_S, context=context)

    @contextlib.contextmanager
    def _translated(self, deadline_s: float) -> Iterator[None]:
        where = f"{self.access.url} ({self.access.origin})"
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate of {where} is not trusted: {error.verify_message}; name its CA by KUBEREACH_CA"
            raise ConfigError(message) from None
        except TimeoutError:
            raise UnreachableError(f"no answer from the controller at {where} within {deadline_s:g} s") from None
        except socket.gaierror as error:
            raise UnreachableError(f"the name in {where} does not resolve: {error.strerror}") from None
        except OSError as error:
            raise UnreachableError(f"no controller answers at {where}: {error.strerror or error}") from None
        except http.client.HTTPException as error:
            name = type(error).__name__
            raise UnreachableError(f"what answers at {where} speaks no HTTP ({name})") from None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(
            f"'{url}' is no URL of a controller ({error}); write for example http://127.0.0.1:8704"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"'{url}' is no URL of a controller; write for example http://127.0.0.1:8704")
    return parts


def _read(response: http.client.HTTPResponse, sock: socket.socket | None, until: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if size > MAX_ANSWER_BYTES:
            raise UnreachableError(f"the answer is larger than {MAX_ANSWER_BYTES} octets")
        if sock is not None and not response.isclosed():
            with contextlib.suppress(OSError):
                sock.settimeout(left)
    return b"".join(chunks)


def _document(status: int, body: bytes) -> Any:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if 200 <= status < 300:
        if document is None:
            raise UnreachableError(f"the answer (status {status}) is no JSON; is that address a kubereach controller?")
        return document
    known = document if isinstance(document, dict) else {}
    message = str(known.get("error") or f"status {status} {http.client.responses.get(status, '')}".strip())
    raise RefusedError(status, message, str(known.get("hint") or ""))
