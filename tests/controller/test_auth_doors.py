"""Every door of the controller, and everybody who might knock: with the roles that the installation really makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import yaml

from controller.app import Controller
from controller.auth import PROBE, READ
from controller.web.handlers import ROUTES
from controller.web.server import make_app
from tests.controller.running import DEADLINE_S, agent, call, created, token_of, url
from tests.lab.embedded.apiserver_process import Server

PEOPLE = Path(__file__).parents[2] / "daemonset/people.yaml"
OPEN = {"/livez", "/readyz", "/openapi.json", "/", "/static"}
RBAC = "/apis/rbac.authorization.k8s.io/v1"
AUDIENCE = "https://kubernetes.default.svc.cluster.local"
DOORS = [(method, path) for method, path, _ in ROUTES if path not in OPEN] + [("GET", "/api/v1/agent")]
READING = [
    (method, path) for method, path in DOORS if method == "GET" and path not in ("/api/v1/agent", "/api/v1/events")
]
ACTING = [(method, path) for method, path in DOORS if method == "POST"]


BAD = {"none": None, "empty": "", "garbage": "garbage", "three parts": "a.b.c"}


@pytest.fixture
def people(api: Server) -> dict[str, str]:
    """Tokens by who it is: the two accounts of the installation, one without rights, the agents'."""
    paths = {"ServiceAccount": "/api/v1/namespaces/kubereach/serviceaccounts"}
    paths |= {kind: f"{RBAC}/{kind.lower()}s" for kind in ("ClusterRole", "ClusterRoleBinding")}
    for item in yaml.safe_load_all(PEOPLE.read_text()):
        if item["kind"] in paths:
            created(api, paths[item["kind"]], item)
    accounts = ("kubereach-viewer", "kubereach-prober", "stranger", "kubereach-agent")
    return {name: token_of(api, name, audience=AUDIENCE) for name in accounts}


def test_no_door_is_forgotten(controller: Controller) -> None:
    """What these tests go through is all that the server has."""
    there = {resource.canonical for resource in make_app(controller.services).router.resources()}
    assert there == {path for _, path in DOORS} | OPEN


async def knock(controller: Controller, doors: list[tuple[str, str]], token: str | None) -> dict[str, tuple[int, Any]]:
    """The status and body that each door answers, whatever is asked behind it."""
    found = {}
    for method, path in doors:
        body = b"[]" if method == "POST" else None
        found[path] = await call(
            controller, method, path.replace("{id}", "none").replace("{name}", "none"), token=token, body=body
        )
    return found


@pytest.mark.parametrize("token", BAD.values(), ids=BAD)
async def test_nobody_is_let_in_unknown(controller: Controller, token: str | None) -> None:
    """401 at every door without a token that Kubernetes knows, before anything of the request is looked at."""
    answers = await knock(controller, DOORS, token)
    assert {path: status for path, (status, _) in answers.items() if status != 401} == {}
    assert all(set(body) == {"error", "hint"} for _, body in answers.values())


async def test_a_token_without_rights_is_refused(controller: Controller, people: dict[str, str]) -> None:
    """Known to Kubernetes is not enough: 403 at every door, and the rule that would allow it."""
    for doors, needed in ((READING, READ), (ACTING, PROBE)):
        for status, body in (await knock(controller, doors, people["stranger"])).values():
            assert status == 403
            assert needed in body["hint"]


@pytest.mark.parametrize("who", ["kubereach-viewer", "kubereach-prober"])
async def test_viewers_and_probers_read(controller: Controller, people: dict[str, str], who: str) -> None:
    """Both roles open every reading door (what is asked for may not exist, which is told only to those inside)."""
    answers = await knock(controller, READING, people[who])
    assert {path: status for path, (status, _) in answers.items() if status not in (200, 404, 422)} == {}


async def test_only_probers_probe(controller: Controller, people: dict[str, str]) -> None:
    """A viewer is refused where packets are sent; a prober gets as far as the body."""
    viewer = await knock(controller, ACTING, people["kubereach-viewer"])
    prober = await knock(controller, ACTING, people["kubereach-prober"])
    assert {status for status, _ in viewer.values()} == {403}
    assert {status for status, _ in prober.values()} <= {200, 422}


async def test_rights_that_are_taken_away_end(
    controller: Controller, api: Server, people: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision is remembered for a while and no longer."""
    monkeypatch.setattr("controller.auth.PERSON_CACHE_S", 0.0)
    assert (await call(controller, "GET", "/api/v1/cluster", token=people["kubereach-viewer"]))[0] == 200
    assert api.call("DELETE", f"{RBAC}/clusterrolebindings/kubereach-viewer")[0] == 200
    assert (await call(controller, "GET", "/api/v1/cluster", token=people["kubereach-viewer"]))[0] == 403


@pytest.mark.parametrize(
    ("account", "audience", "status"),
    [
        pytest.param("stranger", "kubereach", 403, id="a foreign account with our audience"),
        pytest.param("kubereach-prober", "kubereach", 403, id="a person's account with our audience"),
        pytest.param("kubereach-agent", AUDIENCE, 401, id="the agents' account with the API's audience"),
        pytest.param("kubereach-agent", "vault", 401, id="the agents' account with another's audience"),
    ],
)
async def test_only_agents_report(
    controller: Controller, api: Server, people: dict[str, str], account: str, audience: str, status: int
) -> None:
    """Both have to fit: whose token it is, and for whom it was made."""
    headers = {"Authorization": f"Bearer {token_of(api, account, audience=audience)}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url(controller, "/api/v1/agent"), headers=headers)
    assert refused.value.status == status


async def test_what_an_agent_shows_opens_no_other_door(controller: Controller, api: Server) -> None:
    """A stolen agent's token reads nothing, neither here nor in the Kubernetes API."""
    token = token_of(api, "kubereach-agent", pod="endpoint-0")
    async with agent(controller, "node-a", token):
        assert (await call(controller, "GET", "/api/v1/cluster", token=token))[0] == 401
    assert api.call("GET", "/api/v1/nodes", token=token)[0] == 401


TARGETS = ["203.0.113.9", "203.0.113.9:22", "http://203.0.113.9/", "http://example.com/", "169.254.169.254:80"]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_probe_aims_at_the_cluster_alone(controller: Controller, people: dict[str, str], target: str) -> None:
    """No port scanner for those who may probe: what is neither of the cluster nor configured is refused."""
    body = msgspec.json.encode({"source": "node/node-a", "destination": target})
    status, answer = await call(controller, "POST", "/api/v1/probe", token=people["kubereach-prober"], body=body)
    assert status == 422, answer
