"""What happens in every cluster every week and is no fault: nobody is blamed, and nothing that was seen is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from lab.state import load_state
from tests.e2e.conftest import BY_HELM, KUSTOMIZED
from tests.e2e.installed import Installed
from tests.lab.watched import OneAtATime

HEALTHY_S = 90.0
DEPLOYMENTS = 30
RENEWED_S = 4.0
GENTLY = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")
LOST = {
    "kubereach_agent_dropped_total": "results lost to a full outbox",
    "kubereach_batches_missing": "batches not come",
}


def lost(installed: Installed) -> dict[str, float]:
    """What was lost on the way, by the controller's own count of agents' numbers."""
    text = installed.ask("GET", "/metrics")[1].decode()
    sums = {name: sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))) for name in LOST}
    assert re.search(r"^kubereach_batches_total [1-9]", text, re.MULTILINE), "nothing was counted"
    return {LOST[name]: count for name, count in sums.items() if count}


@contextmanager
def unblamed(installed: Installed, healthy_s: float = HEALTHY_S) -> Iterator[None]:
    """Nothing is blamed meanwhile, all is healthy again afterwards, and nothing was lost."""
    before = installed.incidents()
    yield
    installed.wait_healthy(healthy_s)
    new = [incident for key, incident in installed.incidents().items() if key not in before]
    assert new == [], json.dumps(new)
    assert lost(installed) == {}


def watch(installed: Installed, seconds: float) -> None:
    """Let time pass, and hold that nothing is blamed while it does."""
    known = {i["id"] for i in installed.open_incidents()}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        new = [i for i in installed.open_incidents() if i["id"] not in known]
        assert new == [], json.dumps(new)
        time.sleep(0.5)


@contextmanager
def stopped(installed: Installed, service: str) -> Iterator[None]:
    """A daemon of the cluster that does nothing for a while, neither alive nor gone."""
    state = load_state(installed.spec.name)
    assert state is not None
    pid = state.processes[service].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@KUSTOMIZED
def test_a_drained_node(installed: Installed) -> None:
    """Its pods move, Services change their backends; back in service, all is as before."""
    node = installed.busiest()
    with unblamed(installed):
        installed.kubectl(*("drain", node, *GENTLY), timeout_s=100.0)
        watch(installed, 5.0)
        installed.kubectl("uncordon", node)


@KUSTOMIZED
def test_a_rescheduled_controller(installed: Installed) -> None:
    """On another node within the minute; agents find it there, and it blames nobody for its absence."""
    node = installed.controller_node(fresh=True)
    installed.kubectl("cordon", node)
    try:
        installed.kubectl("delete", "pod", "-n", "kubereach", "-l", "app.kubernetes.io/component=controller")
        installed.wait(lambda: installed.controller_node(fresh=True) != node, 30.0, lambda: "it stays")
    finally:
        installed.kubectl("uncordon", node)
    installed.wait(lambda: not installed.silent(), 30.0, installed.silent)
    installed.wait_healthy(HEALTHY_S)
    watch(installed, 5.0)
    assert installed.incidents() == {}
    assert lost(installed) == {}


def _deployments(replicas: int) -> str:
    """Deployments with a Service each, in a namespace of their own."""
    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "churn"}}]
    for number in range(DEPLOYMENTS):
        name = f"d{number}"
        labels = {"app": name}
        container = {
            "name": "answer",
            "image": "kubereach-lab",
            "imagePullPolicy": "IfNotPresent",
            "args": ["--listen", "TCP/8080"],
            "ports": [{"containerPort": 8080}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        }
        template = {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        meta = {"name": name, "namespace": "churn"}
        items.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
        service = {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
        items.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@pytest.mark.loud
@KUSTOMIZED
def test_thirty_deployments_scaled_up_and_down(installed: Installed) -> None:
    """Sixty pods come and go, with their Services: a Service scaled to nothing is nobody's fault."""
    with unblamed(installed):
        installed.kubectl("apply", "-f", "-", stdin=_deployments(2))
        words = ("wait", "--for=condition=Available", "--timeout=120s", "-n", "churn", "deployment", "--all")
        installed.kubectl(*words, timeout_s=130.0)
        watch(installed, 5.0)
        installed.kubectl("scale", "-n", "churn", "deployment", "--all", "--replicas=0")
        watch(installed, 8.0)
        installed.kubectl("scale", "-n", "churn", "deployment", "--all", "--replicas=1")
        installed.kubectl(*words, timeout_s=130.0)
        installed.kubectl("delete", "namespace", "churn", "--timeout=90s", timeout_s=100.0)


def leaderless(installed: Installed) -> list[str]:
    """The control plane's programs that have not renewed their leadership just now."""
    renewed = "jsonpath={.spec.renewTime}"
    found = []
    for name in ("kube-scheduler", "kube-controller-manager"):
        said = installed.kubectl("get", "lease", "-n", "kube-system", name, "-o", renewed)
        if (datetime.now(UTC) - datetime.fromisoformat(said)).total_seconds() > RENEWED_S:
            found.append(name)
    return found


@BY_HELM
def test_an_api_server_that_is_away_for_two_minutes(installed: Installed) -> None:
    """The matrix stays fresh, whoever was let in stays in, and nobody is blamed, then or afterwards."""
    with unblamed(installed, 90.0):
        with stopped(installed, "kube-apiserver"):
            watch(installed, 120.0)
            cells = installed.matrix("node").values()
            assert max(cell["age_s"] for cell in cells) < 5.0
            assert {cell["state"] for cell in cells} == {"ok"}
        watch(installed, 20.0)
    # Without a leader no pod gets a node, which is a fault of its own.
    installed.wait(lambda: not leaderless(installed), 60.0, lambda: leaderless(installed))


@KUSTOMIZED
def test_a_stopped_kubelet(installed: Installed) -> None:
    """The node is NotReady and its network as good as ever: it stays in the matrix, and nobody is blamed.

    (Its pods leave their Services, which is a fault where a Service has no others: so it is drained first.)
    """
    node = installed.quietest()
    installed.kubectl(*("drain", node, *GENTLY), timeout_s=100.0)
    installed.wait_healthy(HEALTHY_S)

    def ready() -> str:
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return installed.kubectl("get", "node", node, "-o", path)

    with unblamed(installed, 90.0):
        with stopped(installed, f"kubelet/{node}"):
            installed.wait(lambda: ready() == "Unknown", 90.0, ready)
            watch(installed, 10.0)
            row = {cell["state"] for (source, _), cell in installed.matrix("node").items() if source == node}
            assert row == {"ok"}
        installed.wait(lambda: ready() == "True", 60.0, ready)
        installed.kubectl("uncordon", node)


@pytest.mark.spoils_its_lab
@KUSTOMIZED
def test_a_deleted_node(installed: Installed, installations: OneAtATime[Installed]) -> None:
    """It leaves the matrix with its Node, and the rest stays as it was."""
    node = installed.quietest()
    before = installed.incidents()
    installed.kubectl("delete", "node", node)

    def rows() -> set[str]:
        return {source for source, _ in installed.matrix("node")}

    try:
        installed.wait(lambda: node not in rows(), 30.0, rows)
        watch(installed, 30.0)
        assert len(rows()) == len(installed.plan.nodes) - 1
        # Its pods leave their Services after a minute or more, and what was lost until then stays in sight for another.
        installed.wait_healthy(180.0)
        assert installed.incidents().keys() <= before.keys()
    finally:
        installations.end()


@pytest.fixture(autouse=True)
def healthy(installed: Installed) -> None:
    """Every test begins where nothing is wrong."""
    installed.wait_healthy(HEALTHY_S)
