"""`kubereach policy` as users call it: files in, results on stdout, one line on stderr where input is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.documents import FILE_LIMIT
from cli.policy import main
from tests.controller.policy.building import truth

Capture = pytest.CaptureFixture[str]

SHOP = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: frontend, namespace: shop}
spec:
  replicas: 3
  template:
    metadata: {labels: {app: frontend}}
    spec: {containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: payments, namespace: pay}
spec:
  template:
    metadata: {labels: {app: payments}}
    spec: {containers: [{name: c, ports: [{name: tls, containerPort: 8443}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: payments, namespace: pay}
spec: {selector: {app: payments}, clusterIP: 10.96.0.7, ports: [{port: 443, targetPort: tls}]}
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow-shop
  namespace: pay
spec:
  podSelector: {matchLabels: {app: payments}}
  ingress:
  - from:
    - namespaceSelector: {}
      podSelector: {matchLabels: {app: frontend}}
    ports:
    - port: 8443
"""
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, namespace: pay}
spec:
  rules: [{http: {paths: [{backend: {service: {name: payments, port: {number: 443}}}}]}}]
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Two workloads, a Service and a policy, in a directory and one below it."""
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "pay.yml").write_text(POLICY)
    return tmp_path


def rows(capture: Capture, key: str = "allowed") -> list[dict[str, Any]]:
    """Read the rows that the command printed."""
    found: list[dict[str, Any]] = json.loads(capture.readouterr().out)[key]
    return found


def test_the_relation_has_the_shape_of_the_contract(manifests: Path, capsys: Capture) -> None:
    """Between the workloads just the allowed port passes, and the row names the policy."""
    assert main(["-f", str(manifests), "-o", "json", "--by", "workload"]) == 0
    between = [row for row in rows(capsys) if row["source"].get("name") == "frontend" and "name" in row["destination"]]
    assert between == [
        {
            "source": {"kind": "Deployment", "namespace": "shop", "name": "frontend"},
            "destination": {"kind": "StatefulSet", "namespace": "pay", "name": "payments"},
            "protocol": "TCP",
            "ports": [[8443, 8443]],
            "because": ["NetworkPolicy pay/allow-shop"],
        }
    ]


def test_peers_are_pods_by_default(manifests: Path, capsys: Capture) -> None:
    """Workloads without pods give pods with an index, two at most where replicas are alike."""
    assert main(["-f", str(manifests), "-o", "json"]) == 0
    names = {row["source"].get("name") for row in rows(capsys)} - {None}
    assert names == {"frontend-0", "frontend-1", "payments-0"}


@pytest.mark.parametrize("form", ["table", "wide", "yaml"])
def test_other_forms_hold_the_same(manifests: Path, capsys: Capture, form: str) -> None:
    """Tables and YAML name the peers and the policy too."""
    assert main(["-f", str(manifests), "-o", form]) == 0
    out = capsys.readouterr().out
    assert "NetworkPolicy pay/allow-shop" in out
    assert "payments-0" in out


CASES = [(name, at) for name in ("npguard_np_v1.json",) for at in range(len(truth(name)))]


@pytest.mark.parametrize(("file", "at"), CASES, ids=[truth(name)[at]["name"] for name, at in CASES])
def test_the_command_gives_the_truth_tables(file: str, at: int, tmp_path: Path, capsys: Capture) -> None:
    """A table of another project comes out of the command's JSON, but for peers that it reads differently."""
    case = truth(file)[at]
    (tmp_path / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": case["objects"]}))
    argv = ["-f", str(tmp_path), "-o", "json", "--by", "workload", "--no-ip-blocks-select-pods"]
    assert main(argv) == 0
    # Host-network pods count as their node here, and pods that have ended are no peers.
    differently = {*case["peers_hostNetwork"], *case["peers_terminated"]}
    got = {
        (_name(row["source"]), _name(row["destination"]), row["protocol"]): row["ports"]
        for row in rows(capsys)
        if not differently & {_name(row["source"]), _name(row["destination"])}
    }
    expected = {
        (_oracle(row["src"]), _oracle(row["dst"]), protocol): ports
        for row in case["expected"]
        for protocol, ports in row["conns"].items()
        if not differently & {_oracle(row["src"]), _oracle(row["dst"])}
    }
    assert got == expected


def _name(peer: dict[str, str]) -> str:
    if peer["kind"] == "AddressRange":
        return f"{peer['first']}-{peer['last']}"
    return f"{peer['namespace']}/{peer['name']}[{peer['kind']}]"


def _oracle(peer: dict[str, Any]) -> str:
    return peer.get("workload") or "-".join(peer["ipRange"])


@pytest.mark.parametrize("at", [0, 25, 48], ids=str)
def test_why_agrees_with_the_points_of_the_truth_tables(at: int, tmp_path: Path, capsys: Capture) -> None:
    """Exit code 0 for a point that passes and 1 for one that does not."""
    case = truth("k8s_e2e_netpol.json")[at]
    (tmp_path / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": case["objects"]}))
    for source, destination, protocol, port, allowed in case["points"][:: max(1, len(case["points"]) // 12)]:
        words = ["why", source, destination, "--port", str(port), "--proto", protocol.lower(), "-f", str(tmp_path)]
        assert main(words) == (0 if allowed else 1)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["shop/frontend", "pay/payments-0", "--port", "8443"], 0, "because: NetworkPolicy pay/allow-shop ingress[0]"),
        (["shop/frontend-0", "svc/pay/payments:443"], 0, "allowed: shop/frontend-0 → pod/pay/payments-0, TCP 8443"),
        (["shop/frontend", "pay/payments", "--port", "80"], 1, "missing: pay/allow-shop allows TCP 8443"),
        (["203.0.113.9", "statefulset/pay/payments", "--port", "8443"], 1, "no pod that a selector matches"),
        (["shop/frontend", "pay/payments", "--proto", "icmp"], 3, "left open: NetworkPolicy leaves protocol ICMP"),
        (["shop/frontend", "10.96.0.7:443"], 3, "is a Service's address"),
    ],
    ids=["allowed", "service", "port", "outside", "icmp", "service-address"],
)
def test_why_says_which_rule_or_what_is_missing(
    manifests: Path, capsys: Capture, words: list[str], code: int, text: str
) -> None:
    """The exit code is the verdict and the words name the rule."""
    assert main(["why", *words, "-f", str(manifests)]) == code
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["shop/gone", "pay/payments", "--port", "1"], "shop/gone: no such pod or workload"),
        (["shop/frontend", "pay/payments"], "which port? Give --port"),
        (["shop/frontend", "svc/pay/payments:80"], "has no port TCP 80; its ports: TCP 443"),
        (["shop/frontend", "pay/payments:99999"], "port 99999 is not between 1 and 65535"),
        (["frontend", "pay/payments", "--port", "1"], "'frontend' is no peer"),
    ],
    ids=["pod", "no-port", "service-port", "range", "form"],
)
def test_a_question_that_cannot_be_asked_is_a_usage_error(
    manifests: Path, capsys: Capture, words: list[str], text: str
) -> None:
    """One line says what is wrong with the question."""
    assert main(["why", *words, "-f", str(manifests)]) == 2
    assert text in one_line(capsys)


def test_diff_says_what_a_change_opens_and_closes(manifests: Path, tmp_path: Path, capsys: Capture) -> None:
    """Adding a policy closes; taking it away opens just the same rows."""
    shop, policies = str(manifests / "shop.yaml"), str(manifests / "policies")
    assert main(["diff", "-f", shop, "-f", shop, policies, "-o", "json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert main(["diff", "-f", shop, policies, "-f", shop, "-o", "json"]) == 0
    back = json.loads(capsys.readouterr().out)
    assert there["opened"] == [] == back["closed"]
    assert {row["protocol"] for row in there["closed"]} == {"TCP", "UDP", "SCTP"}
    assert [row["ports"] for row in there["closed"]] == [row["ports"] for row in back["opened"]]
    assert main(["diff", "-f", shop]) == 2


def test_an_ingress_leads_through_its_service_to_pods(manifests: Path, capsys: Capture) -> None:
    """A controller of unknown place reaches a backend only where any pod of the cluster may."""
    (manifests / "ingress.yaml").write_text(INGRESS)
    assert main(["-f", str(manifests), "-o", "json"]) == 0
    assert rows(capsys, "ingress") == []
    (manifests / "policies" / "pay.yml").unlink()
    assert main(["-f", str(manifests), "-o", "json"]) == 0
    row = rows(capsys, "ingress")[0]
    assert (row["destination"]["name"], row["ports"]) == ("payments-0", [[8443, 8443]])
    assert "Ingress pay/shop" in row["because"]


def test_pods_of_a_cluster_take_the_place_of_their_workload(tmp_path: Path, capsys: Capture) -> None:
    """Where a dump has the pods, the template adds none, and the workload is the outermost that it has."""
    controlled = {"controller": True, "apiVersion": "apps/v1"}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}}
    objects = [
        {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": template}},
        {
            "kind": "ReplicaSet",
            "metadata": {"name": "web-1", "ownerReferences": [{**controlled, "kind": "Deployment", "name": "web"}]},
            "spec": {"template": template},
        },
        {
            "kind": "Pod",
            "metadata": {"name": "web-1-x", "ownerReferences": [{**controlled, "kind": "ReplicaSet", "name": "web-1"}]},
            "spec": {"containers": []},
        },
    ]
    whole = {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", **item} for item in objects]}
    (tmp_path / "dump.json").write_text(json.dumps(whole))
    names = {}
    for by in ("pod", "workload"):
        assert main(["-f", str(tmp_path), "-o", "json", "--by", by]) == 0
        names[by] = {(row["source"]["kind"], row["source"].get("name")) for row in rows(capsys)}
    assert names["pod"] == {("Pod", "web-1-x"), ("AddressRange", None)}
    assert names["workload"] == {("Deployment", "web"), ("AddressRange", None)}


BROKEN = {
    "cidr": (POLICY.replace("namespaceSelector: {}\n      podS", "ipBlock: {cidr: 10.0.0.0/33}\n    - podS"),
             "in.yaml:10:17: NetworkPolicy pay/allow-shop: spec.ingress[0].from[0].ipBlock.cidr: '10.0.0.0/33' is no"),
    "operator": (POLICY.replace("{matchLabels: {app: payments}}", "{matchExpressions: [{key: a, operator: Has}]}"),
                 "in.yaml:7:45: NetworkPolicy pay/allow-shop: spec.podSelector.matchExpressions[0].operator: unknown"),
    "port-name": (POLICY.replace("8443", "a-very-long-port-name"), "in.yaml:13:7: NetworkPolicy pay/allow-shop"),
    "duplicate": (f"{POLICY}---\n{POLICY}", "in.yaml:18:3: NetworkPolicy pay/allow-shop: metadata.name: the same"),
    "no-object": ("a: 1\n", "in.yaml:1:1: document: is no Kubernetes object: it has no kind"),
    "scalar": ("just words\n", "in.yaml:1:1: document: is no Kubernetes object: a string instead of a mapping"),
    "yaml": ("kind: [\n", "is no YAML"),
    "key-twice": ("kind: A\nkind: B\n", "in.yaml:2:1: is no YAML: key 'kind' twice"),
    "binary": ("kind: \x01\n", "in.yaml:1:1: is no YAML"),
    "deep": ("[" * 400_000, "in.yaml:1:501: is no YAML: nested too deeply"),
    "deep-blocks": ("- " * 100_000 + "a", "in.yaml:1:1001: is no YAML: nested too deeply"),
    "empty": ("# nothing\n", "no Kubernetes object found"),
    "misspelled": (POLICY.replace("ports:", "port:"),
                   "in.yaml:12:5: NetworkPolicy pay/allow-shop: spec.ingress[0].port: unknown field; did you mean"),
    "label": (POLICY.replace("{app: frontend}", "{app: front end}"), "in.yaml:11:35: NetworkPolicy pay/allow-shop"),
    "old-version": (POLICY.replace("networking.k8s.io/v1", "extensions/v1beta1"), "in.yaml:1:1: NetworkPolicy"),
    "mask": (POLICY.replace("namespaceSelector: {}\n      podS", "ipBlock: {cidr: 10.0.0.0/255.0.0.0}\n    - podS"),
             "'10.0.0.0/255.0.0.0' is no CIDR: its length must be a number from 0 to 32"),
    "template": ("metadata:\n  name: {{ .Values.name }}\n", "(a template? Render it first: helm template)"),
    "tab": ("kind: A\nmetadata:\n\tname: b\n", "in.yaml:3:1: is no YAML"),
    "merges": ("a0: &a0 {k: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(30)),
               "is no YAML: merges more than 10000 keys"),
    "aliases": ("a: &a\n  b: *a\n", "in.yaml:1:1: document: is no Kubernetes object"),
    "windows": (POLICY.replace("8443", "70000").replace("\n", "\r\n"), "in.yaml:13:7: NetworkPolicy pay/allow-shop"),
    "list": ("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod}]\n", "in.yaml:3:9: Pod: metadata.name"),
    "date": ("apiVersion: v1\nkind: Pod\nmetadata: {name: 2026-01-01}\n", "must be a string, not a date (quote it)"),
    "ingress": (f"{INGRESS.replace('[{http', '{http').replace('}]}}]', '}]}}')}---\n{SHOP}",
                "in.yaml:5:3: Ingress pay/shop"),
}  # fmt: skip


def one_line(capture: Capture) -> str:
    """Read standard error, which must be one line."""
    err = capture.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("text", "error"), BROKEN.values(), ids=BROKEN)
def test_broken_input_gives_one_line_with_file_and_position(
    text: str, error: str, tmp_path: Path, capsys: Capture
) -> None:
    """Whatever is wrong with a file, the answer is exit code 2 and one line that finds the place."""
    (tmp_path / "in.yaml").write_text(text)
    assert main(["-f", str(tmp_path / "in.yaml")]) == 2
    assert error in one_line(capsys)


def test_broken_json_gives_line_and_column(tmp_path: Path, capsys: Capture) -> None:
    """JSON has its own parser and its own positions, also for fields of an object."""
    (tmp_path / "in.json").write_text('{"kind":\n  nothing}')
    assert main(["-f", str(tmp_path / "in.json")]) == 2
    assert "in.json:2:3: is no JSON" in one_line(capsys)
    broken = yaml.safe_load(POLICY.replace("8443", "99999"))
    (tmp_path / "in.json").write_text(json.dumps(broken, indent="\t"))
    assert main(["-f", str(tmp_path / "in.json")]) == 2
    assert "in.json:28:7: NetworkPolicy" in one_line(capsys)


def test_json_comes_as_one_object_after_the_other(tmp_path: Path, capsys: Capture) -> None:
    """As kubectl and jq write it; errors of the second object have its lines, and no key stands twice."""
    pods = [json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}) for name in "ab"]
    for name in ("in.json", "pipe"):
        (tmp_path / name).write_text("\n".join(pods))
        assert main(["-f", str(tmp_path / name), "-o", "json"]) == 0
        assert {row["source"].get("name") for row in rows(capsys)} == {"a", "b", None}
    (tmp_path / "in.json").write_text(f"{pods[0]}\n\n  {pods[0]}")
    assert main(["-f", str(tmp_path / "in.json")]) == 2
    assert "in.json:3:52: Pod a: metadata.name: the same Pod stands already at" in one_line(capsys)
    (tmp_path / "in.json").write_text('{"kind": "Pod",\n "kind": "Node"}')
    assert main(["-f", str(tmp_path / "in.json")]) == 2
    assert "in.json:2:2: is no JSON: key 'kind' twice" in one_line(capsys)


def test_utf16_is_named(tmp_path: Path, capsys: Capture) -> None:
    """What a Windows shell writes by default is refused with the mend; a mark of UTF-8 is no error."""
    (tmp_path / "in.yaml").write_bytes(POLICY.encode("utf-16"))
    assert main(["-f", str(tmp_path / "in.yaml")]) == 2
    assert "in.yaml:1:1: is UTF-16 text; save it as UTF-8" in one_line(capsys)
    (tmp_path / "in.yaml").write_bytes(POLICY.encode("utf-8-sig"))
    assert main(["-f", str(tmp_path / "in.yaml")]) == 0


def test_policies_of_another_api_are_left_out_aloud(manifests: Path, capsys: Capture) -> None:
    """A kind may be called NetworkPolicy, or Service, in somebody else's API; of a policy one line says so."""
    other = POLICY.replace("networking.k8s.io/v1", "projectcalico.org/v3")
    knative = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: payments, namespace: pay}\n"
    (manifests / "other.yaml").write_text(f"{other}---\n{knative}")
    assert main(["-f", str(manifests)]) == 0
    assert "other.yaml:1:1: NetworkPolicy of projectcalico.org/v3 is not understood" in one_line(capsys)


def test_a_relation_that_nobody_could_read_is_not_written(tmp_path: Path, capsys: Capture) -> None:
    """Beyond some hundred peers the pairs are too many; a question for one pair is answered all the same."""
    text = "---\n".join(f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p{at}}}\n" for at in range(501))
    (tmp_path / "in.yaml").write_text(text)
    assert main(["-f", str(tmp_path)]) == 2
    assert "501 pods are more than the 500 whose relation is written out" in one_line(capsys)
    assert main(["why", "default/p1", "default/p2", "--port", "80", "-f", str(tmp_path)]) == 0


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path, capsys: Capture) -> None:
    """A file of 50 MB is no manifest; it is refused before it is parsed."""
    with (tmp_path / "big.yaml").open("wb") as stream:
        stream.truncate(50_000_000)
    assert FILE_LIMIT < 50_000_000
    assert main(["-f", str(tmp_path)]) == 2
    assert "big.yaml:1:1: file is larger than 32 MiB" in one_line(capsys)


def test_a_missing_file_is_named(capsys: Capture) -> None:
    """A path that is not there is a usage error."""
    assert main(["-f", "/nowhere/at.yaml"]) == 2
    assert "/nowhere/at.yaml:1:1: no such file or directory" in one_line(capsys)
