"""The embedded API server, asked over HTTP as any client would."""

import contextlib
import http.client
import time
from typing import Any

import msgspec
import pytest

from tests.lab.embedded.apiserver_process import ADMIN, CAROL, Server, namespace, pod


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Any) -> None:
    """After `kill -9` all objects are there, versions go on growing, and an old watch is told 410."""
    server = Server(tmp_path)
    server.start()
    try:
        path = "/api/v1/namespaces/default/configmaps"
        kept = [server.call("POST", path, {"metadata": {"name": f"c{i}"}, "data": {"i": str(i)}}) for i in range(50)]
        token = server.call("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", {})[1]
        server.call("DELETE", f"{path}/c0")
        server.kill()
        server.start()
        listing = server.call("GET", path)[1]
        found = {item["metadata"]["name"]: item for item in listing["items"]}
        assert "c0" not in found
        assert all(found[item["metadata"]["name"]] == item for _, item in kept[1:])
        highest = max(int(item["metadata"]["resourceVersion"]) for _, item in kept)
        assert int(listing["metadata"]["resourceVersion"]) > highest
        assert server.call("GET", f"{path}?watch=1&resourceVersion={highest}")[1]["code"] == 410
        review = {"spec": {"token": token["status"]["token"]}}
        answer = server.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)[1]
        assert answer["status"]["user"]["username"] == "system:serviceaccount:default:default"
        fresh = server.call("POST", path, {"metadata": {"name": "after"}})[1]
        assert int(fresh["metadata"]["resourceVersion"]) > int(listing["metadata"]["resourceVersion"])
    finally:
        server.kill()


def test_a_list_of_5000_pods_takes_less_than_half_a_second(server: Server, ns: str) -> None:
    """Lists join bytes that are there already."""
    template = {"metadata": {"generateName": "p-"}, "spec": pod("x")["spec"]}
    path = f"/api/v1/namespaces/{ns}/pods"
    link = http.client.HTTPSConnection("127.0.0.1", server.port, context=server.tls, timeout=20)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN}"}
    with contextlib.closing(link):
        for _ in range(5000):
            link.request("POST", path, msgspec.json.encode(template), headers)
            answer = link.getresponse()
            answer.read()
            assert answer.status == 201
    took = []
    for _ in range(3):
        begin = time.monotonic()
        items = server.call("GET", path)[1]["items"]
        took.append(time.monotonic() - begin)
        assert len(items) == 5000
    # The best of three: what others do on the machine meanwhile is not the server's.
    assert min(took) < 0.5, took
    first = server.call("GET", f"{path}?limit=3000")[1]
    rest = server.call("GET", f"{path}?limit=3000&continue={first['metadata']['continue']}")[1]
    names = [item["metadata"]["name"] for item in first["items"] + rest["items"]]
    assert names == sorted(item["metadata"]["name"] for item in items)
    assert server.call("DELETE", path)[0] == 200
    assert server.call("GET", path)[1]["items"] == []


def test_what_a_new_cluster_holds(server: Server, ns: str) -> None:
    """Namespaces, the API's own Service and slice, and in each namespace an account and the CA."""
    service = server.call("GET", "/api/v1/namespaces/default/services/kubernetes")[1]
    assert service["spec"]["clusterIPs"] == ["10.96.0.1"]
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
    piece = server.call("GET", path)[1]
    assert piece["endpoints"][0]["addresses"] == ["10.77.1.10"]
    assert piece["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes"
    for name in ("default", "kube-system", ns):
        assert server.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")[0] == 200
        config = server.call("GET", f"/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt")[1]
        assert config["data"]["ca.crt"] == server.ca.read_text()
        assert server.call("GET", f"/api/v1/namespaces/{name}")[1]["metadata"]["labels"] == {
            "kubernetes.io/metadata.name": name
        }


@pytest.mark.parametrize(
    ("ip_families", "expected"),
    [
        pytest.param({}, ["IPv4"], id="single stack unless asked"),
        pytest.param({"ipFamilyPolicy": "PreferDualStack"}, ["IPv4", "IPv6"], id="both"),
        pytest.param({"ipFamilies": ["IPv6"]}, ["IPv6"], id="IPv6 alone"),
        pytest.param({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"], id="IPv6 first"),
    ],
)
def test_a_service_is_given_addresses_of_its_families(
    server: Server, ns: str, ip_families: dict[str, Any], expected: list[str]
) -> None:
    """One address a family, distinct from every other Service's, and kept when the manifest is applied again."""
    spec = {"ports": [{"port": 80}], "selector": {"a": "b"}, **ip_families}
    path = f"/api/v1/namespaces/{ns}/services"
    status, body = server.call("POST", path, {"metadata": {"name": "a"}, "spec": spec})
    assert status == 201
    assert body["spec"]["ipFamilies"] == expected
    assert ["IPv6" if ":" in ip else "IPv4" for ip in body["spec"]["clusterIPs"]] == expected
    assert body["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    again = server.call("PUT", f"{path}/a", {"metadata": {"name": "a"}, "spec": spec})[1]
    assert again["spec"]["clusterIPs"] == body["spec"]["clusterIPs"]
    everybody = server.call("GET", "/api/v1/services")[1]["items"]
    taken = [ip for item in everybody for ip in item["spec"].get("clusterIPs", ())]
    assert len(taken) == len(set(taken))


def test_node_ports_are_given_and_refused(server: Server, ns: str) -> None:
    """From 30000-32767, once each for a protocol, and let go when the type wants none."""
    path = f"/api/v1/namespaces/{ns}/services"
    ports = [{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}]
    body = server.call("POST", path, {"metadata": {"name": "a"}, "spec": {"type": "NodePort", "ports": ports}})[1]
    given = [port["nodePort"] for port in body["spec"]["ports"]]
    assert all(30000 <= port <= 32767 for port in given)
    for number, text in ((given[1], "already allocated"), (80, "not in the valid range")):
        spec = {"type": "NodePort", "ports": [{"port": 1, "nodePort": number}]}
        status, answer = server.call("POST", path, {"metadata": {"name": "x"}, "spec": spec})
        assert status == 422
        assert text in answer["message"]
        assert answer["details"]["causes"][0]["field"] == "spec.ports[0].nodePort"
    content = "application/merge-patch+json"
    body = server.call("PATCH", f"{path}/a", {"spec": {"type": "ClusterIP"}}, content=content)[1]
    assert not any("nodePort" in port for port in body["spec"]["ports"])
    body = server.call("PATCH", f"{path}/a", {"spec": {"type": "ExternalName", "externalName": "x.y"}}, content=content)
    assert "clusterIP" not in body[1]["spec"]


def test_a_pod_on_a_node_ends_gracefully_and_any_other_at_once(server: Server, ns: str) -> None:
    """With a node: marked, until the node deletes it with no grace. Without: gone."""
    path = f"/api/v1/namespaces/{ns}/pods"
    server.call("POST", path, pod("placed", nodeName="node-a"))
    server.call("POST", path, pod("free"))
    body = server.call("DELETE", f"{path}/placed")[1]
    assert body["metadata"]["deletionTimestamp"] > body["metadata"]["creationTimestamp"]
    assert body["metadata"]["deletionGracePeriodSeconds"] == 30
    assert server.call("GET", f"{path}/placed")[0] == 200
    assert server.call("DELETE", f"{path}/placed?gracePeriodSeconds=0")[1]["status"] == "Success"
    assert server.call("GET", f"{path}/placed")[0] == 404
    assert server.call("DELETE", f"{path}/free")[1]["status"] == "Success"
    assert server.call("GET", f"{path}/free")[0] == 404


def test_finalizers_hold_an_object_until_the_last_is_gone(server: Server, ns: str) -> None:
    """Deletion marks it; taking the finalizer away removes it."""
    path = f"/api/v1/namespaces/{ns}/configmaps"
    server.call("POST", path, {"metadata": {"name": "a", "finalizers": ["lab/x"]}})
    assert "deletionTimestamp" in server.call("DELETE", f"{path}/a")[1]["metadata"]
    operation = [{"op": "remove", "path": "/metadata/finalizers/0"}]
    assert server.call("PATCH", f"{path}/a", operation, content="application/json-patch+json")[0] == 200
    assert server.call("GET", f"{path}/a")[0] == 404


def test_dependents_go_with_their_owner(server: Server, ns: str) -> None:
    """Owner references are followed down, unless the deletion says Orphan."""
    maps, secrets = f"/api/v1/namespaces/{ns}/configmaps", f"/api/v1/namespaces/{ns}/secrets"

    def owned(name: str, owner: Any, kind: str) -> dict[str, Any]:
        meta = owner["metadata"]
        reference = {"apiVersion": "v1", "kind": kind, "name": meta["name"], "uid": meta["uid"]}
        return {"metadata": {"name": name, "ownerReferences": [reference]}}

    for policy, left in (("Background", 404), ("Orphan", 200)):
        top = server.call("POST", maps, {"metadata": {"name": "top"}})[1]
        middle = server.call("POST", secrets, owned("middle", top, "ConfigMap"))[1]
        server.call("POST", secrets, owned("leaf", middle, "Secret"))
        server.call("DELETE", f"{maps}/top", {"propagationPolicy": policy})
        assert server.call("GET", f"{secrets}/middle")[0] == left
        assert server.call("GET", f"{secrets}/leaf")[0] == left
    assert "ownerReferences" in server.call("GET", f"{secrets}/leaf")[1]["metadata"]
    assert not server.call("GET", f"{secrets}/middle")[1]["metadata"].get("ownerReferences")


def test_a_namespace_takes_its_content_along(server: Server) -> None:
    """It is Terminating while a pod ends, refuses new content, and goes with the last object."""
    namespace(server, "gone")
    pods = "/api/v1/namespaces/gone/pods"
    server.call("POST", pods, pod("a", nodeName="node-a"))
    server.call(
        "POST", "/api/v1/namespaces/gone/services", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}
    )
    assert server.call("DELETE", "/api/v1/namespaces/gone")[1]["status"]["phase"] == "Terminating"
    assert server.call("POST", pods, pod("b"))[0] == 403
    assert server.call("GET", "/api/v1/namespaces/gone/services")[1]["items"] == []
    server.call("DELETE", f"{pods}/a?gracePeriodSeconds=0")
    assert server.call("GET", "/api/v1/namespaces/gone")[0] == 404


def test_status_and_spec_are_written_apart(server: Server, ns: str) -> None:
    """The main resource keeps its status, the status subresource keeps the spec; generation counts specs."""
    path = f"/apis/apps/v1/namespaces/{ns}/deployments"
    template = {"metadata": {"labels": {"app": "x"}}, "spec": pod("x")["spec"]}
    spec = {"selector": {"matchLabels": {"app": "x"}}, "template": template}
    made = server.call("POST", path, {"metadata": {"name": "d"}, "spec": spec, "status": {"replicas": 9}})[1]
    assert (made["status"], made["metadata"]["generation"], made["spec"]["replicas"]) == ({}, 1, 1)
    merge = "application/merge-patch+json"
    body = {"spec": {"replicas": 5}, "status": {"replicas": 1}}
    after = server.call("PATCH", f"{path}/d/status", body, content=merge)[1]
    assert (after["spec"]["replicas"], after["status"]["replicas"], after["metadata"]["generation"]) == (1, 1, 1)
    body = {"spec": {"replicas": 3}, "status": {"replicas": 7}}
    after = server.call("PATCH", f"{path}/d", body, content=merge)[1]
    assert (after["spec"]["replicas"], after["status"]["replicas"], after["metadata"]["generation"]) == (3, 1, 2)
    scale = server.call("GET", f"{path}/d/scale")[1]
    assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["selector"]) == ("Scale", 3, "app=x")
    scale["spec"]["replicas"] = 0
    assert server.call("PUT", f"{path}/d/scale", scale)[1]["spec"] == {"replicas": 0}


def test_roles_decide_and_reviews_tell(server: Server, ns: str) -> None:
    """Nobody may do what no rule allows; a binding allows it; a review says the same as the request meets."""
    path = f"/api/v1/namespaces/{ns}/pods"
    attributes = {"namespace": ns, "verb": "list", "resource": "pods"}
    ask = {"spec": {"user": "carol", "resourceAttributes": attributes}}
    reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert server.call("GET", path, token=None)[0] == 401
    assert server.call("GET", path, token="wrong")[0] == 401
    assert server.call("GET", path, token=CAROL)[0] == 403
    assert server.call("POST", reviews, ask)[1]["status"]["allowed"] is False
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    server.call("POST", f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules})
    reference = {"kind": "Role", "name": "r"}
    binding = {"metadata": {"name": "b"}, "roleRef": reference, "subjects": [{"kind": "User", "name": "carol"}]}
    assert server.call("POST", f"{rbac}/rolebindings", binding)[0] == 201
    assert server.call("GET", path, token=CAROL)[0] == 200
    assert server.call("POST", path, pod("a"), token=CAROL)[0] == 403
    assert server.call("GET", "/api/v1/pods", token=CAROL)[0] == 403
    assert server.call("POST", reviews, ask)[1]["status"]["allowed"] is True


def test_a_service_account_token_lives_as_long_as_its_pod(server: Server, ns: str) -> None:
    """TokenReview knows account, pod and node of a bound token, holds audiences apart, and forgets with the pod."""
    made = server.call("POST", f"/api/v1/namespaces/{ns}/pods", pod("agent", nodeName="node-a"))[1]
    reference = {"kind": "Pod", "name": "agent", "uid": made["metadata"]["uid"]}
    ask = {"spec": {"audiences": ["kubereach"], "boundObjectRef": reference}}
    status, body = server.call("POST", f"/api/v1/namespaces/{ns}/serviceaccounts/default/token", ask)
    assert status == 201
    token = body["status"]["token"]

    def review(*audiences: str, text: str = token) -> Any:
        spec = {"token": text, "audiences": list(audiences)}
        return server.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": spec})[1]["status"]

    good = review("kubereach", "other")
    assert (good["authenticated"], good["audiences"]) == (True, ["kubereach"])
    assert good["user"]["username"] == f"system:serviceaccount:{ns}:default"
    assert good["user"]["extra"]["authentication.kubernetes.io/node-name"] == ["node-a"]
    assert review()["authenticated"] is False
    assert server.call("GET", "/api", token=token)[0] == 401
    head, body_part, _ = token.split(".")
    assert review("kubereach", text=f"{head}.{body_part}.AAAA")["authenticated"] is False
    server.call("DELETE", f"/api/v1/namespaces/{ns}/pods/agent?gracePeriodSeconds=0")
    assert review("kubereach")["authenticated"] is False
    short = {"spec": {"expirationSeconds": 5}}
    assert server.call("POST", f"/api/v1/namespaces/{ns}/serviceaccounts/default/token", short)[0] == 422


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        pytest.param("labelSelector=app=a", {"a"}, id="equal"),
        pytest.param("labelSelector=app!%3Da", {"b", "c"}, id="unequal"),
        pytest.param("labelSelector=app%20in%20(a,b)", {"a", "b"}, id="in"),
        pytest.param("labelSelector=app%20notin%20(a,b),app", {"c"}, id="notin and exists"),
        pytest.param("labelSelector=!app", set(), id="absent"),
        pytest.param("fieldSelector=spec.nodeName=node-b", {"b"}, id="node"),
        pytest.param("fieldSelector=metadata.name!%3Da,status.phase=Pending", {"b", "c"}, id="name and phase"),
    ],
)
def test_selectors_choose(server: Server, selector: str, names: set[str]) -> None:
    """Lists hold what labels and fields select."""
    if server.call("GET", "/api/v1/namespaces/chosen")[0] == 404:
        namespace(server, "chosen")
        for name in ("a", "b", "c"):
            server.call("POST", "/api/v1/namespaces/chosen/pods", pod(name, nodeName=f"node-{name}"))
    items = server.call("GET", f"/api/v1/namespaces/chosen/pods?{selector}")[1]["items"]
    assert {item["metadata"]["name"] for item in items} == names


def test_the_server_starts_in_time(tmp_path: Any) -> None:
    """A new lab's server answers at once: 0.3 s alone, 2 s where other tests run beside it."""
    server = Server(tmp_path, family="4")
    try:
        assert server.start() < 2.0
        spec = {"ports": [{"port": 1}], "ipFamilyPolicy": "RequireDualStack"}
        status, body = server.call(
            "POST", "/api/v1/namespaces/default/services", {"metadata": {"name": "x"}, "spec": spec}
        )
        assert status == 422
        assert body["details"]["causes"][0]["field"] == "spec.ipFamilyPolicy"
    finally:
        server.kill()
