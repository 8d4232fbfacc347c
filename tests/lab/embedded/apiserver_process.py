"""A real API server process on a loopback port, for tests."""

import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from lab import pki

ADMIN, CAROL = "admin-token", "carol-token"


class Server:
    """One server: its files outlive `kill`, so that `start` finds what was kept."""

    def __init__(self, folder: Path, *, family: str = "dual") -> None:
        self.folder, self.family = folder, family
        pki.make_ca(folder)
        pki.issue(folder, "api", ["127.0.0.1"], ["kubernetes"])
        (folder / "tokens").write_text(f'{ADMIN},admin,1,"system:masters"\n{CAROL},carol,2\n')
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca = folder / "ca.crt"
        self.tls = ssl.create_default_context(cafile=self.ca)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start, wait until it answers; returns the seconds that took."""
        files = {"ca-cert": "ca.crt", "ca-key": "ca.key", "tls-cert": "api.crt", "tls-key": "api.key"}
        files |= {"tokens": "tokens", "store": "store.db"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        command = [sys.executable, "-m", "lab.embedded.apiserver", f"--listen=127.0.0.1:{self.port}", *options]
        begin = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, f"--family={self.family}"], stdout=log, stderr=log)
        while time.monotonic() < begin + 20:
            try:
                if self.call("GET", "/livez", token=None)[0] == 200:
                    return time.monotonic() - begin
            except OSError:
                time.sleep(0.01)
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = ADMIN, content: str = "application/json"
    ) -> tuple[int, Any]:
        """One request: the status, and the body decoded if it is JSON."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        headers = {"Content-Type": content, **({"Authorization": f"Bearer {token}"} if token else {})}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=20) as answer:
                raw, status, kind = answer.read(), answer.status, answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            with error:
                raw, status, kind = error.read(), error.code, error.headers.get_content_type()
        return status, msgspec.json.decode(raw) if kind == "application/json" else raw

    def kubeconfig(self, token: str = ADMIN) -> Path:
        """A kubeconfig for kubectl and clients."""
        path = self.folder / f"{token}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        path.write_bytes(
            msgspec.json.encode(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "x",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        return path

    def kubectl(self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> tuple[int, str]:
        """Run the real kubectl; the exit code, and what it printed on both streams."""
        environment = {**os.environ, "HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig()), **(env or {})}
        done = subprocess.run(
            ["kubectl", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


def namespace(server: Server, name: str) -> str:
    """Make a namespace of a test's own."""
    status, body = server.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert status == 201, body
    return name


def pod(name: str, **spec: Any) -> dict[str, Any]:
    """A small pod."""
    containers = [{"name": "c", "image": "kubereach-lab"}]
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": containers, **spec}}
