"""A lab with agents and controller in it, and what its API says: for tests that break it and look at the answer."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from lab import api, netns
from lab.spec import LabSpec, Topology

HEALTHY_S = 45.0
# How soon is measured by `make bench`; a test waits for as long as a busy machine may take.
NAMED_S = 60.0
CLEARED_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


class Watched:
    """A lab that is up and watched."""

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.state = api.up(spec, lambda _text: None, agents=True)
        self.plan: Topology = api.plan_of(spec.name)
        parts = urlsplit(str(api.status(spec.name)["url"]))
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.token = parts.fragment.removeprefix("token=")

    def down(self) -> None:
        """Take it away."""
        api.down(self.spec.name)

    def get(self, path: str) -> Any:
        """A document of the controller's API."""
        return self.request("GET", path)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the controller's API; the answer's JSON. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def open_incidents(self) -> list[Any]:
        """Incidents that are open now."""
        found: list[Any] = self.get("/api/v1/incidents?state=open")
        return found

    def matrix(self, kind: str = "node") -> dict[tuple[str, str], Any]:
        """Cells by (source, destination)."""
        return {(c["source"], c["destination"]): c for c in self.get(f"/api/v1/matrix?kind={kind}")["cells"]}

    def healthy(self) -> str:
        """Empty if every cell that is sampled is ok and nothing is open; else what is not."""
        wrong = [i["causes"][0]["code"] for i in self.open_incidents()]
        for kind in ("node", "service", "dns", "egress"):
            for (source, destination), cell in self.matrix(kind).items():
                if cell["state"] not in {"ok", "unsampled"} and cell["verdict"] != "blocked_as_intended":
                    wrong.append(f"{kind} {source} → {destination}: {cell['state']} {cell.get('failing', '')}")
        return "; ".join(wrong[:8])

    def wait_healthy(self, limit_s: float = HEALTHY_S) -> float:
        """Wait until all is well; seconds that it took."""
        return self.wait(lambda: not self.healthy(), limit_s, self.healthy)

    def wait(self, check: Callable[[], Any], limit_s: float, says: Callable[[], Any]) -> float:
        """Wait until a check holds; seconds that it took. Fails with what `says` returns."""
        began = time.monotonic()
        while True:
            try:
                if check():
                    return time.monotonic() - began
            except (OSError, http.client.HTTPException):
                pass  # the controller is being restarted
            assert time.monotonic() - began < limit_s, f"after {limit_s:g} s: {says()}"
            time.sleep(0.1)

    def run(self, place: str, *argv: str, check: bool = True) -> str:
        """Run a command in a node, the router or the outside."""
        space = {"router": self.plan.router_netns, "outside": self.plan.outside_netns}.get(place) or self.plan.node(
            place
        ).netns
        return netns.run_sync(space, list(argv), check=check).stdout

    def kubereach(self, *argv: str, timeout_s: float = 30.0) -> Answer:
        """Run the command line against this lab."""
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *argv],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"KUBEREACH_LAB": self.spec.name, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        return Answer(done.returncode, done.stdout, done.stderr)


class Up(Protocol):
    """A lab that is up."""

    spec: LabSpec

    def down(self) -> None:
        """Take it away."""


L = TypeVar("L", bound=Up)


class OneAtATime(Generic[L]):
    """Keeps the lab that was asked for last; who asks for another kind has the first taken away.

    (A parametrised fixture would be made anew for every test: pytest knows its parameters by their place.)
    """

    def __init__(self, make: Callable[[LabSpec], L], await_ready: Callable[[L], object] = lambda _lab: None) -> None:
        """`make` brings a lab up, `await_ready` waits for what its tests begin with."""
        self._make = make
        self._await_ready = await_ready
        self._lab: L | None = None

    def of(self, spec: LabSpec) -> L:
        """The lab of that spec, ready when it is made."""
        if self._lab is None or self._lab.spec != spec:
            self.end()
            self._lab = self._make(spec)
            self._await_ready(self._lab)
        return self._lab

    def end(self) -> None:
        """Take away what is there."""
        if self._lab is not None:
            self._lab.down()
        self._lab = None


def matches(incident: Any, code: str, **wanted: str) -> bool:
    """Whether the first cause of an incident has this code, and its object these names."""
    cause = incident["causes"][0]
    thing = cause["object"]
    return cause["code"] == code and all(thing.get(key, "") == value for key, value in wanted.items() if value)
