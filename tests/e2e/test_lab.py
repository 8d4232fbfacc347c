"""A lab with a real Kubernetes comes up, stays apart from all else, and goes away whole, whatever died before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import api, netns
from lab.kubernetes import cgroups, images, mounts
from lab.spec import LabSpec, lab_directory
from lab.state import ProcessId, load_state
from lab.teardown import exists, members, namespaces_of
from tests.e2e.conftest import COMBINATIONS
from tests.lab.labs import DNS, Lab, Probe, eventually, settle

KUBEREACH = [sys.executable, "-m", "cli.main"]
# Where containerd, kubelet, flannel and network plugins write on a machine that is a node.
HOST_PLACES = ("/run/containerd", "/run/flannel", "/opt/cni", "/var/lib/cni", "/var/lib/kubelet", "/var/log/pods")
BACK_S = 60.0


def real(name: str, **choices: object) -> LabSpec:
    """A small lab with a real Kubernetes."""
    return LabSpec(name, **{"nodes": 1, "control_plane": "kubernetes"} | choices)  # type: ignore[arg-type]


def remains(name: str) -> list[str]:
    """Everything of a lab that is on this machine."""
    spaces = namespaces_of(name)
    found = [f"namespace {one}" for one in spaces] + [f"process {pid}" for pid in members(name, spaces)]
    found += [str(tree) for tree in cgroups.subtrees(name)]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"/labs/{name}/" in line]
    return found + ([str(lab_directory(name))] if lab_directory(name).exists() else [])


def machine() -> dict[str, object]:
    """What a node's daemons would change, were the machine their node."""
    settings: dict[str, object] = {
        name: Path(f"/proc/sys/{name}").read_text()
        for name in (*mounts.KUBELET_SETTINGS, "net/netfilter/nf_conntrack_max", "net/ipv4/ip_forward")
    }
    places = {place: sorted(map(str, Path(place).rglob("*"))) for place in HOST_PLACES}
    rules = {name: netns.run_sync(None, [name]).stdout.count("KUBE-") for name in ("iptables-save", "ip6tables-save")}
    return settings | places | rules


@pytest.fixture
def name(built: None) -> Iterator[str]:
    """The name of a lab that is taken away after the test, whatever is left of it."""
    chosen = f"y{os.getpid()}"
    yield chosen
    if exists(chosen):
        api.down(chosen)


def run(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([*KUBEREACH, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_lab_taken_away_leaves_nothing_and_changes_nothing(name: str) -> None:
    """After `down` there is no namespace, process, mount, control group or file, and the machine is as before."""
    before = machine()
    api.up(real(name), lambda _text: None, agents=False)
    assert machine() == before
    assert len(remains(name)) > 10
    api.down(name)
    assert remains(name) == []
    assert machine() == before


@pytest.mark.parametrize("service", ["supervisor", "containerd/node-a", "shim"])
def test_a_lab_whose_parts_were_killed_leaves_nothing(name: str, service: str) -> None:
    """`down` does not need any process of the lab to be alive."""
    api.up(real(name, family="4"), lambda _text: None, agents=False, sample=False)
    state = load_state(name)
    assert state is not None
    if service == "shim":
        victims = [pid for pid in members(name, []) if "containerd-shim" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(victims) > 1
    else:
        victims = [state.supervisor.pid if service == "supervisor" else state.processes[service].pid]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    api.down(name)
    assert remains(name) == []


SERVICES = ["kube-apiserver", "etcd", "containerd/node-b", "kubelet/node-b", "kube-proxy/node-b", "flannel/node-b"]


def _process(lab: Lab, service: str) -> ProcessId | None:
    state = load_state(lab.spec.name)
    assert state is not None
    return state.processes.get(service)


@pytest.mark.parametrize("service", [*SERVICES, "controller-manager", "scheduler", "surroundings", "policy"])
def test_a_service_that_is_killed_comes_back(lab: Lab, service: str) -> None:
    """The supervisor starts again what dies, in the same node's mounts; no pod and no answer is lost by it."""
    before = {pod.name: pod for pod in lab.pods()}
    victim = _process(lab, service)
    assert victim is not None
    os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: _process(lab, service) not in (None, victim), f"{service} runs again", BACK_S)

    def same() -> bool:
        try:
            return {pod.name: pod for pod in lab.pods()} == before
        except (netns.NetnsError, ValueError):  # the API server is not back yet
            return False

    eventually(same, "the same pods", BACK_S)
    jumpbox, metrics = lab.pod("ops/jumpbox"), lab.pod("ops/metrics")
    probes = [Probe(jumpbox.netns, metrics.ips[0], 9090), Probe(jumpbox.netns, lab.plan.outside_ipv4, 80)]
    assert settle(dict.fromkeys(probes, True)) == []


def test_nodes_see_their_own_files_and_one_another_s_not(lab: Lab) -> None:
    """On a node there are its name, its own pods' namespaces and network configuration; nothing of another node."""
    seen = {}
    for node in lab.plan.nodes[:2]:
        script = "hostname; cat /run/flannel/subnet.env; ls /etc/cni/net.d /opt/cni/bin; ls /run/netns"
        said = run("lab", "exec", "--lab", lab.spec.name, f"node/{node.name}", "--", "sh", "-c", script).stdout
        assert said.startswith(f"{node.name}\n")
        assert f"FLANNEL_SUBNET={node.pod_cidr4.replace('.0/24', '.1/24')}" in said
        assert {"10-flannel.conflist", "flannel", "bridge", "host-local", "loopback", "portmap"} <= set(said.split())
        seen[node.name] = {word for word in said.split() if word.startswith("cni-")}
    first, second = seen.values()
    assert first
    assert second
    assert not first & second


def test_status_and_exec_are_those_of_every_lab(lab: Lab) -> None:
    """The same fields and places as in an embedded lab; only the control plane's name differs."""
    value = json.loads(run("lab", "status", "--lab", lab.spec.name, "-o", "json").stdout)
    assert (value["state"], value["control_plane"], value["cni"]) == ("up", "kubernetes", lab.spec.cni)
    assert [node["name"] for node in value["nodes"]] == ["node-a", "node-b", "node-c", "node-d"]
    assert {"etcd", "kube-apiserver", "kubelet/node-a", "policy", "outside"} <= value["pids"]["services"].keys()
    nodes = {node["metadata"]["name"]: node for node in lab.objects("nodes")}
    for node in lab.plan.nodes:
        assert nodes[node.name]["spec"]["podCIDRs"] == node.pod_cidrs
        assert nodes[node.name]["metadata"]["labels"]["topology.kubernetes.io/zone"] == node.zone
    pod = lab.pod("shop/cart")
    places = {"router": "203.0.113.1", "outside": "203.0.113.10", "control": "10.77.1.10", "node/node-a": "10.77.1.11"}
    for place, shows in {**places, f"pod/{pod.namespace}/{pod.name}": pod.ips[0]}.items():
        assert shows in run("lab", "exec", "--lab", lab.spec.name, place, "--", "ip", "-4", "address").stdout


def test_objects_are_applied_and_deleted_and_a_pod_s_namespace_has_a_name(lab: Lab, tmp_path: Path) -> None:
    """`lab apply` and `delete` work; an image that was loaded runs, and its namespace goes with its pod."""
    archive = tmp_path / "own.tar"
    layers = (images.pack(images.python_layer()), images.pack({"/answer.py": images.REPOSITORY / "lab/answer.py"}))
    images.write_archive(archive, [images.Image("own:1", layers, (images.INTERPRETER, "-SEs", "/answer.py"))])
    api.load_image(lab.spec.name, archive)
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: fresh, namespace: ops}, spec: {nodeName: node-b, "
        "terminationGracePeriodSeconds: 1, containers: [{name: a, image: 'own:1', args: [--listen, TCP/7000]}]}}"
    )
    applied = run("lab", "apply", "--lab", lab.spec.name, "-f", str(manifest))
    assert applied.stdout == "pod/fresh applied\n"
    lab.kubectl("wait", "-n", "ops", "--for=condition=Ready", "pod/fresh", "--timeout=60s", timeout_s=70.0)
    fresh = next(pod for pod in lab.pods() if pod.name == "fresh")
    assert settle({Probe(lab.pod("ops/jumpbox").netns, address, 7000): True for address in fresh.ips}) == []
    run("lab", "delete", "--lab", lab.spec.name, "-f", str(manifest))
    eventually(lambda: not netns.exists(fresh.netns), "namespace gone", BACK_S)


def test_kubectl_reads_logs_and_runs_commands(lab: Lab) -> None:
    """The API server reaches every kubelet: `kubectl logs` and `exec`."""
    pod = lab.pod(DNS)
    assert "CoreDNS-" in lab.kubectl("logs", "-n", pod.namespace, pod.name)
    cart = lab.pod("shop/cart")
    command = ["exec", "-n", cart.namespace, cart.name, "--", images.INTERPRETER, "-c", "print(6 * 7)"]
    assert lab.kubectl(*command) == "42\n"


def test_labs_live_side_by_side(lab: Lab, name: str) -> None:
    """Another real lab and an embedded one with the same addresses neither disturb the first nor go with it."""
    embedded = f"{name}-e"
    api.up(real(name, family="4", proxy="nftables"), lambda _text: None, agents=False, sample=False)
    api.up(LabSpec(embedded, nodes=1), lambda _text: None, agents=False)
    try:
        jumpbox, metrics = lab.pod("ops/jumpbox"), lab.pod("ops/metrics")
        assert settle({Probe(jumpbox.netns, metrics.ips[0], 9090): True}) == []
    finally:
        api.down(name)
        assert exists(embedded)
        api.down(embedded)
    assert remains(name) == []
    assert settle({Probe(jumpbox.netns, metrics.ips[0], 9090): True}) == []


@pytest.mark.parametrize("kind", COMBINATIONS, ids=lambda kind: kind[0])
def test_without_ipv6_there_is_none(name: str, kind: tuple[str, str]) -> None:
    """`--family 4` makes a cluster of IPv4 alone, whose pods have names, Services and a way out."""
    spec = real(name, nodes=2, family="4", cni=kind[0], proxy=kind[1])
    small = Lab(spec)
    assert all(len(pod.ips) == 1 for pod in small.pods())
    jumpbox, metrics = small.pod("ops/jumpbox"), small.pod("ops/metrics")
    service = json.loads(small.kubectl("get", "service", "-n", "ops", "metrics", "-o", "json"))["spec"]
    assert service["ipFamilies"] == ["IPv4"]
    wanted = [Probe(jumpbox.netns, address, 9090) for address in (metrics.ips[0], service["clusterIP"])]
    assert settle(dict.fromkeys([*wanted, Probe(jumpbox.netns, small.plan.outside_ipv4, 80)], True)) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--cni", "calico"], "with --kubernetes choose one of"), (["--proxy", "ipvs"], "--proxy ipvs: choose one of")],
    ids=["calico", "ipvs"],
)
def test_bad_choices_are_named(arguments: list[str], says: str) -> None:
    """What a real Kubernetes here cannot have is refused in one line, with code 2."""
    done = run("lab", "up", "--kubernetes", "--name", "x", *arguments)
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_without_go_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    """Where nothing is built yet and there is no Go, one line says so, and nothing is left of the lab."""
    go = shutil.which("go")
    assert go is not None
    hide = f'mount -t tmpfs none {Path(go).resolve().parent} && exec "$@"'
    argv = [
        "unshare",
        "--mount",
        "sh",
        "-ec",
        hide,
        "hidden",
        *KUBEREACH,
        "lab",
        "up",
        "--kubernetes",
        "--name",
        "nogo",
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "KUBEREACH_CACHE": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 2
    assert "needs Go" in done.stderr
    assert "install Go" in done.stderr
    assert not exists("nogo")
