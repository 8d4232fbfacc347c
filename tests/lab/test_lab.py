"""A lab comes up, stays apart from others, and goes away whole, whatever died before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import api, netns
from lab.spec import LabSpec, lab_directory
from lab.state import load_state
from lab.teardown import exists, members, namespaces_of
from tests.lab.labs import Lab, Probe, eventually, settle

KUBEREACH = [sys.executable, "-m", "cli.main"]


def remains(name: str) -> list[str]:
    """Everything of a lab that is on this machine."""
    spaces = namespaces_of(name)
    found = [f"namespace {one}" for one in spaces] + [f"process {pid}" for pid in members(name, spaces)]
    return found + ([str(lab_directory(name))] if lab_directory(name).exists() else [])


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a lab that is taken away after the test, whatever is left of it."""
    chosen = f"x{os.getpid()}"
    yield chosen
    if exists(chosen):
        api.down(chosen)


def run(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([*KUBEREACH, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_lab_taken_away_leaves_nothing(name: str) -> None:
    """After `down` there is no namespace, no process and no file of the lab."""
    api.up(LabSpec(name, nodes=2), lambda _text: None, agents=False)
    assert remains(name) != []
    api.down(name)
    assert remains(name) == []


@pytest.mark.parametrize("service", ["supervisor", "cluster", "apiserver"])
def test_a_lab_whose_parts_were_killed_leaves_nothing(name: str, service: str) -> None:
    """`down` does not need any process of the lab to be alive."""
    api.up(LabSpec(name, nodes=1), lambda _text: None, agents=False)
    state = load_state(name)
    assert state is not None
    victim = state.supervisor if service == "supervisor" else state.processes[service]
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: not victim.alive(), "killed")
    api.down(name)
    assert remains(name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_a_lab_in_the_foreground_goes_with_its_command(name: str, number: signal.Signals) -> None:
    """Without --detach the lab is taken away when the command is told to end."""
    argv = [*KUBEREACH, "lab", "up", "--name", name, "--nodes", "1", "--no-agents"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline().strip().endswith("kubeconfig")
        command.send_signal(number)
        assert command.wait(10) == 0
    assert remains(name) == []


@pytest.mark.parametrize("service", ["apiserver", "cluster", "proxy", "policy", "outside"])
def test_a_service_that_is_killed_comes_back(one_lab: Lab, service: str) -> None:
    """The supervisor starts again what dies; no object, pod or answer is lost by it."""
    before = {pod.name: pod for pod in one_lab.pods()}
    state = load_state(one_lab.spec.name)
    assert state is not None
    victim = state.processes[service]
    os.kill(victim.pid, signal.SIGKILL)

    def back() -> bool:
        now = load_state(one_lab.spec.name)
        assert now is not None
        return service in now.processes and now.processes[service].pid != victim.pid

    eventually(back, f"{service} runs again")
    eventually(lambda: _pods_or_none(one_lab) == before, "the same pods")
    jumpbox, metrics = one_lab.pod("ops/jumpbox"), one_lab.pod("ops/metrics")
    probes = [Probe(jumpbox.netns, metrics.ips[0], 9090), Probe(jumpbox.netns, one_lab.plan.outside_ipv4, 80)]
    assert settle(dict.fromkeys(probes, True)) == []


def _pods_or_none(lab: Lab) -> object:
    try:
        return {pod.name: pod for pod in lab.pods()}
    except (netns.NetnsError, ValueError):  # the API server is not back yet
        return None


def test_two_labs_live_side_by_side(one_lab: Lab, name: str) -> None:
    """Another lab with the same addresses neither disturbs the first nor goes with it."""
    # a name that begins with the first one's: their namespaces must be told apart all the same
    second = LabSpec(f"{one_lab.spec.name}-b", nodes=1)
    api.up(second, lambda _text: None, agents=False)
    try:
        jumpbox, metrics = one_lab.pod("ops/jumpbox"), one_lab.pod("ops/metrics")
        assert settle({Probe(jumpbox.netns, metrics.ips[0], 9090): True}) == []
        theirs = namespaces_of(second.name)
        assert not set(theirs) & set(namespaces_of(one_lab.spec.name))
        listed = json.loads(run("lab", "list", "-o", "json").stdout)
        assert {one_lab.spec.name, second.name} <= {one["name"] for one in listed if one["state"] == "up"}
    finally:
        api.down(second.name)
    assert remains(second.name) == []
    assert settle({Probe(jumpbox.netns, metrics.ips[0], 9090): True}) == []


def test_nothing_of_the_machine_is_changed(one_lab: Lab) -> None:
    """The machine's own namespace has no link, route or rule of a lab, and its resolver files are its own."""
    links = json.loads(netns.run_sync(None, ["ip", "-j", "link"]).stdout)
    assert not [
        link["ifname"] for link in links if link["ifname"].startswith(("veth", "cali", "cni", "flannel", "zone"))
    ]
    routes = netns.run_sync(None, ["ip", "route", "show", "table", "all"]).stdout
    assert "10.244." not in routes
    assert "10.77." not in routes
    assert "KUBE" not in netns.run_sync(None, ["nft", "list", "ruleset"]).stdout
    assert "cluster.local" not in Path("/etc/resolv.conf").read_text()
    assert one_lab.plan.name in netns.names(one_lab.plan.name)[0]


def test_status_says_what_runs(one_lab: Lab) -> None:
    """`lab status -o json` has the fields of the contract, with pids that are alive."""
    done = run("lab", "status", "--lab", one_lab.spec.name, "-o", "json")
    value = json.loads(done.stdout)
    assert done.returncode == 0
    assert (value["name"], value["state"], value["control_plane"]) == (one_lab.spec.name, "up", "embedded")
    assert [node["name"] for node in value["nodes"]] == ["node-a", "node-b", "node-c", "node-d"]
    assert value["nodes"][1]["zone"] == "zone-2"
    assert value["nodes"][1]["addresses"] == ["10.77.2.12", "fd77:2::12"]
    assert Path(value["kubeconfig"]).exists()
    assert all(Path(f"/proc/{pid}").exists() for pid in value["pids"]["services"].values())


@pytest.mark.parametrize(
    ("place", "shows"),
    [
        ("node/node-b", "10.77.2.12"),
        ("router", "203.0.113.1"),
        ("outside", "203.0.113.10"),
        ("control", "10.77.1.10"),
        ("pod", "10.244."),
    ],
)
def test_exec_runs_in_the_place_named(one_lab: Lab, place: str, shows: str) -> None:
    """`lab exec` enters that network namespace and passes the command's output and exit code on."""
    pod = one_lab.pod("shop/cart")
    where = f"pod/{pod.namespace}/{pod.name}" if place == "pod" else place
    done = run("lab", "exec", "--lab", one_lab.spec.name, where, "--", "ip", "-4", "address")
    assert shows in done.stdout
    assert run("lab", "exec", "--lab", one_lab.spec.name, where, "--", "sh", "-c", "exit 7").returncode == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--name", "Bad_Name"], "lab name 'Bad_Name'"),
        (["up", "--name", "x", "--cni", "weave"], "--cni weave: choose one of"),
        (["up", "--name", "x", "--nodes", "0"], "--nodes 0"),
        (["up", "--name", "x", "--nodes", "many"], "'many' is not a number"),
        (["up", "--name", "x", "--family", "6"], "--family 6"),
        (["down", "--name", "nobody"], "no lab called 'nobody'"),
        (["status", "--lab", "nobody"], "no lab called 'nobody'"),
        (["exec", "--lab", "ONE", "node/node-z", "--", "true"], "no node 'node-z'"),
        (["exec", "--lab", "ONE", "pod/shop/nobody", "--", "true"], "no pod shop/nobody"),
        (["exec", "--lab", "ONE", "anywhere", "--", "true"], "expected node/NAME"),
        (["exec", "--lab", "ONE", "node/node-a"], "no command"),
        (["apply", "--lab", "ONE", "-f", "/nowhere.yaml"], "/nowhere.yaml: No such file"),
        (["up", "--name", "ONE"], "exists already"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_gets_one_clear_line_and_code_2(one_lab: Lab, arguments: list[str], says: str) -> None:
    """Whatever is wrong with the input is named, nothing is made, and the exit code is 2."""
    done = run("lab", *(one_lab.spec.name if word == "ONE" else word for word in arguments))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_whoever_is_not_root_is_told_so(tmp_path: Path) -> None:
    """A user without rights gets one line and code 2."""
    argv = ["setpriv", "--reuid", "65534", "--clear-groups", *KUBEREACH, "lab", "up", "--name", "x"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "must be run as root" in done.stderr


def test_a_deployment_rolls_out_and_back(one_lab: Lab) -> None:
    """Kubectl's rollout, scale and undo work against the lab's controllers."""
    manifest = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: roll, namespace: ops}
spec:
  replicas: 3
  selector: {matchLabels: {app: roll}}
  template:
    metadata: {labels: {app: roll}}
    spec: {containers: [{name: a, image: "one:1", ports: [{containerPort: 7001}]}]}
"""
    one_lab.kubectl("apply", "-f", "-", stdin=manifest)
    one_lab.kubectl("rollout", "status", "-n", "ops", "deployment/roll", "--timeout=20s")
    one_lab.kubectl("set", "image", "-n", "ops", "deployment/roll", "a=one:2")
    one_lab.kubectl("rollout", "status", "-n", "ops", "deployment/roll", "--timeout=20s")
    pods = [pod for pod in one_lab.objects("pods") if pod["metadata"]["labels"].get("app") == "roll"]
    running = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    assert {pod["spec"]["containers"][0]["image"] for pod in running} == {"one:2"}
    one_lab.kubectl("scale", "-n", "ops", "deployment/roll", "--replicas=1")

    def count() -> bool:
        return sum(pod.workload == "ops/roll" for pod in one_lab.pods()) == 1

    eventually(count, "one pod")
    one_lab.kubectl("delete", "-n", "ops", "deployment/roll")
    eventually(lambda: not [one for one in netns.names(one_lab.spec.name) if "roll" in one], "namespaces gone")


def test_a_pod_that_fits_no_node_says_why(one_lab: Lab) -> None:
    """A pod whose selector matches no node stays Pending, with the scheduler's condition and event."""
    manifest = """
apiVersion: v1
kind: Pod
metadata: {name: nowhere, namespace: ops}
spec: {nodeSelector: {disk: gold}, containers: [{name: a, image: x}]}
"""
    one_lab.kubectl("apply", "-f", "-", stdin=manifest)
    text = "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector."

    def refused() -> bool:
        pod = json.loads(one_lab.kubectl("get", "pod", "-n", "ops", "nowhere", "-o", "json"))
        conditions = pod["status"].get("conditions") or [{}]
        return pod["status"]["phase"] == "Pending" and conditions[0].get("message") == text

    eventually(refused, "condition")
    eventually(lambda: "FailedScheduling" in one_lab.kubectl("get", "events", "-n", "ops"), "event")
    one_lab.kubectl("delete", "pod", "-n", "ops", "nowhere")


def test_a_process_that_dies_is_started_again(one_lab: Lab) -> None:
    """A killed container process comes back with a higher restart count, at the same address."""
    pod = one_lab.pod("ops/metrics")
    box = next(
        json.loads(path.read_text())
        for path in (one_lab.plan.directory / "pods").glob("*/sandbox.json")
        if json.loads(path.read_text())["name"] == pod.name
    )
    os.kill(box["processes"]["metrics"][0], signal.SIGKILL)

    def restarted() -> bool:
        item = json.loads(one_lab.kubectl("get", "pod", "-n", "ops", pod.name, "-o", "json"))
        status = item["status"]["containerStatuses"][0]
        return status["restartCount"] >= 1 and status["ready"] and item["status"]["podIP"] == pod.ips[0]

    eventually(restarted, "restarted")


def test_a_listener_on_loopback_answers_nobody_else(one_lab: Lab) -> None:
    """`--listen TCP/127.0.0.1:PORT` makes "bound to loopback" and, for other ports, "nothing listens there"."""
    manifest = """
apiVersion: v1
kind: Pod
metadata: {name: shy, namespace: ops}
spec:
  containers:
    - {name: a, image: kubereach-lab, args: [--listen, "TCP/127.0.0.1:7100", --listen, "TCP/7101"]}
"""
    one_lab.kubectl("apply", "-f", "-", stdin=manifest)
    one_lab.kubectl("wait", "-n", "ops", "--for=condition=Ready", "pod/shy", "--timeout=10s")
    shy = next(pod for pod in one_lab.pods() if pod.name == "shy")
    place = one_lab.pod("ops/jumpbox").netns
    expected = {
        Probe(place, shy.ips[0], 7100): False,
        Probe(place, shy.ips[0], 7101): True,
        Probe(shy.netns, "127.0.0.1", 7100): True,
    }
    assert settle(expected) == []
    one_lab.kubectl("delete", "pod", "-n", "ops", "shy")
