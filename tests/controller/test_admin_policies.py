"""Admin policies in a live cluster: their kinds may be missing, come and go; and the plugin may not implement them."""

from __future__ import annotations

from typing import Any

import pytest

from controller.app import Controller
from controller.cluster.api import KubeApi
from controller.cluster.watch import ClusterWatch
from controller.plan.expectation import AdminPolicies, PolicyReader
from controller.policy import PodRef
from tests.controller.clusters import cluster, pod, with_pods
from tests.controller.running import (
    ADMIN_POLICIES,
    DEFINITIONS,
    POLICY_API,
    add_pod,
    created,
    define,
    eventually,
    patched,
    populate,
    running,
)
from tests.controller.test_watch import watching
from tests.lab.embedded.apiserver_process import Server

PATH = f"/apis/{POLICY_API}/v1alpha1/adminnetworkpolicies"
EVERYBODY: list[dict[str, Any]] = [{"namespaces": {}}]
SHOP, PAY = PodRef("shop", "web"), PodRef("pay", "api")


def denying(name: str = "closed", priority: int = 10) -> dict[str, Any]:
    """An AdminNetworkPolicy that lets nobody reach the pods of pay."""
    subject = {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "pay"}}}
    rule = {"action": "Deny", "from": EVERYBODY}
    return {"metadata": {"name": name}, "spec": {"priority": priority, "subject": subject, "ingress": [rule]}}


@pytest.fixture
def shop(api: Server) -> Server:
    """An API server with a pod of the shop, one of pay, and no definition of admin policies."""
    populate(api, 2)
    for namespace, name, node, address in (
        ("shop", "web", "node-a", "10.244.1.7"),
        ("pay", "api", "node-b", "10.244.2.7"),
    ):
        created(api, "/api/v1/namespaces", {"metadata": {"name": namespace}})
        add_pod(api, namespace, name, node, address, {})
    for plural in ("adminnetworkpolicies", "baselineadminnetworkpolicies", "clusternetworkpolicies"):
        api.call("DELETE", f"{DEFINITIONS}/{plural}.{POLICY_API}")
    return api


async def test_a_kind_that_is_not_installed_is_no_error_and_is_found_once_it_is(shop: Server) -> None:
    """404 for the kind: everything is read all the same. Installed: its objects show. Removed: they are gone."""
    async with watching(shop.kubeconfig(), absent_s=0.1) as watch:
        assert watch.errors == {}
        assert shop.call("POST", PATH, denying())[0] == 404
        define(shop, ADMIN_POLICIES)
        created(shop, PATH, denying())
        await eventually(lambda: "AdminNetworkPolicy/closed" in watch.snapshot().policies, "the policy is seen")
        patched(shop, f"{PATH}/closed", {"spec": {"priority": 7}})
        await eventually(lambda: _priority(watch) == 7, "its change is seen")
        assert shop.call("DELETE", f"{DEFINITIONS}/adminnetworkpolicies.{POLICY_API}")[0] == 200
        await eventually(lambda: not watch.snapshot().policies, "it goes with its kind")
        define(shop, ADMIN_POLICIES)
        created(shop, PATH, denying("again"))
        await eventually(lambda: "AdminNetworkPolicy/again" in watch.snapshot().policies, "seen anew")
        assert watch.errors == {}


def _priority(watch: ClusterWatch) -> int:
    found = watch.snapshot().policies.get("AdminNetworkPolicy/closed")
    return int(found["spec"]["priority"]) if found else -1


def verdict(controller: Controller) -> bool | str | None:
    """What policies say of shop to pay; "nothing" before there is a model with both."""
    model = controller.services.planner.policy
    if model is None or ("shop", "web") not in model.universe.pods or ("pay", "api") not in model.universe.pods:
        return "nothing"
    return model.decide(SHOP, PAY, "TCP", 80).allowed


async def test_verdicts_follow_admin_policies(shop: Server) -> None:
    """Allowed; then, by a policy that nobody has taken up, open; denied once its status is written; allowed again."""
    define(shop, ADMIN_POLICIES)
    async with running(shop) as controller:
        await eventually(lambda: verdict(controller) is True, "no policy")
        created(shop, PATH, denying())
        await eventually(lambda: verdict(controller) is None, "a policy that the plugin may not know")
        model = controller.services.planner.policy
        assert model is not None
        because = "ingress depends on whether the network plugin implements AdminNetworkPolicy (closed)"
        assert model.decide(SHOP, PAY, "TCP", 80).missing == because
        taken = {"type": "Ready-In-Zone-a", "status": "True", "reason": "SetupSucceeded", "message": ""}
        patched(shop, f"{PATH}/closed/status", {"status": {"conditions": [taken]}})
        await eventually(lambda: verdict(controller) is False, "a policy that the plugin has taken up")
        shop.call("DELETE", f"{PATH}/closed")
        await eventually(lambda: verdict(controller) is True, "the policy is gone")


def _state(*, taken_up: bool) -> Any:
    state = cluster()
    pods = [pod("shop", "web", "node-a", "10.244.1.7"), pod("pay", "api", "node-b", "10.244.2.7")]
    raw: dict[str, Any] = {"apiVersion": f"{POLICY_API}/v1alpha1", "kind": "AdminNetworkPolicy", **denying()}
    raw |= {"status": {"conditions": True}} if taken_up else {}
    return cluster(pods=with_pods(state, *pods), policies={"AdminNetworkPolicy/closed": raw})


@pytest.mark.parametrize(
    ("setting", "taken_up", "allowed"),
    [
        (AdminPolicies.DETECT, False, None),
        (AdminPolicies.DETECT, True, False),
        (AdminPolicies.ENFORCED, False, False),
        (AdminPolicies.IGNORED, True, True),
    ],
    ids=["nobody-took-it-up", "taken-up", "said-to-be-enforced", "said-to-be-ignored"],
)
def test_what_the_plugin_implements_decides(setting: AdminPolicies, taken_up: bool, allowed: bool | None) -> None:
    """The setting comes first; without one, conditions in the status show that something implements the kind."""
    model = PolicyReader(setting).model(_state(taken_up=taken_up))
    assert model.decide(SHOP, PAY, "TCP", 80).allowed is allowed


async def test_a_definition_of_something_else_is_refused(shop: Server) -> None:
    """The lab's API takes no definition that it could not serve, and serves no version but the defined one."""
    other = {"metadata": {"name": "things.example.org"}, "spec": {"group": "example.org", "versions": []}}
    status, answer = shop.call("POST", DEFINITIONS, other)
    assert (status, answer["reason"]) == (422, "Invalid")
    define(shop, ADMIN_POLICIES)
    assert shop.call("GET", PATH.replace("v1alpha1", "v1"))[0] == 404
    assert shop.call("GET", PATH)[1]["kind"] == "AdminNetworkPolicyList"
    api = await KubeApi.connect(shop.kubeconfig())
    try:
        groups = (await api.get("/apis"))["groups"]
    finally:
        await api.close()
    assert [v["version"] for g in groups if g["name"] == POLICY_API for v in g["versions"]] == ["v1alpha1", "v1alpha2"]
