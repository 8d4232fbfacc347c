"""What dies, and what is cut off: every report still arrives, no node leaves the matrix, nothing is invented."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import api, switchboard
from lab.client import ApiClient
from lab.spec import LabSpec
from tests.lab.watched import CLEARED_S, NAMED_S, Watched, matches

ARRIVES_S = 5.0


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """A watched lab in the default combination."""
    up = Watched(LabSpec(f"s{os.getpid()}"))
    try:
        up.wait_healthy()
        yield up
    finally:
        up.down()


@pytest.fixture(autouse=True)
def healthy(watched: Watched) -> None:
    """Every test begins in a lab without fault."""
    watched.wait_healthy(CLEARED_S)


def agents(watched: Watched) -> dict[str, Any]:
    """What the controller says of each node's agent."""
    return {n["name"]: n["agent"] for n in watched.get("/api/v1/cluster")["nodes"]}


def ages(watched: Watched) -> dict[str, float]:
    """Of each node the age of its newest observation, in seconds."""
    found: dict[str, float] = {}
    for cell in watched.matrix("node").values():
        if cell["age_s"] is not None:
            found[cell["source"]] = min(cell["age_s"], found.get(cell["source"], 1e9))
    return found


DNS_NODE = "the node of a DNS replica"
CUTS = [
    pytest.param(
        "node-a",
        "iptables -I FORWARD 1 -s 10.244.0.0/16 -d 10.244.0.0/16 -j DROP",
        "iptables -D FORWARD 1",
        "node.firewall_drop",
        id="pod traffic on the controller's own node",
    ),
    pytest.param(
        DNS_NODE,
        "iptables -I FORWARD 1 -s 10.244.0.0/16 -d 10.244.0.0/16 -j DROP",
        "iptables -D FORWARD 1",
        "node.firewall_drop",
        id="pod traffic on a DNS replica's node",
    ),
    pytest.param(
        "node-a",
        "iptables -I INPUT 1 -s 10.77.1.13 -j DROP",
        "iptables -D INPUT 1",
        "node.firewall_drop",
        id="the controller's node cut off from one other node",
    ),
]


@pytest.mark.parametrize(("node", "do", "undo", "code"), CUTS)
def test_every_report_arrives_and_one_cause_is_named(
    watched: Watched, node: str, do: str, undo: str, code: str
) -> None:
    """Whatever way is cut, all agents' observations arrive within seconds, and just the one cause is named."""
    if node == DNS_NODE:
        pods = watched.get("/api/v1/matrix?kind=dns")["columns"]
        replica = next(p for p in pods if p.startswith("kube-system/kube-dns-"))
        paths = watched.get(f"/api/v1/paths?source=node-a&destination={replica}&kind=dns")["paths"]
        node = next(
            n.name for n in watched.plan.nodes if paths[0]["address"].startswith(n.pod_cidr4.rsplit(".", 1)[0] + ".")
        )
    watched.run(node, "sh", "-ec", do)
    try:
        watched.wait(
            lambda: any(matches(i, code, node=node) for i in watched.open_incidents()), NAMED_S, watched.open_incidents
        )
        worst = 0.0
        until = time.monotonic() + 8
        while time.monotonic() < until:
            told = ages(watched)
            assert set(told) == {n.name for n in watched.plan.nodes}, "a node vanished from the matrix"
            worst = max(worst, *told.values())
            time.sleep(0.25)
        assert worst < ARRIVES_S, f"an agent's newest observation was {worst:.1f} s old"
        blamed = [(i["causes"][0]["code"], i["causes"][0]["object"]) for i in watched.open_incidents()]
        assert [c for c, _ in blamed] == [code], blamed
    finally:
        watched.run(node, "sh", "-ec", undo)
    watched.wait_healthy(CLEARED_S)


def counted(watched: Watched) -> dict[str, float]:
    """Counters of the controller's metrics, summed over labels."""
    import urllib.request

    request = urllib.request.Request(watched.url + "/metrics", headers={"Authorization": f"Bearer {watched.token}"})
    found: dict[str, float] = {}
    with urllib.request.urlopen(request, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name.split("{")[0]] = found.get(name.split("{")[0], 0.0) + float(value)
    return found


def pid_of(watched: Watched, service: str) -> int:
    """The process of a service of the lab, 0 while there is none."""
    pids = api.status(watched.spec.name)["pids"]
    found = pids["agents"].get(service) or pids.get(service) or pids.get("services", {}).get(service)
    return int(found or 0)


def test_killed_agent_comes_back_and_is_no_fault(watched: Watched) -> None:
    """While an agent is dead its row is unknown or stale, never failing; it is restarted; no incident is opened."""
    pid = pid_of(watched, "node-c")
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        row = [c for (source, _), c in watched.matrix("node").items() if source == "node-c"]
        assert {c["state"] for c in row} <= {"ok", "stale", "unknown"}, row
        assert watched.open_incidents() == []
        time.sleep(0.2)
    watched.wait(
        lambda: agents(watched)["node-c"]["state"] == "reporting" and pid_of(watched, "node-c") not in {0, pid},
        15,
        lambda: agents(watched),
    )
    watched.wait_healthy(CLEARED_S)


def test_killed_controller_comes_back_and_nothing_is_counted_twice(watched: Watched) -> None:
    """The controller is restarted, agents send what they kept, and the matrix is whole and healthy again."""
    pid = pid_of(watched, "controller")
    os.kill(pid, signal.SIGKILL)
    watched.wait(
        lambda: pid_of(watched, "controller") not in {0, pid} and len(ages(watched)) == 4, 20, lambda: "no matrix"
    )
    watched.wait_healthy()
    assert all(agent["state"] == "reporting" for agent in agents(watched).values())
    assert all(agent.get("dropped", 0) == 0 for agent in agents(watched).values()), "an agent lost observations"


def test_incident_survives_the_controller(watched: Watched) -> None:
    """An incident that is open when the controller is killed is the same one afterwards, and closes after healing."""
    watched.run("node-b", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    try:
        watched.wait(
            lambda: any(matches(i, "node.ip_forward_off") for i in watched.open_incidents()),
            NAMED_S,
            watched.open_incidents,
        )
        before = watched.open_incidents()[0]["id"]
        os.kill(pid_of(watched, "controller"), signal.SIGKILL)
        time.sleep(0.5)
        watched.wait(lambda: len(ages(watched)) == 4, 20, lambda: "no matrix")
        assert [i["id"] for i in watched.open_incidents()] == [before]
    finally:
        watched.run("node-b", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    watched.wait_healthy(CLEARED_S)


def test_killed_api_server_is_no_fault(watched: Watched) -> None:
    """Without the API server probing goes on, nothing is blamed, and objects that come later are seen."""
    os.kill(pid_of(watched, "apiserver"), signal.SIGKILL)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        assert watched.open_incidents() == []
        assert len(ages(watched)) == 4
        time.sleep(0.25)
    watched.wait_healthy(CLEARED_S)


def test_a_named_fault_of_a_service_is_still_named_while_its_pod_s_node_is_slow(watched: Watched) -> None:
    """A wrong targetPort is often one that policy forbids too: without a look at the pod that would seem intended."""
    kubeconfig = Path(watched.state.kubeconfig)
    wanted = {"kind": "Service", "namespace": "shop", "name": "cart"}
    made = asyncio.run(switchboard.break_it(watched.plan, kubeconfig, "service.target_port_mismatch", "svc/shop/cart"))
    try:
        watched.wait(
            lambda: any(matches(i, made.code, **wanted) for i in watched.open_incidents()),
            NAMED_S,
            watched.open_incidents,
        )
        pods = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in listed(watched, "pods", "shop")}
        theirs = next(node for name, node in pods.items() if name.startswith("cart-"))
        asking = next(name for name, node in pods.items() if name.startswith("frontend-") and node != theirs)
        slow = pid_of(watched, theirs)
        os.kill(slow, signal.SIGSTOP)
        try:
            answer = watched.kubereach("probe", f"pod/shop/{asking}", "svc/shop/cart", "-o", "json")
        finally:
            os.kill(slow, signal.SIGCONT)
        assert (answer.code, answer.json["verdict"]) == (1, "unexpected_block"), answer.out
        assert matches(answer.json, made.code, **wanted), answer.out
    finally:
        asyncio.run(switchboard.heal(watched.plan, kubeconfig))
    watched.wait_healthy(CLEARED_S)


def listed(watched: Watched, kind: str, namespace: str) -> list[Any]:
    """Objects of a namespace."""

    async def ask() -> list[Any]:
        async with ApiClient.from_kubeconfig(Path(watched.state.kubeconfig)) as client:
            return await client.list(kind, namespace)

    return asyncio.run(ask())
