"""The embedded API server, used with the real kubectl, its validation on."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.embedded.apiserver_process import Server, namespace

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: kubereach-lab
        ports: [{containerPort: 80}, {containerPort: 81, name: x}]
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow, namespace: shop}
spec:
  podSelector: {}
  ingress: [{ports: [{port: 80}], from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop}
spec: {nodeName: node-a, containers: [{name: c, image: kubereach-lab}]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the manifest applied once."""
    running = Server(tmp_path_factory.mktemp("api"))
    running.start()
    namespace(running, "shop")
    code, text = running.kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert code == 0, text
    yield running
    running.kill()
    assert (running.folder / "log").read_text() == ""


def _deployment(server: Server) -> dict:  # type: ignore[type-arg]
    return json.loads(server.kubectl("get", "deploy", "web", "-n", "shop", "-o", "json")[1])


def test_apply_changes_what_differs_and_takes_away_what_is_gone(server: Server) -> None:
    """Client-side apply: unchanged when nothing changed; a removed port and variable vanish, others stay."""
    assert "deployment.apps/web unchanged" in server.kubectl("apply", "-f", "-", stdin=MANIFEST)[1]
    server.kubectl("label", "deploy", "web", "-n", "shop", "by=hand")
    changed = MANIFEST.replace(", {containerPort: 81, name: x}", "").replace('"2"', '"3"')
    changed = changed.replace('{name: A, value: "1"}, ', "")
    code, text = server.kubectl("apply", "-f", "-", stdin=changed)
    assert (code, "deployment.apps/web configured" in text) == (0, True), text
    item = _deployment(server)
    container = item["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert container["env"] == [{"name": "B", "value": "3"}]
    assert item["metadata"]["labels"] == {"by": "hand"}
    assert server.kubectl("apply", "-f", "-", stdin=MANIFEST)[0] == 0


def test_server_side_apply_makes_and_merges(server: Server) -> None:
    """`apply --server-side` creates, then merges lists by their keys."""
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s, namespace: shop}\ndata: {%s}\n"
    for data in ("a: '1'", "b: '2'"):
        code, text = server.kubectl("apply", "--server-side", "-f", "-", stdin=manifest % data)
        assert code == 0, text
    assert json.loads(server.kubectl("get", "cm", "s", "-n", "shop", "-o", "json")[1])["data"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param("get pods -n shop", ["NAME", "READY", "STATUS", "RESTARTS", "AGE"], id="pods"),
        pytest.param("get pods -n shop -o wide", ["NODE", "NOMINATED NODE", "node-a", "Pending"], id="wide"),
        pytest.param("get deploy -n shop", ["UP-TO-DATE", "AVAILABLE", "0/2"], id="deployments"),
        pytest.param("get svc -A", ["CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "NodePort"], id="services"),
        pytest.param("get netpol -n shop", ["POD-SELECTOR"], id="policies"),
        pytest.param("get endpointslices", ["ADDRESSTYPE", "10.77.1.10"], id="slices"),
        pytest.param("get all -n shop", ["pod/p", "service/web", "deployment.apps/web"], id="all"),
        pytest.param("get pods -n shop -l app=none", ["No resources found"], id="none"),
        pytest.param("get svc kubernetes -o jsonpath={.spec.clusterIP}", ["10.96.0.1"], id="jsonpath"),
        pytest.param("get svc kubernetes -o yaml", ["kind: Service"], id="yaml"),
        pytest.param("describe deploy web -n shop", ["desired", "StrategyType:"], id="describe deployment"),
        pytest.param("describe pod p -n shop", ["Node:", "node-a/"], id="describe pod"),
        pytest.param("describe svc web -n shop", ["NodePort:", "TargetPort:"], id="describe service"),
        pytest.param("describe netpol allow -n shop", ["Except: 10.1.0.0/16"], id="describe policy"),
        pytest.param("describe ns shop", ["Status:", "Active"], id="describe namespace"),
        pytest.param("events -n shop", ["No events found"], id="events"),
        pytest.param("api-resources", ["networkpolicies", "netpol", "NetworkPolicy"], id="api-resources"),
        pytest.param("version", ["Server Version: v1.32"], id="version"),
        pytest.param("explain networkpolicy.spec.ingress.ports", ["endPort"], id="explain"),
        pytest.param("auth can-i create pods", ["yes"], id="can-i"),
        pytest.param("auth whoami", ["admin", "system:masters"], id="whoami"),
        pytest.param("create token default -n shop", ["eyJ"], id="token"),
        pytest.param("create deployment z --image=i --replicas=0 -n shop", ["z created"], id="protobuf body"),
        pytest.param("run r --image=i -n shop", ["pod/r created"], id="run"),
        pytest.param("expose deployment web --name=w2 --port=9 -n shop", ["exposed"], id="expose"),
        pytest.param("scale deploy web -n shop --replicas=3", ["scaled"], id="scale"),
        pytest.param("label deploy web -n shop a=b", ["labeled"], id="label"),
        pytest.param("annotate deploy web -n shop a=b", ["annotated"], id="annotate"),
        pytest.param("set image deploy/web c=other -n shop", ["image updated"], id="set image"),
        pytest.param("delete pod p -n shop --wait=false", ['pod "p" deleted'], id="delete"),
    ],
)
def test_a_command_says_what_people_expect(server: Server, arguments: str, expected: list[str]) -> None:
    """The command succeeds and its words are there."""
    code, text = server.kubectl(*arguments.split())
    assert code == 0, text
    assert all(word in text for word in expected), text


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        pytest.param("json", '[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "new"}]'),
        pytest.param("merge", '{"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "new"}]}}}}'),
        pytest.param("strategic", '{"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "new"}]}}}}'),
    ],
)
def test_each_type_of_patch_does_its_own(server: Server, kind: str, patch: str) -> None:
    """JSON and strategic patches leave the rest of the container, a merge patch replaces the list."""
    server.kubectl("apply", "-f", "-", stdin=MANIFEST)
    code, text = server.kubectl("patch", "deploy", "web", "-n", "shop", f"--type={kind}", "-p", patch)
    assert code == 0, text
    container = _deployment(server)["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "new"
    assert ("env" in container) is (kind != "merge")


def test_edit_writes_back_what_the_editor_left(server: Server) -> None:
    """`kubectl edit` with an editor that changes the replicas."""
    server.kubectl("scale", "deploy", "web", "-n", "shop", "--replicas=2")
    editor = {"EDITOR": "sed -i 's/replicas: 2/replicas: 6/'"}
    code, text = server.kubectl("edit", "deploy", "web", "-n", "shop", env=editor)
    assert code == 0, text
    assert _deployment(server)["spec"]["replicas"] == 6


def test_validation_names_the_mistyped_field(server: Server) -> None:
    """Validation is on, and fails where it should."""
    code, text = server.kubectl("apply", "-f", "-", stdin=MANIFEST.replace("replicas", "replicsa"))
    assert code == 1
    assert 'unknown field "spec.replicsa"' in text


def test_rollout_status_waits_until_the_status_says_so(server: Server) -> None:
    """It watches, and ends when the Deployment's status has caught up."""
    server.kubectl("create", "deployment", "roll", "--image=i", "-n", "shop")
    environment = {"KUBECONFIG": str(server.kubeconfig()), "HOME": str(server.folder), "PATH": "/usr/bin:/bin"}
    command = ["kubectl", "rollout", "status", "deploy/roll", "-n", "shop", "--timeout=30s"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert "Waiting" in waiting.stdout.readline()
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
        path = "/apis/apps/v1/namespaces/shop/deployments/roll/status"
        body = {"status": {"observedGeneration": 1, **counts}}
        assert server.call("PATCH", path, body, content="application/merge-patch+json")[0] == 200
        assert "successfully rolled out" in waiting.stdout.read()
        assert waiting.wait(30) == 0


def test_get_w_shows_changes_as_rows(server: Server) -> None:
    """`kubectl get -w` prints a row for each change."""
    environment = {"KUBECONFIG": str(server.kubeconfig()), "HOME": str(server.folder), "PATH": "/usr/bin:/bin"}
    command = ["kubectl", "get", "cm", "-n", "kube-public", "-w"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().split() == ["NAME", "DATA", "AGE"]
        assert watching.stdout.readline().startswith("kube-root-ca.crt")
        server.kubectl("create", "cm", "fresh", "--from-literal=a=b", "-n", "kube-public")
        assert watching.stdout.readline().split()[:2] == ["fresh", "1"]
        watching.terminate()


def test_impersonation_asks_for_the_other_user(server: Server) -> None:
    """`--as` acts as another, who may less."""
    code, text = server.kubectl("auth", "can-i", "list", "pods", "--as", "bob")
    assert (code, text.strip()) == (1, "no")
