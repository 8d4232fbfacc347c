"""A node whose flannel never starts: its agent reports all the same, and the finding is that node's network plugin."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from lab import netns, switchboard
from lab.state import load_state
from tests.e2e.conftest import BOTH, KUSTOMIZED
from tests.e2e.installed import Installed
from tests.lab.watched import matches

NAMED_S = 60.0
HEALTHY_S = 90.0


@BOTH
def test_a_node_whose_flannel_never_starts_is_named(installed: Installed) -> None:
    """No lease, no devices, no pod with a network: cni.not_ready with flannel's own words, and nothing else."""
    installed.wait_healthy(HEALTHY_S)
    node = installed.plan.node(installed.quietest())
    state = load_state(installed.spec.name)
    assert state is not None
    flannel = state.processes[f"flannel/{node.name}"].pid
    os.kill(flannel, signal.SIGSTOP)
    try:
        (installed.plan.node_directory(node.name) / "run/flannel/subnet.env").unlink()
        for device in ("cni0", "flannel.1"):
            netns.run_sync(node.netns, ["ip", "link", "del", device], check=False)
        on_it = f"--field-selector=spec.nodeName={node.name}"
        for namespace in ("kubereach", "kube-system", "shop", "pay", "ops"):
            # agent and controller need no pod network, and stay
            chosen = ["-l", "app.kubernetes.io/component=endpoint"] if namespace == "kubereach" else []
            installed.kubectl("delete", "pods", "-n", namespace, on_it, *chosen, "--force", "--wait=false")
        found = installed.wait(
            lambda: [i for i in installed.open_incidents() if matches(i, "cni.not_ready", kind="node", node=node.name)],
            NAMED_S,
            lambda: installed.get("/api/v1/incidents"),
        )
        assert found < NAMED_S
        (incident,) = installed.open_incidents()
        assert "subnet.env" in str(incident["causes"][0]["evidence"])
        reporting = {n["name"]: n["agent"]["state"] for n in installed.get("/api/v1/cluster")["nodes"]}
        assert reporting[node.name] == "reporting"
        row = {cell["state"] for (source, _), cell in installed.matrix("host").items() if source == node.name}
        assert row == {"ok"}
    finally:
        os.kill(flannel, signal.SIGKILL)
    installed.wait(lambda: not installed.open_incidents(), HEALTHY_S, installed.open_incidents)
    installed.wait_healthy(HEALTHY_S)


@KUSTOMIZED
def test_an_agent_starts_where_no_network_plugin_is(installed: Installed) -> None:
    """On a node that is NotReady for want of a network plugin a new agent comes up and reports the finding itself."""
    installed.wait_healthy(HEALTHY_S)
    node = installed.quietest()
    kubeconfig = Path(installed.state.kubeconfig)

    def boot() -> tuple[str, str]:
        told = next(n["agent"] for n in installed.get("/api/v1/cluster")["nodes"] if n["name"] == node)
        return told["state"], pod()

    def pod() -> str:
        words = ("get", "pods", "-n", "kubereach", "-l", "app.kubernetes.io/component=agent")
        path = "jsonpath={.items[?(@.status.phase=='Running')].metadata.name}"
        return installed.kubectl(*words, f"--field-selector=spec.nodeName={node}", "-o", path)

    before = pod()
    asyncio.run(switchboard.break_it(installed.plan, kubeconfig, "cni.not_ready", f"node/{node}"))
    try:
        ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        installed.wait(
            lambda: installed.kubectl("get", "node", node, "-o", ready) == "False", NAMED_S, lambda: "still Ready"
        )
        installed.kubectl("delete", "pod", "-n", "kubereach", before)
        installed.wait(lambda: boot()[0] == "reporting" and boot()[1] not in ("", before), NAMED_S, boot)
        installed.wait(
            lambda: any(matches(i, "cni.not_ready", node=node) for i in installed.open_incidents()),
            NAMED_S,
            installed.open_incidents,
        )
        cause = installed.open_incidents()[0]["causes"][0]
        assert "there is no network configuration" in cause["summary"]
    finally:
        asyncio.run(switchboard.heal(installed.plan, kubeconfig))
    installed.wait(lambda: not installed.open_incidents(), HEALTHY_S, installed.open_incidents)
