"""What the embedded API server refuses: each wrong object or request with its status, and the field at fault."""

from typing import Any

import pytest

from tests.lab.embedded.apiserver_process import Server, pod


def _policy(**spec: Any) -> tuple[str, Any]:
    return "/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies", {"podSelector": {}, **spec}


@pytest.mark.parametrize(
    ("path", "spec", "field"),
    [
        pytest.param(*_policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}]), "ipBlock.cidr", id="cidr"),
        pytest.param(
            *_policy(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]),
            "ipBlock.except[0]",
            id="except outside",
        ),
        pytest.param(*_policy(ingress=[{"ports": [{"port": 70000}]}]), "ports[0].port", id="port"),
        pytest.param(*_policy(ingress=[{"ports": [{"port": 9, "endPort": 8}]}]), "endPort", id="endPort"),
        pytest.param(*_policy(ingress=[{"ports": [{"protocol": "ICMP"}]}]), "ports[0].protocol", id="protocol"),
        pytest.param(
            *_policy(podSelector={"matchExpressions": [{"key": "a", "operator": "Is", "values": ["b"]}]}),
            "spec.podSelector.matchExpressions[0].operator",
            id="operator",
        ),
        pytest.param("/api/v1/namespaces/{ns}/pods", {"containers": []}, "spec.containers", id="no container"),
        pytest.param(
            "/api/v1/namespaces/{ns}/pods",
            {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 0}]}]},
            "spec.containers[0].ports[0].containerPort",
            id="containerPort",
        ),
        pytest.param("/api/v1/namespaces/{ns}/services", {"selector": {}}, "spec.ports", id="service without ports"),
        pytest.param(
            "/api/v1/namespaces/{ns}/services",
            {"clusterIP": "10.1.2.3", "ports": [{"port": 1}]},
            "spec.clusterIP",
            id="foreign clusterIP",
        ),
        pytest.param(
            "/apis/apps/v1/namespaces/{ns}/deployments",
            {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": pod("x")["spec"]}},
            "spec.template.metadata.labels",
            id="selector beside the template",
        ),
    ],
)
def test_a_bad_object_is_refused_and_the_field_is_named(
    server: Server, ns: str, path: str, spec: dict[str, Any], field: str
) -> None:
    """422, reason Invalid, a cause that names the field; and nothing is kept."""
    status, body = server.call("POST", path.format(ns=ns), {"metadata": {"name": "bad"}, "spec": spec})
    assert (status, body["reason"], body["kind"]) == (422, "Invalid", "Status")
    assert any(field in cause["field"] for cause in body["details"]["causes"]), body
    assert server.call("GET", path.format(ns=ns) + "/bad")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("GET", "/apis/apps/v1/deploymints", None, 404, id="unknown kind"),
        pytest.param("GET", "/apis/foo/v1/bars", None, 404, id="unknown group"),
        pytest.param("GET", "/api/v1/namespaces/default/pods/none", None, 404, id="no such pod"),
        pytest.param("GET", "/api/v1/pods?fieldSelector=spec.colour%3Dred", None, 400, id="unknown field"),
        pytest.param("GET", "/api/v1/pods?labelSelector=a%20in%20(", None, 400, id="label selector"),
        pytest.param("GET", "/api/v1/pods?watch=1&resourceVersion=x", None, 400, id="version"),
        pytest.param("GET", "/api/v1/pods?watch=1&sendInitialEvents=true", None, 422, id="sendInitialEvents"),
        pytest.param("POST", "/api/v1/namespaces", b"{", 400, id="no JSON"),
        pytest.param("POST", "/api/v1/namespaces", b"[]", 400, id="no object"),
        pytest.param("POST", "/api/v1/namespaces", b"[" * 100_000, 400, id="nested too deeply"),
        pytest.param("POST", "/api/v1/namespaces", {"metadata": {"name": 7}}, 400, id="wrong type"),
        pytest.param("POST", "/api/v1/namespaces", {"metadata": {"name": "A_B"}}, 422, id="bad name"),
        pytest.param("POST", "/api/v1/namespaces", {"kind": "Pod", "metadata": {"name": "a"}}, 400, id="other kind"),
        pytest.param("POST", "/api/v1/namespaces/none/configmaps", {"metadata": {"name": "a"}}, 404, id="namespace"),
        pytest.param("POST", "/api/v1/namespaces", {"metadata": {"name": "default"}}, 409, id="exists"),
        pytest.param("POST", "/api/v1/namespaces", b"x" * (3 * 1024 * 1024 + 1), 413, id="too big"),
        pytest.param("PUT", "/api/v1/namespaces/default", {"metadata": {"resourceVersion": "9"}}, 409, id="conflict"),
        pytest.param("DELETE", "/api/v1/namespaces/default?gracePeriodSeconds=-1", None, 400, id="grace"),
        pytest.param("OPTIONS", "/api/v1/pods", None, 405, id="method"),
    ],
)
def test_a_wrong_request_has_its_status(server: Server, method: str, path: str, body: Any, status: int) -> None:
    """Each wrong request is answered with its own code and a Status object, and the server lives on."""
    got, answer = server.call(method, path, body)
    assert (got, answer["code"], answer["status"]) == (status, status, "Failure")
    assert server.call("GET", "/readyz", token=None)[0] == 200


def test_strict_field_validation_names_the_unknown_field(server: Server, ns: str) -> None:
    """A mistyped field is refused where the client asks for it, else dropped."""
    path = f"/api/v1/namespaces/{ns}/pods"
    status, body = server.call("POST", f"{path}?fieldValidation=Strict", pod("a", hostNetwok=True))
    assert status == 400
    assert 'unknown field "spec.hostNetwok"' in body["message"]
    status, body = server.call("POST", path, pod("a", hostNetwok=True))
    assert status == 201
    assert "hostNetwok" not in body["spec"]
