"""What lab tests share: a lab brought up for real, its pods, and many probes at once from inside its namespaces."""

from __future__ import annotations

import json
import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import api, netns
from lab.netns import run_sync
from lab.spec import LabSpec, Topology

ALLOWED = Path(__file__).parents[2] / "lab/sample/allowed.json"
DNS = "kube-system/kube-dns"
PROBE_S = 0.8
# Begins with the mark of a probe, which the endpoint asks for and exchanges for its own in the answer.
QUESTION = b"KR are you there?"
SETTLE_S = 15.0


@dataclass(frozen=True)
class Pod:
    """A running pod of the sample."""

    namespace: str
    name: str
    workload: str
    """NAMESPACE/NAME of its Deployment or DaemonSet."""
    netns: str
    node: str
    ips: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """One question, whether this namespace reaches that address and port."""

    netns: str
    address: str
    port: int
    protocol: str = "TCP"


class Lab:
    """A lab that is up."""

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.state = api.up(spec, lambda _text: None, agents=False)
        self.plan: Topology = api.plan_of(spec.name)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 30.0) -> str:
        """Run kubectl against the lab's API; what it prints."""
        argv = ["kubectl", f"--kubeconfig={self.state.kubeconfig}", *arguments]
        return run_sync(None, argv, stdin, timeout_s=timeout_s).stdout

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-A", "-o", "json"))["items"]
        return found

    def pods(self) -> list[Pod]:
        """All running pods with a network of their own."""
        return [
            Pod(
                namespace=item["metadata"]["namespace"],
                name=item["metadata"]["name"],
                workload=_workload(item),
                netns=self.plan.pod_netns(item["metadata"]["namespace"], item["metadata"]["name"]),
                node=item["spec"]["nodeName"],
                ips=tuple(entry["ip"] for entry in item["status"]["podIPs"]),
            )
            for item in self.objects("pods")
            if item["status"].get("podIPs") and not item["metadata"].get("deletionTimestamp")
        ]

    def pod(self, workload: str) -> Pod:
        """One pod of a workload."""
        return next(pod for pod in self.pods() if pod.workload == workload)

    def down(self) -> None:
        """Take it away."""
        api.down(self.spec.name)


def _workload(item: dict[str, Any]) -> str:
    name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
    if item["metadata"].get("labels", {}).get("k8s-app") == "kube-dns":
        return DNS  # whose Deployment has another name in a real Kubernetes
    owner = (item["metadata"].get("ownerReferences") or [{}])[0]
    cut = 2 if owner.get("kind") == "ReplicaSet" else 1
    return f"{namespace}/{name.rsplit('-', cut)[0]}"


def eventually(check: Callable[[], Any], what: str, deadline_s: float = SETTLE_S) -> Any:
    """Ask until the answer is true; fail with the last answer otherwise."""
    end = time.monotonic() + deadline_s
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < end, f"{what}: {answer!r} after {deadline_s:g} s"
        time.sleep(0.1)


def probe_all(probes: Iterable[Probe], timeout_s: float = PROBE_S) -> dict[Probe, bool]:
    """Put all questions at once; True where a connection stood, or a datagram came back."""
    wanted = list(dict.fromkeys(probes))
    _allow_files(len(wanted) + 200)
    sockets: dict[socket.socket, Probe] = {}
    for name in dict.fromkeys(probe.netns for probe in wanted):
        mine = [probe for probe in wanted if probe.netns == name]
        opened = netns.call_in(name, lambda mine=mine: _open(mine))
        sockets |= dict(zip(opened, mine, strict=True))
    answers = dict.fromkeys(wanted, False)
    with selectors.DefaultSelector() as selector:
        for sock, probe in sockets.items():
            if sock.connect_ex((probe.address, probe.port)) in (0, 115):
                event = selectors.EVENT_READ if probe.protocol == "UDP" else selectors.EVENT_WRITE
                selector.register(sock, event)
                if probe.protocol == "UDP":
                    _try(lambda sock=sock: sock.send(QUESTION))
        end = time.monotonic() + timeout_s
        while selector.get_map() and (rest := end - time.monotonic()) > 0:
            for key, _ in selector.select(rest):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                probe = sockets[sock]
                if probe.protocol == "UDP":
                    answers[probe] = (_try(lambda sock=sock: sock.recv(100)) or b"").endswith(QUESTION[2:])
                else:
                    answers[probe] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                selector.unregister(sock)
    for sock in sockets:
        sock.close()
    return answers


def _try(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except OSError:
        return None


def _open(probes: Sequence[Probe]) -> list[socket.socket]:
    result = []
    for probe in probes:
        family = socket.AF_INET6 if ":" in probe.address else socket.AF_INET
        kind = socket.SOCK_DGRAM if probe.protocol == "UDP" else socket.SOCK_STREAM
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        result.append(sock)
    return result


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(count, soft), hard), hard))


def settle(expected: dict[Probe, bool], deadline_s: float = SETTLE_S) -> list[str]:
    """Put the questions until all answers are as expected (rules follow objects by a moment); what stays wrong."""
    wrong = dict(expected)
    end = time.monotonic() + deadline_s
    while True:
        answers = probe_all(wrong)
        wrong = {probe: wrong[probe] for probe, answer in answers.items() if answer != wrong[probe]}
        if not wrong or time.monotonic() > end:
            return [f"{probe} passes: {not want}" for probe, want in wrong.items()]
