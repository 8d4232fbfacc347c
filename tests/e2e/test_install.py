"""Installed on a real Kubernetes as its manifests say, by kustomize and by Helm: there at once, gone without trace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import expect, sync_playwright

from lab import netns
from tests.e2e.conftest import BOTH
from tests.e2e.installed import PLUGIN, Installed
from tests.lab.watched import Answer
from tests.web.test_page import QUIET

HEALTHY_S = 60.0
PAGE_MS = 15_000
KINDS = "namespaces,clusterroles,clusterrolebindings,priorityclasses,validatingwebhookconfigurations"
NAMESPACED = "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,leases"
LABEL = "--selector=app.kubernetes.io/name=kubereach"


def reach(installed: Installed, *words: str) -> Answer:
    """`kubectl reach …`, found by kubectl as a plugin, as the administrator."""
    path = f"{PLUGIN.parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "KUBECONFIG": installed.state.kubeconfig, "HOME": "/nonexistent"}
    done = subprocess.run(
        ["kubectl", "reach", *words], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def traces(installed: Installed) -> list[str]:
    """What of kubereach is in the cluster's objects and on its nodes."""
    found = installed.kubectl("get", KINDS, LABEL, "-o", "name").split()
    found += installed.kubectl("get", NAMESPACED, "-A", LABEL, "-o", "name").split()
    for node in installed.plan.nodes:
        rules = (
            netns.run_sync(node.netns, ["iptables-save"]).stdout + netns.run_sync(node.netns, ["ip6tables-save"]).stdout
        )
        rules += netns.run_sync(node.netns, ["nft", "list", "ruleset"]).stdout
        found += [f"{node.name}: {line.strip()}" for line in rules.splitlines() if "kubereach" in line]
        for pid in netns.run_sync(None, ["ip", "netns", "pids", node.netns]).stdout.split():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(b"/kubereach") for word in words):
                found.append(f"{node.name}: process {pid}")
    return found


@BOTH
def test_it_goes_without_trace_and_is_back_and_healthy_within_a_minute(installed: Installed) -> None:
    """Removed, no object, rule or process is left; installed, every agent reports and the matrix is healthy in 60 s."""
    assert len(traces(installed)) > len(installed.plan.nodes)
    installed.remove()
    # kube-proxy takes its own chains of a Service away at its next full pass, every 30 s
    installed.wait(lambda: not traces(installed), 75.0, lambda: traces(installed))
    began = installed.install()

    def said() -> str:
        cells = installed.matrix("node").values()
        unseen = [f"{c['source']} → {c['destination']}" for c in cells if c["state"] != "ok"]
        return " ".join([*installed.silent(), *unseen]) or ("" if cells else "no matrix")

    installed.wait(lambda: not said() and not installed.healthy(), HEALTHY_S, lambda: said() or installed.healthy())
    assert time.monotonic() - began < HEALTHY_S


@BOTH
def test_kubectl_reach_probes_pods_services_names_and_nodes(installed: Installed) -> None:
    """As kubectl's plugin, with a client certificate or token of the kubeconfig alone."""
    here, there = (installed.endpoint(node) for node in ("node-a", "node-c"))
    targets = {
        "a pod": (there,),
        "a Service": ("svc/kube-system/kube-dns:53", "--proto", "tcp"),
        "a Service by datagram": ("svc/kube-system/kube-dns:53", "--proto", "udp"),
        "a name": ("dns/kubernetes.default.svc.cluster.local",),
        "a node": ("node/node-d",),
    }
    said = {name: reach(installed, "probe", here, *words, "-o", "json") for name, words in targets.items()}
    assert {name: (answer.code, answer.err) for name, answer in said.items()} == dict.fromkeys(targets, (0, ""))
    assert {answer.json["outcome"] for answer in said.values()} == {"ok"}
    denied = reach(
        installed, "probe", here, "pod/pay/" + _pod(installed, "pay", "payments"), "--port", "8443", "-o", "json"
    )
    assert denied.json["verdict"] == "blocked_as_intended", denied


def _pod(installed: Installed, namespace: str, workload: str) -> str:
    words = ("get", "pods", "-n", namespace, "-o", "jsonpath={.items[*].metadata.name}")
    return next(name for name in installed.kubectl(*words).split() if name.startswith(workload))


@contextmanager
def port_forward(installed: Installed) -> Iterator[str]:
    """`kubectl port-forward` to the controller, as README says; the address on this machine."""
    argv = ["kubectl", f"--kubeconfig={installed.state.kubeconfig}", "port-forward", "-n", "kubereach"]
    argv += ["deployment/kubereach-controller", ":8704", "--address=127.0.0.1"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        assert found, said
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


@BOTH
def test_the_page_shows_the_cluster(installed: Installed) -> None:
    """Through a port-forward, in a real browser: live, every node a row, nothing wrong."""
    with port_forward(installed) as origin, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{origin}/#token={quote(installed.token)}")
            expect.set_options(timeout=PAGE_MS)
            expect(page.locator("#connection-words")).to_have_text("live")
            count = len(installed.plan.nodes)
            expect(page.locator("#headline")).to_have_text("✓ all measured paths are as they should be")
            expect(page.locator("#agents")).to_have_text(f"{count} of {count}")
            expect(page.locator("#legend")).to_have_text(f"✓ ok {count * count}")
            if where := os.environ.get("KUBEREACH_SCREENSHOTS"):
                page.screenshot(path=f"{where}/{installed.way}.png")
        finally:
            browser.close()


@BOTH
def test_agents_and_endpoints_are_renewed_without_an_alarm(installed: Installed) -> None:
    """A rolling update of everything opens no incident, and afterwards all is healthy."""
    before = set(installed.incidents())
    for what in ("daemonset/kubereach-agent", "daemonset/kubereach-endpoint", "deployment/kubereach-controller"):
        installed.kubectl("rollout", "restart", "-n", "kubereach", what)
        installed.kubectl("rollout", "status", "-n", "kubereach", what, "--timeout=90s", timeout_s=100.0)
        installed.wait_healthy(HEALTHY_S)
        new = [one for key, one in installed.incidents().items() if key not in before]
        assert new == [], f"{what}: {json.dumps(new)}"
