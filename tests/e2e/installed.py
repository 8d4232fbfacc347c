"""A lab with a real Kubernetes in which kubereach runs as its manifests say: the image, by kustomize or by Helm."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import time
import urllib.error
from email.message import Message
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from lab import api, netns
from lab.kubernetes import build
from lab.spec import LabSpec, Topology
from model.ports import CONTROLLER_PLAIN_PORT
from tests.daemonset.helm import helm
from tests.daemonset.manifests import DAEMONSET, ROOT
from tests.lab.watched import Watched

TAG = "0.1.0"
IMAGE_S = 900.0
IN_IMAGE = (
    "model",
    "agent",
    "controller",
    "cli",
    "lab",
    "scripts",
    "Dockerfile",
    "requirements.lock",
    "pyproject.toml",
)
PLUGIN = ROOT / ".venv/bin/kubectl-reach"
GONE = ("--wait=true", "--timeout=60s", "--ignore-not-found")

Way = Literal["kustomize", "helm"]


@cache
def image() -> Path:
    """The archive of the image of these very sources, built by one process."""
    folder = build.cache_directory().parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with build.locked(folder / "e2e.lock", print):
        return _image(folder)


def _image(folder: Path) -> Path:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *IN_IMAGE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    digest = hashlib.sha256()
    for name in sorted(names):
        if (ROOT / name).is_file():
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes() + b"\0")
    archive, stamp = folder / "e2e.tar", folder / "e2e.stamp"
    if not archive.exists() or not stamp.exists() or stamp.read_text() != digest.hexdigest():
        stamp.unlink(missing_ok=True)
        argv = [str(ROOT / "scripts/image"), "--tag", f"kubereach:{TAG}", "--output", str(archive)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=IMAGE_S, check=False)
        assert done.returncode == 0, done.stderr
        stamp.write_text(digest.hexdigest())
    return archive


class Installed(Watched):
    """A watched lab whose agents, endpoints and controller are pods."""

    def __init__(self, spec: LabSpec, way: Way) -> None:
        self.spec = spec
        self.way: Way = way
        archive = image()
        self.state = api.up(spec, lambda _text: None, agents=False, endpoints=False)
        try:
            self.plan: Topology = api.plan_of(spec.name)
            api.load_image(spec.name, archive)
            self._node = ""
            self.token = ""
            self.install()
        except BaseException:
            self.down()
            raise

    def kubectl(self, *words: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
        """The real kubectl as the lab's administrator; what it prints."""
        argv = ["kubectl", f"--kubeconfig={self.state.kubeconfig}", *words]
        return netns.run_sync(None, argv, stdin, timeout_s=timeout_s).stdout

    def install(self) -> float:
        """By the way of this lab; the moment at which it was begun, by the monotonic clock.

        The controller gets the first node, where no fault of the switchboard cuts off who asks it.
        """
        others = [node.name for node in self.plan.nodes[1:]]
        self.kubectl("cordon", *others)
        began = time.monotonic()
        if self.way == "kustomize":
            self.kubectl("apply", "-k", str(DAEMONSET))
        else:
            self.helm("install", "kubereach", str(DAEMONSET / "chart"), "--create-namespace", *self.values())
        self.wait(self._has_token, 120.0, lambda: self.kubectl("get", "pods", "-n", "kubereach", "-o", "wide"))
        self.kubectl("uncordon", *others)
        return began

    def pin(self) -> None:
        """The controller back on the first node, if a test moved it."""
        first, *others = (node.name for node in self.plan.nodes)
        if self.controller_node() == first:
            return
        self.kubectl("cordon", *others)
        try:
            self.kubectl("delete", "pod", "-n", "kubereach", "-l", "app.kubernetes.io/component=controller")
            self.wait(lambda: self.controller_node(fresh=True) == first, 60.0, self.controller_node)
        finally:
            self.kubectl("uncordon", *others)
        self.wait(lambda: not self.silent(), 30.0, self.silent)

    def silent(self) -> list[str]:
        """Nodes whose agent does not report."""
        nodes = self.get("/api/v1/cluster")["nodes"]
        return [one["name"] for one in nodes if one["agent"]["state"] != "reporting"] or (
            [] if nodes else ["every node"]
        )

    def remove(self) -> None:
        """The way back."""
        if self.way == "kustomize":
            self.kubectl("delete", "-k", str(DAEMONSET), *GONE, timeout_s=90.0)
        else:
            self.helm("uninstall", "kubereach", "--wait")
            self.kubectl("delete", "namespace", "kubereach", *GONE, timeout_s=90.0)

    def values(self) -> list[str]:
        """What the chart is given here: an outside to probe."""
        return ["--set", f"controller.egressTargets={{http://{self.plan.outside_ipv4}/}}"]

    def helm(self, *words: str) -> str:
        """The pinned helm, on this cluster and in kubereach's namespace."""
        return helm(*words, "--namespace", "kubereach", "--kubeconfig", self.state.kubeconfig)

    def _has_token(self) -> bool:
        try:
            words = ("create", "token", "kubereach-prober", "-n", "kubereach", "--duration=12h")
            self.token = self.kubectl(*words).strip()
            return bool(self.request("GET", "/api/v1/cluster"))
        except (netns.NetnsError, urllib.error.HTTPError):
            return False

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """A request at the controller's port for port-forwards, on its node; no API server stands in between.

        Raises urllib.error.HTTPError, OSError where nothing answers.
        """
        status, raw = self.ask(method, path, body, token)
        if status >= 400:
            raise urllib.error.HTTPError(path, status, raw.decode(errors="replace"), Message(), BytesIO(raw))
        return json.loads(raw)

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError where nothing answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if shown := (self.token if token is None else token):
            headers["Authorization"] = f"Bearer {shown}"
        for fresh in (False, True):
            node = self.controller_node(fresh=fresh)
            connection = http.client.HTTPConnection("127.0.0.1", CONTROLLER_PLAIN_PORT, timeout=30)
            try:
                connection.sock = netns.call_in(self.plan.node(node).netns, _connect)
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except ConnectionRefusedError:
                if fresh:
                    raise
            finally:
                connection.close()
        raise AssertionError("not reached")

    def controller_node(self, *, fresh: bool = False) -> str:
        """The node that the controller runs on. OSError while there is none."""
        if fresh or not self._node:
            path = "jsonpath={.items[?(@.status.phase=='Running')].spec.nodeName}"
            words = ("get", "pods", "-n", "kubereach", "-l", "app.kubernetes.io/component=controller", "-o", path)
            try:
                self._node = (self.kubectl(*words).split() or [""])[0]
            except netns.NetnsError as error:
                raise ConnectionRefusedError(str(error)) from None
        if not self._node:
            raise ConnectionRefusedError("no controller runs")
        return self._node

    def busiest(self) -> str:
        """The node with the most pods, of those without the controller."""
        return self._by_pods()[0]

    def quietest(self) -> str:
        """The node with the fewest pods, of those without the controller."""
        return self._by_pods()[-1]

    def _by_pods(self) -> list[str]:
        path = "jsonpath={range .items[*]}{.spec.nodeName} {end}"
        found = self.kubectl("get", "pods", "-A", "-o", path).split()
        without = (node.name for node in self.plan.nodes if node.name != self.controller_node(fresh=True))
        return sorted(without, key=lambda name: -found.count(name))

    def incidents(self) -> dict[str, Any]:
        """Every incident that the controller knows, resolved ones too, by id."""
        return {one["id"]: one for one in self.get("/api/v1/incidents")}

    def endpoint(self, node: str) -> str:
        """NAMESPACE/NAME of the endpoint on a node."""
        words = ("get", "pods", "-n", "kubereach", "-l", "app.kubernetes.io/component=endpoint")
        found = self.kubectl(
            *words, f"--field-selector=spec.nodeName={node}", "-o", "jsonpath={.items[0].metadata.name}"
        )
        return f"kubereach/{found}"


def _connect() -> socket.socket:
    return socket.create_connection(("127.0.0.1", CONTROLLER_PLAIN_PORT), timeout=5)


if __name__ == "__main__":
    # Ahead of the tests, which begin side by side: a build takes all of the machine.
    print(image())
