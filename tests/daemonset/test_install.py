"""`kubectl apply -k daemonset` into an embedded lab: taken as it is, turned into pods on every node, and gone again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from lab import api, netns
from lab.spec import LabSpec
from tests.daemonset.manifests import DAEMONSET, rendered
from tests.lab.labs import eventually

NAME = f"krd{os.getpid() % 10000}"


class Cluster:
    """A lab without kubereach in it."""

    def __init__(self) -> None:
        self.state = api.up(LabSpec(name=NAME, nodes=2), lambda _text: None, agents=False, sample=False)

    def kubectl(self, *words: str, ok: bool = True) -> str:
        """The real kubectl, as the lab's administrator."""
        argv = ["kubectl", f"--kubeconfig={self.state.kubeconfig}", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout

    def names(self, *words: str) -> list[str]:
        """Objects that a `kubectl get` finds."""
        return self.kubectl("get", *words, "-o", "name").split()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Up for this file; what a lab makes of kubereach for itself is taken away first."""
    try:
        one = Cluster()
        one.kubectl("delete", "-f", str(DAEMONSET.parent / "lab/sample/kubereach.yaml"), *GENTLY)
        yield one
    finally:
        api.down(NAME)


# The namespace goes first, and takes along what the same command would delete after it.
GENTLY = ("--timeout=50s", "--ignore-not-found")
KINDS = "namespaces,clusterroles,clusterrolebindings"
NAMESPACED = "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"
LABEL = "--selector=app.kubernetes.io/name=kubereach"


def test_the_installation_is_taken_runs_everywhere_and_leaves_nothing(cluster: Cluster) -> None:
    """Every object is made, a second apply changes none, each node gets its two pods; delete takes all of it."""
    before = set(netns.names(f"{NAME}-"))
    said = cluster.kubectl("apply", "-k", str(DAEMONSET)).splitlines()
    assert len(said) == len(rendered())
    assert [line for line in said if not line.endswith(" created")] == []
    again = cluster.kubectl("apply", "-k", str(DAEMONSET)).splitlines()
    # kubectl replaces a budget's selector by patch strategy, and calls that "configured" although nothing changes.
    changed = [line for line in again if not line.endswith(" unchanged")]
    assert changed == ["poddisruptionbudget.policy/kubereach-controller configured"]

    def ready() -> bool:
        path = "jsonpath={range .items[*]}{.metadata.name}={.status.numberReady}{'\\n'}{end}"
        found = cluster.kubectl("get", "daemonsets", "-n", "kubereach", "-o", path).split()
        return found == ["kubereach-agent=2", "kubereach-endpoint=2"]

    eventually(ready, "agents and endpoints on both nodes", 40.0)
    eventually(lambda: len(cluster.names("pods", "-n", "kubereach", LABEL)) == 5, "and one controller", 20.0)
    cluster.kubectl("delete", "-k", str(DAEMONSET), *GENTLY)
    assert cluster.names(KINDS, LABEL) == []
    assert cluster.names(NAMESPACED, "-A", LABEL) == []
    eventually(lambda: set(netns.names(f"{NAME}-")) <= before, "namespaces of its pods are gone", 20.0)
