"""The installation as data: valid, tidy, and with nothing to spare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.app import parse as parse_agent
from agent.endpoint import main as endpoint
from controller.cluster.state import ENDPOINT_LABELS
from controller.options import parse as parse_controller
from model.ports import CONTROLLER_PLAIN_PORT, CONTROLLER_PORT, ENDPOINT_PORT, HOST_ECHO_PORT, RELAY_PORT
from tests.daemonset.manifests import DAEMONSET, ROOT, Object, one, pod_specs, rendered

BIN = Path(sys.executable).parent
HOST_NETWORK = {"agent", "controller"}


def run(*argv: str, stdin: str | None = None) -> str:
    """A tool that has to be content; what it says if it is not."""
    done = subprocess.run([*argv], input=stdin, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_every_object_is_one_of_kubernetes(version: str, tmp_path: Path) -> None:
    """Known kinds, no field that does not exist, in the oldest and the newest version."""
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(rendered().values()))
    out = run(str(BIN / "kubernetes-validate"), "--strict", "-k", version, str(path))
    assert out.count("passed") == len(rendered()) or out == ""


def test_a_field_that_does_not_exist_is_found(tmp_path: Path) -> None:
    """The check above can fail."""
    path = tmp_path / "wrong.yaml"
    spec = one("DaemonSet", "kubereach-agent")
    wrong = spec | {"spec": spec["spec"] | {"hostNetwok": True}}
    path.write_text(yaml.safe_dump(wrong))
    tool = [str(BIN / "kubernetes-validate"), "--strict", "-k", "1.34", str(path)]
    assert subprocess.run(tool, capture_output=True, check=False).returncode != 0


def test_yaml_is_tidy() -> None:
    """Yamllint has nothing to say."""
    run(str(BIN / "yamllint"), "--strict", "daemonset")


def test_the_dockerfile_is_tidy() -> None:
    """Hadolint has nothing to say."""
    run(str(BIN / "hadolint"), "Dockerfile")


def test_scripts_parse() -> None:
    """Shell scripts of the installation have no slip in syntax."""
    for name in ("image", "helm"):
        run("bash", "-n", f"scripts/{name}")


def container(spec: Object) -> Object:
    """The only container."""
    (found,) = spec["containers"]
    return dict(found)


def test_all_pods_keep_to_the_restricted_profile_but_where_they_cannot() -> None:
    """Pod Security "restricted", rule by rule; what departs from it is listed here, and nothing else departs."""
    departures = set()
    for name, spec in pod_specs().items():
        one_ = container(spec)
        pod, own = spec.get("securityContext", {}), one_["securityContext"]
        found = {
            "hostNetwork": spec.get("hostNetwork", False),
            "hostPID": spec.get("hostPID", False),
            "hostIPC": spec.get("hostIPC", False),
            "hostPath": any("hostPath" in volume for volume in spec.get("volumes", ())),
            "privileged": own.get("privileged", False),
            "escalation": own.get("allowPrivilegeEscalation") is not False,
            "root": not pod.get("runAsNonRoot") or own.get("runAsUser") == 0,
            "seccomp": pod.get("seccompProfile") != {"type": "RuntimeDefault"},
            "apparmor": own.get("appArmorProfile", {}).get("type") == "Unconfined",
            "keeps capabilities": own["capabilities"]["drop"] != ["ALL"],
            "adds capabilities": bool(own["capabilities"].get("add")),
            "writable root": own.get("readOnlyRootFilesystem") is not True,
            "service links": spec.get("enableServiceLinks") is not False,
        }
        departures |= {(name, what) for what, departs in found.items() if departs}
    assert departures == {
        ("controller", "hostNetwork"),
        *(("agent", what) for what in ("hostNetwork", "hostPID", "hostPath", "root", "apparmor", "adds capabilities")),
    }


def test_only_the_controller_may_speak_to_the_api() -> None:
    """Agent and endpoint get no token of the API's; the agent's own token is for the controller alone."""
    specs = pod_specs()
    assert [name for name, spec in specs.items() if spec.get("automountServiceAccountToken")] == ["controller"]
    bound = {subject["name"] for item in rendered().values() for subject in item.get("subjects") or ()}
    assert not bound & {"kubereach-agent", "kubereach-endpoint"}
    (identity,) = (volume for volume in specs["agent"]["volumes"] if volume["name"] == "identity")
    token = identity["projected"]["sources"][0]["serviceAccountToken"]
    assert token["audience"] == "kubereach"


def test_the_way_of_a_report_leans_on_nothing_that_is_measured() -> None:
    """Host network and the node's resolver at both ends, every taint tolerated, and no API for the agent to ask."""
    agent, controller = pod_specs()["agent"], pod_specs()["controller"]
    for spec in (agent, controller):
        assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "Default")
    assert agent["tolerations"] == [{"operator": "Exists"}]
    assert agent["priorityClassName"] == "system-node-critical"
    assert "livenessProbe" not in container(agent)
    assert "initContainers" not in agent


def test_host_folders_are_seen_and_not_written() -> None:
    """Every mount of the host's is read-only; namespaces that come later are seen."""
    agent = pod_specs()["agent"]
    from_host = {volume["name"] for volume in agent["volumes"] if "hostPath" in volume}
    mounts = {mount["name"]: mount for mount in container(agent)["volumeMounts"]}
    assert {name: mounts[name].get("readOnly") for name in from_host} == dict.fromkeys(from_host, True)
    assert mounts["netns"]["mountPropagation"] == "HostToContainer"


def filled(args: list[str]) -> list[str]:
    """Arguments after the command's name, with what the kubelet puts in."""
    given = {"$(NODE)": "node-a", "$(ADDRESSES)": "10.77.1.11,fd77:1::11", "$(NAMESPACE)": "kubereach"}
    for name, value in given.items():
        args = [word.replace(name, value) for word in args]
    return args[1:]


def test_arguments_are_understood_by_those_they_are_for() -> None:
    """The real parsers take them, and every variable is set."""
    specs = pod_specs()
    agent = parse_agent(filled(container(specs["agent"])["args"]))
    assert (agent.node, agent.addresses) == ("node-a", ("10.77.1.11", "fd77:1::11"))
    assert (agent.relay_port, agent.echo_port) == (RELAY_PORT, HOST_ECHO_PORT)
    controller = parse_controller(filled(container(specs["controller"])["args"]))
    assert controller.introduction is not None
    assert (controller.introduction.config_map, controller.introduction.secret) == (
        "kubereach-controller",
        "kubereach-tls",
    )
    assert container(specs["endpoint"])["args"] == [endpoint.__module__.rpartition(".")[2]]
    for spec in specs.values():
        named = {entry["name"] for entry in container(spec).get("env", ())}
        used = {word.partition("$(")[2].partition(")")[0] for word in container(spec)["args"] if "$(" in word}
        assert named == used


def test_ports_are_those_of_the_code() -> None:
    """What is declared is what is listened on, by name and number."""
    ports = {
        name: {(port["containerPort"], port["protocol"]) for port in container(spec)["ports"]}
        for name, spec in pod_specs().items()
    }
    assert ports == {
        "agent": {(HOST_ECHO_PORT, "TCP"), (HOST_ECHO_PORT, "UDP"), (RELAY_PORT, "TCP")},
        "controller": {(CONTROLLER_PORT, "TCP")},
        "endpoint": {(ENDPOINT_PORT, "TCP"), (ENDPOINT_PORT, "UDP")},
    }
    probes = [
        container(pod_specs()["controller"])[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    ]
    assert {(probe["host"], probe["port"]) for probe in probes} == {("127.0.0.1", CONTROLLER_PLAIN_PORT)}
    for name in HOST_NETWORK:
        assert all(port["hostPort"] == port["containerPort"] for port in container(pod_specs()[name])["ports"])


def test_labels_are_those_that_the_controller_looks_for() -> None:
    """Endpoints are found by label; every object carries the name, so that all of it can be listed."""
    endpoint_labels = one("DaemonSet", "kubereach-endpoint")["spec"]["template"]["metadata"]["labels"]
    assert ENDPOINT_LABELS.items() <= endpoint_labels.items()
    assert {item["metadata"]["labels"]["app.kubernetes.io/name"] for item in rendered().values()} == {"kubereach"}


def test_every_reference_leads_somewhere() -> None:
    """Accounts, roles, selectors and volumes name objects of the installation."""
    names = {(kind, name) for kind, _, name in rendered()}
    for item in rendered().values():
        if "roleRef" in item:
            assert (item["roleRef"]["kind"], item["roleRef"]["name"]) in names
            assert all((subject["kind"], subject["name"]) in names for subject in item["subjects"])
    for spec in pod_specs().values():
        assert ("ServiceAccount", spec["serviceAccountName"]) in names
        mounted = {mount["name"] for mount in container(spec).get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in spec.get("volumes", ())}
    for kind, name, path in (
        ("Service", "kubereach-controller", ()),
        ("PodDisruptionBudget", "kubereach-controller", ("matchLabels",)),
    ):
        selector: Any = one(kind, name)["spec"]["selector"]
        for step in path:
            selector = selector[step]
        labels = one("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= labels.items()


def test_every_capability_has_its_reason() -> None:
    """In a comment, right above it."""
    lines = (DAEMONSET / "agent.yaml").read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if line.strip() == "add:") + 1
    added = pod_specs()["agent"]["containers"][0]["securityContext"]["capabilities"]["add"]
    for name in added:
        at = next(at for at, line in enumerate(lines) if at >= start and line.strip() == f"- {name}")
        assert lines[at - 1].strip().startswith("# ")


def test_requests_and_limits_are_set() -> None:
    """Each container asks for CPU and memory and has an upper bound of memory; none of CPU, which would slow it."""
    for spec in pod_specs().values():
        resources = container(spec)["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        assert set(resources["limits"]) == {"memory"}
