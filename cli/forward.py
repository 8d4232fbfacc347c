"""The way to a controller in a cluster: its pod is looked up, and a port forwarded to it by the API server.

One connection is one WebSocket of `pods/portforward` (subprotocol v4.channel.k8s.io): channel 0 carries the bytes,
channel 1 errors, and each begins with the port's number. Nothing listens on this machine: whoever wants a connection
gets a socket whose other end is served here. Must not interpret what passes through.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, Request
from wsproto.utilities import ProtocolError

from cli.client import ConfigError, RefusedError, UnreachableError
from cli.kubeconfig import Cluster
from model.ports import CONTROLLER_PLAIN_PORT

SELECTOR: Final = "app.kubernetes.io/name=kubereach,app.kubernetes.io/component=controller"
SUBPROTOCOL: Final = "v4.channel.k8s.io"
CONNECT_S: Final = 10.0
TOKEN_S: Final = 600
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
_DATA, _ERROR = 0, 1
_CHUNK: Final = 65536


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """One API server as one user."""

    cluster: Cluster

    def get(self, path: str, query: dict[str, str]) -> Any:
        """The JSON document at `path`. Raises UnreachableError, RefusedError."""
        return self._request("GET", f"{path}?{urlencode(query)}", None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to `body`. Raises UnreachableError, RefusedError."""
        return self._request("POST", path, json.dumps(body).encode())

    def _request(self, method: str, target: str, body: bytes | None) -> Any:
        sock = self.connect()
        try:
            connection = http.client.HTTPConnection(self._host(), timeout=CONNECT_S)
            connection.sock = sock
            headers = {"Accept": "application/json", "Content-Type": "application/json", **self.headers()}
            connection.request(method, self._path(target), body, headers)
            response = connection.getresponse()
            raw = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"the API server {self.cluster.server} does not answer: {error}") from None
        finally:
            sock.close()
        try:
            document = json.loads(raw)
        except ValueError:
            document = {"message": raw[:200].decode(errors="replace")}
        if response.status >= 400:
            message = str(document.get("message") or response.reason) if isinstance(document, dict) else response.reason
            raise RefusedError(response.status, message)
        return document

    def headers(self) -> dict[str, str]:
        """What says who asks."""
        token = self.cluster.identity.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def connect(self) -> socket.socket:
        """A connection to the API server. Raises UnreachableError, ConfigError."""
        parts = urlsplit(self.cluster.server)
        host = parts.hostname or ""
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            plain = socket.create_connection((host, port), timeout=CONNECT_S)
            if parts.scheme != "https":
                return plain
            return self.cluster.tls().wrap_socket(plain, server_hostname=self.cluster.server_name or host)
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate of {self.cluster.server} is not trusted: {error.verify_message}"
            raise ConfigError(f"{message} ({self.cluster.origin})") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            message = f"the API server {self.cluster.server} cannot be reached: {reason}"
            raise UnreachableError(f"{message} ({self.cluster.origin})") from None

    def forward(self, namespace: str, pod: str, port: int) -> socket.socket:
        """A connection to a port of a pod. Raises UnreachableError, RefusedError, ConfigError."""
        path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/portforward?ports={port}"
        upstream = self.connect()
        try:
            messages, early = _upgrade(upstream, self._host(), self._path(path), self.headers())
        except BaseException:
            upstream.close()
            raise
        ours, theirs = socket.socketpair()
        _Pump(upstream, messages, ours, early).start()
        return theirs

    def _host(self) -> str:
        return urlsplit(self.cluster.server).netloc.rpartition("@")[2]

    def _path(self, target: str) -> str:
        return urlsplit(self.cluster.server).path + target


@dataclass(frozen=True, slots=True)
class Controller:
    """The controller's pod, as a place to connect to."""

    kubernetes: Kubernetes
    namespace: str
    pod: str

    def connect(self) -> socket.socket:
        """A connection to its port for port-forwards."""
        return self.kubernetes.forward(self.namespace, self.pod, CONTROLLER_PLAIN_PORT)


def find_controller(kubernetes: Kubernetes, namespace: str) -> Controller:
    """The pod that runs. Raises UnreachableError where there is none, RefusedError, ConfigError."""
    found = kubernetes.get(f"/api/v1/namespaces/{quote(namespace)}/pods", {"labelSelector": SELECTOR})
    pods = [pod for pod in found.get("items") or () if not pod["metadata"].get("deletionTimestamp")]
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    if not running:
        state = ", ".join(sorted({str((pod.get("status") or {}).get("phase")) for pod in pods})) or "none is there"
        raise UnreachableError(
            f"no controller runs in namespace '{namespace}' of {kubernetes.cluster.origin} ({state}); "
            "install it (kubectl apply -k daemonset), or name its namespace by KUBEREACH_NAMESPACE"
        )
    newest = max(running, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""))
    return Controller(kubernetes, namespace, str(newest["metadata"]["name"]))


def person_token(kubernetes: Kubernetes, namespace: str) -> str:
    """What opens the controller: the user's own token, else one of the ServiceAccounts that people may borrow.

    A client certificate ends at the API server and cannot be passed on. Raises RefusedError, UnreachableError.
    """
    if kubernetes.cluster.identity.token:
        return kubernetes.cluster.identity.token
    refused: RefusedError | None = None
    for account in ("kubereach-prober", "kubereach-viewer"):
        path = f"/api/v1/namespaces/{quote(namespace)}/serviceaccounts/{account}/token"
        try:
            answer = kubernetes.post(path, {"spec": {"expirationSeconds": TOKEN_S}})
        except RefusedError as error:
            refused = error
            continue
        return str(answer["status"]["token"])
    assert refused is not None
    raise refused


class _Messages:
    """A WebSocket's messages, put together from frames."""

    def __init__(self) -> None:
        self.websocket = WSConnection(ConnectionType.CLIENT)
        self.accepted = False
        self.ended = False
        self._part = b""

    def take(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Messages that are whole now, and what has to be answered. Raises RefusedError, ProtocolError."""
        self.websocket.receive_data(data)
        whole, reply = [], b""
        for event in self.websocket.events():
            match event:
                case AcceptConnection():
                    self.accepted = True
                case RejectConnection():
                    raise RefusedError(event.status_code, "the API server refuses to forward a port to the controller")
                case BytesMessage():
                    self._part += bytes(event.data)
                    if event.message_finished:
                        whole.append(self._part)
                        self._part = b""
                case Ping():
                    reply += self.websocket.send(event.response())
                case CloseConnection():
                    self.ended = True
        return whole, reply


def _upgrade(sock: socket.socket, host: str, target: str, headers: dict[str, str]) -> tuple[_Messages, list[bytes]]:
    """Shake hands; also returns messages that came along. Raises UnreachableError, RefusedError."""
    messages = _Messages()
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request(host=host, target=target, subprotocols=[SUBPROTOCOL], extra_headers=extra)
    early: list[bytes] = []
    try:
        sock.sendall(messages.websocket.send(request))
        while not messages.accepted:
            data = sock.recv(_CHUNK)
            if not data:
                raise UnreachableError("the API server ends the port-forward at once")
            early += messages.take(data)[0]
    except (OSError, ProtocolError) as error:
        raise UnreachableError(f"the port-forward fails: {error}") from None
    return messages, early


class _Pump:
    """Carries bytes both ways until one side ends: one thread, since a TLS connection is no two threads' at a time."""

    def __init__(self, upstream: socket.socket, messages: _Messages, local: socket.socket, early: list[bytes]) -> None:
        """`early` are messages that came with the handshake."""
        self._upstream = upstream
        self._messages = messages
        self._local = local
        self._early = early
        self._begun: set[int] = set()

    def start(self) -> None:
        """Begin. The thread ends with either side, and with the command."""
        threading.Thread(target=self._run, name="port-forward", daemon=True).start()

    def _run(self) -> None:
        try:
            for message in self._early:
                self._inwards(message)
            self._upstream.setblocking(False)
            while not self._messages.ended:
                # What TLS has already decrypted makes no socket readable.
                if not self._receive():
                    ready, _, _ = select.select((self._upstream, self._local), (), ())
                    if self._local in ready and not self._outwards():
                        return
        except (OSError, ProtocolError, RefusedError):
            return
        finally:
            self._local.close()
            self._upstream.close()

    def _receive(self) -> bool:
        """Take what has come from the API server; False if nothing has."""
        try:
            data = self._upstream.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        if not data:
            self._messages.ended = True
            return True
        whole, reply = self._messages.take(data)
        for message in whole:
            self._inwards(message)
        if reply:
            self._send(reply)
        return True

    def _inwards(self, message: bytes) -> None:
        channel, data = int.from_bytes(message[:1]), message[1:]
        if channel not in self._begun:
            # The port's number, two octets, stands first.
            self._begun.add(channel)
            data = data[2:]
        if channel == _ERROR and data:
            raise OSError(data.decode(errors="replace"))
        if channel == _DATA and data:
            self._local.sendall(data)

    def _outwards(self) -> bool:
        """Pass on what our side wrote; False if it has closed."""
        data = self._local.recv(_CHUNK)
        if data:
            self._send(self._messages.websocket.send(BytesMessage(data=bytes((_DATA,)) + data)))
        return bool(data)

    def _send(self, data: bytes) -> None:
        self._upstream.settimeout(CONNECT_S)
        self._upstream.sendall(data)
        self._upstream.setblocking(False)
