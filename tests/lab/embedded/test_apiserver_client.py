"""The embedded API server, read with the official client's strict models, as the controller reads it."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from lab.client import ApiClient as LabClient
from tests.lab.embedded.apiserver_process import ADMIN, Server, namespace, pod

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from kubernetes.aio import client, config, watch

TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": pod("x")["spec"]}
WORKLOAD = {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}
RULE = {"host": "x", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s"}}}]}}
# Where to make one, what, the API class and the method that lists it.
KINDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "node": ("/api/v1/nodes", {"status": {"nodeInfo": {"kubeletVersion": "v1"}}}, "CoreV1Api", "list_node"),
    "namespace": ("", {}, "CoreV1Api", "list_namespace"),
    "pod": ("/api/v1/namespaces/kinds/pods", pod("x"), "CoreV1Api", "list_pod_for_all_namespaces"),
    "service": (
        "/api/v1/namespaces/kinds/services",
        {"spec": {"type": "LoadBalancer", "ports": [{"port": 1}]}},
        "CoreV1Api",
        "list_service_for_all_namespaces",
    ),
    "configmap": ("", {}, "CoreV1Api", "list_config_map_for_all_namespaces"),
    "secret": ("/api/v1/namespaces/kinds/secrets", {}, "CoreV1Api", "list_secret_for_all_namespaces"),
    "account": ("", {}, "CoreV1Api", "list_service_account_for_all_namespaces"),
    "event": (
        "/api/v1/namespaces/kinds/events",
        {"involvedObject": {"kind": "Pod", "name": "x"}, "reason": "R", "message": "m"},
        "CoreV1Api",
        "list_event_for_all_namespaces",
    ),
    "event of events.k8s.io": ("", {}, "EventsV1Api", "list_event_for_all_namespaces"),
    "deployment": (
        "/apis/apps/v1/namespaces/kinds/deployments",
        {"spec": WORKLOAD},
        "AppsV1Api",
        "list_deployment_for_all_namespaces",
    ),
    "daemonset": (
        "/apis/apps/v1/namespaces/kinds/daemonsets",
        {"spec": WORKLOAD},
        "AppsV1Api",
        "list_daemon_set_for_all_namespaces",
    ),
    "replicaset": (
        "/apis/apps/v1/namespaces/kinds/replicasets",
        {"spec": WORKLOAD},
        "AppsV1Api",
        "list_replica_set_for_all_namespaces",
    ),
    "statefulset": (
        "/apis/apps/v1/namespaces/kinds/statefulsets",
        {"spec": {**WORKLOAD, "serviceName": "x"}},
        "AppsV1Api",
        "list_stateful_set_for_all_namespaces",
    ),
    "endpointslice": (
        "/apis/discovery.k8s.io/v1/namespaces/kinds/endpointslices",
        {"addressType": "IPv4"},
        "DiscoveryV1Api",
        "list_endpoint_slice_for_all_namespaces",
    ),
    "networkpolicy": (
        "/apis/networking.k8s.io/v1/namespaces/kinds/networkpolicies",
        {"spec": {"egress": [{}]}},
        "NetworkingV1Api",
        "list_network_policy_for_all_namespaces",
    ),
    "ingress": (
        "/apis/networking.k8s.io/v1/namespaces/kinds/ingresses",
        {"spec": {"rules": [RULE]}},
        "NetworkingV1Api",
        "list_ingress_for_all_namespaces",
    ),
    "lease": (
        "/apis/coordination.k8s.io/v1/namespaces/kinds/leases",
        {"spec": {"holderIdentity": "x", "renewTime": "2026-01-01T00:00:00.000000Z"}},
        "CoordinationV1Api",
        "list_lease_for_all_namespaces",
    ),
    "job": (
        "/apis/batch/v1/namespaces/kinds/jobs",
        {"spec": {"template": TEMPLATE}},
        "BatchV1Api",
        "list_job_for_all_namespaces",
    ),
    "clusterrole": ("", {}, "RbacAuthorizationV1Api", "list_cluster_role"),
    "clusterrolebinding": ("", {}, "RbacAuthorizationV1Api", "list_cluster_role_binding"),
    "budget": (
        "/apis/policy/v1/namespaces/kinds/poddisruptionbudgets",
        {"spec": {"minAvailable": 1}},
        "PolicyV1Api",
        "list_pod_disruption_budget_for_all_namespaces",
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all."""
    running = Server(tmp_path_factory.mktemp("api"))
    running.start()
    namespace(running, "kinds")
    yield running
    running.kill()
    assert (running.folder / "log").read_text() == ""


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Any]:
    """The official asynchronous client."""
    settings = client.Configuration()
    await config.load_kube_config(str(server.kubeconfig()), client_configuration=settings)
    async with client.ApiClient(settings) as made:
        yield made


@pytest.mark.parametrize("name", KINDS)
async def test_strict_models_take_what_the_server_lists(server: Server, api: Any, name: str) -> None:
    """A small object of each main kind, filled in by the server, passes the models' required fields."""
    path, body, family, method = KINDS[name]
    if path:
        meta = {**body.get("metadata", {}), "name": "x"}
        if name == "deployment":
            body = {**body, "spec": {**body["spec"], "template": TEMPLATE}}
        restart = {"spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}} if name == "job" else None
        if restart:
            body = {"spec": {"template": restart}}
        status, answer = server.call("POST", path, {**body, "metadata": meta})
        assert status in (201, 409), answer
    elif name.startswith("event"):
        server.call("POST", KINDS["event"][0], {**KINDS["event"][1], "metadata": {"name": "x"}})
    listing = await getattr(getattr(client, family)(api), method)()
    assert listing.items
    assert all(item.metadata.uid for item in listing.items)


async def test_a_watch_tells_additions_changes_and_removals(server: Server, api: Any) -> None:
    """From the list's version on, nothing is missed; an object that a selector lets go is DELETED."""
    core = client.CoreV1Api(api)
    version = (await core.list_namespaced_config_map("kinds")).metadata.resource_version
    path = "/api/v1/namespaces/kinds/configmaps"
    server.call("POST", path, {"metadata": {"name": "w", "labels": {"on": "yes"}}})
    server.call("PATCH", f"{path}/w", {"data": {"a": "b"}}, content="application/merge-patch+json")
    server.call("PATCH", f"{path}/w", {"metadata": {"labels": None}}, content="application/merge-patch+json")
    server.call("DELETE", f"{path}/w")
    seen: dict[str, list[str]] = {"": [], "on=yes": []}
    for selector, events in seen.items():
        stream = watch.Watch().stream(
            core.list_namespaced_config_map,
            "kinds",
            resource_version=version,
            label_selector=selector,
            timeout_seconds=1,
        )
        async with asyncio.timeout(20):
            async for event in stream:
                events.append(event["type"])
    assert seen == {"": ["ADDED", "MODIFIED", "MODIFIED", "DELETED"], "on=yes": ["ADDED", "MODIFIED", "DELETED"]}


async def test_a_watch_without_version_begins_with_what_is_there(api: Any) -> None:
    """Version unset: an ADDED for each object that exists."""
    core = client.CoreV1Api(api)
    names = [
        event["object"].metadata.name async for event in watch.Watch().stream(core.list_namespace, timeout_seconds=1)
    ]
    assert {"default", "kube-system", "kinds"} <= set(names)


async def test_history_is_bounded_and_what_fell_out_is_410(server: Server, api: Any) -> None:
    """After more changes than the ring holds, an old version is refused with 410."""
    core = client.CoreV1Api(api)
    version = (await core.list_namespaced_event("kinds")).metadata.resource_version
    for number in range(4100):
        body = {"metadata": {"name": f"e{number}", "namespace": "kinds"}, "involvedObject": {}}
        await api.rest_client.request(
            "POST",
            f"{server.url}/api/v1/namespaces/kinds/events",
            headers={"Authorization": "Bearer admin-token", "Content-Type": "application/json"},
            body=body,
        )
    status, answer = server.call("GET", f"/api/v1/events?watch=1&resourceVersion={version}")
    assert (status, answer["code"], answer["reason"]) == (410, 410, "Expired")


async def test_a_hundred_watchers_are_all_told(server: Server) -> None:
    """Each of 100 watches that are open at once sees the change."""
    async with LabClient(server.url, ADMIN, server.ca) as lab:
        version = (await lab.list_raw("secrets", "kinds"))["metadata"]["resourceVersion"]
        opened = asyncio.Semaphore(0)

        async def one() -> str:
            async with lab.watch("secrets", "kinds", version) as events:
                opened.release()
                async for _, item in events:
                    return str(item["metadata"]["name"])
            return ""

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(100)]
            for _ in tasks:
                await opened.acquire()
            await lab.create("secrets", {"metadata": {"name": "news"}}, "kinds")
        assert {task.result() for task in tasks} == {"news"}
