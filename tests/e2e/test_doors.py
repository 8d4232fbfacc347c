"""Who may do what, by a real API server's tokens and reviews: nobody without a name, nobody beyond his rights."""

from __future__ import annotations

import sys

import pytest

from lab import netns
from tests.e2e.conftest import KUSTOMIZED
from tests.e2e.installed import Installed

READING = ("/api/v1/cluster", "/api/v1/matrix?kind=node", "/api/v1/incidents", "/api/v1/policy/matrix", "/metrics")
PROBE = {"source": "node/node-a", "destination": "node/node-b"}
WORDS = ("--duration=10m",)


def token(installed: Installed, account: str, *words: str, namespace: str = "kubereach") -> str:
    """A token of a ServiceAccount, from the real TokenRequest."""
    return installed.kubectl("create", "token", account, "-n", namespace, *WORDS, *words).strip()


@pytest.fixture
def stranger(installed: Installed) -> str:
    """A token of an account without any right."""
    found = installed.kubectl("get", "serviceaccounts", "-n", "shop", "-o", "name").split()
    assert "serviceaccount/default" in found
    return token(installed, "default", namespace="shop")


@KUSTOMIZED
@pytest.mark.parametrize("shown", ["", "garbage", "a.b.c"], ids=["no token", "garbage", "no real one"])
def test_nobody_without_a_name_reads_or_probes(installed: Installed, shown: str) -> None:
    """401 at every door, of the page's data and of probes."""
    assert {path: installed.ask("GET", path, token=shown)[0] for path in READING} == dict.fromkeys(READING, 401)
    assert installed.ask("POST", "/api/v1/probe", PROBE, token=shown)[0] == 401


@KUSTOMIZED
def test_a_name_without_rights_is_refused(installed: Installed, stranger: str) -> None:
    """403, and the answer says which rule would allow it; agents and endpoints have no more than anybody."""
    for shown in (stranger, token(installed, "kubereach-agent"), token(installed, "kubereach-endpoint")):
        assert {path: installed.ask("GET", path, token=shown)[0] for path in READING} == dict.fromkeys(READING, 403)
        status, said = installed.ask("POST", "/api/v1/probe", PROBE, token=shown)
        assert status == 403
        assert b"/kubereach/probe" in said


@KUSTOMIZED
def test_who_may_read_may_not_probe(installed: Installed) -> None:
    """The two rights are two; a token for another audience has neither."""
    viewer = token(installed, "kubereach-viewer")
    assert {path: installed.ask("GET", path, token=viewer)[0] for path in READING} == dict.fromkeys(READING, 200)
    assert installed.ask("POST", "/api/v1/probe", PROBE, token=viewer)[0] == 403
    assert installed.ask("POST", "/api/v1/probe", PROBE)[0] == 200
    foreign = token(installed, "kubereach-prober", "--audience=elsewhere")
    assert installed.ask("GET", READING[0], token=foreign)[0] == 401


@KUSTOMIZED
def test_a_right_that_is_given_holds_and_one_that_is_taken_ends(installed: Installed, stranger: str) -> None:
    """RBAC decides, at once or after the half minute for which a decision is remembered."""
    words = ("clusterrolebinding", "e2e-reader")
    installed.kubectl("create", *words, "--clusterrole=kubereach-viewer", "--serviceaccount=shop:default")
    try:
        installed.wait(
            lambda: installed.ask("GET", READING[0], token=stranger)[0] == 200, 10.0, lambda: "still refused"
        )
    finally:
        installed.kubectl("delete", *words)
    installed.wait(lambda: installed.ask("GET", READING[0], token=stranger)[0] == 403, 45.0, lambda: "still let in")


REPORTERS = {
    "nobody": ("", ""),
    "a foreign account": ("default", "shop"),
    "the endpoint": ("kubereach-endpoint", "kubereach"),
    "a person": ("kubereach-prober", "kubereach"),
}


@KUSTOMIZED
@pytest.mark.parametrize(("account", "namespace"), REPORTERS.values(), ids=list(REPORTERS))
def test_a_foreign_account_cannot_report(installed: Installed, account: str, namespace: str) -> None:
    """The agents' door opens for the agents' account alone, with the audience of its own."""
    shown = token(installed, account, "--audience=kubereach", namespace=namespace) if account else ""
    assert installed.ask("GET", "/api/v1/agent", token=shown)[0] == (403 if account else 401)


@KUSTOMIZED
def test_an_agent_speaks_for_its_own_node_alone(installed: Installed) -> None:
    """A token bound to the agent's pod on node-a does not report for node-b."""
    pod = _agent_on(installed, "node-a")
    uid = installed.kubectl("get", "pod", "-n", "kubereach", pod, "-o", "jsonpath={.metadata.uid}")
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--bound-object-uid={uid}")
    shown = token(installed, "kubereach-agent", "--audience=kubereach", *bound)
    argv = [sys.executable, "-m", "tests.e2e.hello", "node-b"]
    done = netns.run_sync(installed.plan.node(installed.controller_node()).netns, argv, shown)
    assert "the token belongs to node node-a" in done.stdout


def _agent_on(installed: Installed, node: str) -> str:
    words = ("get", "pods", "-n", "kubereach", "-l", "app.kubernetes.io/component=agent")
    return installed.kubectl(
        *words, f"--field-selector=spec.nodeName={node}", "-o", "jsonpath={.items[0].metadata.name}"
    )
