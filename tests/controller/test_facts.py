"""Facts of nodes at the controller: read when something changed, told when asked, kept for a silent node."""

from __future__ import annotations

import asyncio
import time

import pytest

from controller.app import Controller
from controller.facts import keeper
from controller.facts.keeper import FactsKeeper
from model.facts import Facts, FactsOrder, Route
from model.journal import Change
from model.protocol import Answer, Order, Status
from model.tables import ConntrackEntries, ConntrackQuery
from tests.controller.running import ScriptedAgent, agent, call, eventually, token_of
from tests.lab.embedded.apiserver_process import ADMIN, Server

PATH = "/api/v1/nodes/node-a/facts"
ROUTE = Route(family=4, destination="10.244.2.0/24", gateway="10.77.1.12", device="eth0")


@pytest.fixture
def token(api: Server) -> str:
    """What agents show."""
    return token_of(api, "kubereach-agent")


async def answered(one: ScriptedAgent, facts: Facts) -> FactsOrder:
    """The next order for facts, answered with these."""
    order = await one.receive(Order)
    assert order.facts is not None
    await one.send(Answer(order=order.order, facts=facts))
    return order.facts


async def test_a_subject_that_is_known_is_not_sent_again(controller: Controller, token: str) -> None:
    """The first order asks for everything, the next says what is known; what is not sent stays as it was."""
    facts: FactsKeeper = controller.services.facts
    async with agent(controller, "node-a", token) as one:
        reading = asyncio.create_task(facts.read("node-a"))
        digests = {"routes": "r1", "rules": "p1"}
        asked = await answered(one, Facts(routes=(ROUTE,), rules=(), digests=digests, errors={"cni": "no such folder"}))
        await reading
        assert asked.subjects == keeper.SUBJECTS and set(asked.known.values()) == {""}
        first = facts.latest("node-a")["routes"]
        reading = asyncio.create_task(facts.read("node-a"))
        asked = await answered(one, Facts(rules=(), digests={"routes": "r1", "rules": "p2"}))
        await reading
        assert (asked.known["routes"], asked.known["rules"], asked.known["links"]) == ("r1", "p1", "")
        now = facts.latest("node-a")["routes"]
        assert now.value() == [{"family": 4, "destination": "10.244.2.0/24", "gateway": "10.77.1.12", "device": "eth0"}]
        assert now.at_s > first.at_s


async def test_kept_facts_are_told_without_asking(controller: Controller, token: str) -> None:
    """What was read last, with its time, also when the agent is gone; what is not kept says so."""
    async with agent(controller, "node-a", token) as one:
        reading = asyncio.create_task(controller.services.facts.read("node-a"))
        await answered(one, Facts(routes=(ROUTE,), digests={"routes": "r1"}))
        await reading
    status, found = await call(controller, "GET", f"{PATH}?subject=routes,links", token=ADMIN)
    assert (status, found["fresh"]) == (200, False)
    assert found["facts"]["routes"][0]["destination"] == "10.244.2.0/24"
    assert found["subjects"]["routes"]["entries"] == 1 and found["at"] == found["subjects"]["routes"]["at"]
    assert found["errors"]["links"]
    await eventually(lambda: not controller.services.agents.get("node-a").connected, "the agent to be gone")  # type: ignore[union-attr]
    status, found = await call(controller, "GET", f"{PATH}?subject=routes&now=true", token=ADMIN)
    assert (status, found["fresh"], found["facts"]["routes"][0]["gateway"]) == (200, False, "10.77.1.12")
    assert "no agent is connected" in found["errors"]["agent"]


async def test_a_node_is_asked_now(controller: Controller, token: str) -> None:
    """With now=true the agent answers, for a query of connections too."""
    async with agent(controller, "node-a", token) as one:
        where = "where=protocol=udp,destination_port=53,limit=7"
        asking = asyncio.create_task(
            call(controller, "GET", f"{PATH}?now=true&subject=rules,conntrack_entries&{where}", token=ADMIN)
        )
        query = ConntrackQuery(protocol="udp", destination_port=53, limit=7)
        asked = await answered(
            one, Facts(conntrack_entries=(ConntrackEntries(query=query),), errors={"rules": "EPERM"})
        )
        status, found = await asking
        assert asked.subjects == ("rules",) and asked.conntrack_asked == (query,)
        assert (status, found["fresh"], found["errors"]) == (200, True, {"rules": "EPERM"})
        assert list(found["facts"]) == ["conntrack_entries"]


REFUSED = {
    "no such node": ("/api/v1/nodes/nobody/facts", 404, "no node 'nobody'"),
    "no such subject": (f"{PATH}?subject=weather", 422, "'weather' is not known"),
    "no such pod": (f"{PATH}?pod=shop/nobody", 404, "no pod 'shop/nobody'"),
    "neither true nor false": (f"{PATH}?now=perhaps", 422, "neither true nor false"),
    "no such field": (f"{PATH}?now=1&subject=conntrack_entries&where=colour=red", 422, "'colour' is not known"),
    "no number": (f"{PATH}?now=1&subject=conntrack_entries&where=limit=many", 422, "where"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_asked_is_refused(controller: Controller, name: str) -> None:
    """With the word that is wrong, and the ways out."""
    path, status, text = REFUSED[name]
    code, found = await call(controller, "GET", path, token=ADMIN)
    assert code == status and text in found["error"]


async def test_a_change_makes_facts_due(controller: Controller, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that told of a change is read again soon; its changes are told with the controller's time."""
    facts = controller.services.facts
    monkeypatch.setattr(keeper, "BEGIN_S", 0.0)
    monkeypatch.setattr(keeper, "CHANGED_EVERY_S", 0.0)
    monkeypatch.setattr(keeper, "SETTLED_S", 0.0)
    async with agent(controller, "node-a", token) as one:
        reading = asyncio.create_task(facts.read("node-a"))
        await answered(one, Facts(rules=(), digests={"rules": "p1"}))
        await reading
        assert facts.due() is None
        change = Change(at_ms=int(time.time() * 1000), subject="route", name="10.244.2.0/24", what="gone", says="x")
        for _ in range(2):
            await one.send(Status(at_ms=change.at_ms, plan="p", late_ms=0, changes=(change,)))
        await eventually(lambda: facts.due() == "node-a", "the node to be due")
        _, found = await call(controller, "GET", PATH, token=ADMIN)
        (told,) = found["changes"]
        assert (told["subject"], told["name"], told["what"]) == ("route", "10.244.2.0/24", "gone")


async def test_overlaps_are_found_from_what_is_kept(controller: Controller, token: str) -> None:
    """A node's link in another one's pods is told; nodes of which nothing is kept are named."""
    async with agent(controller, "node-a", token) as one:
        await eventually(lambda: "node-a" in controller.services.watch.snapshot().nodes, "the node")
        reading = asyncio.create_task(controller.services.facts.read("node-a"))
        await answered(one, Facts(routes=(ROUTE,), digests={"routes": "r1"}))
        await reading
    status, found = await call(controller, "GET", "/api/v1/overlaps", token=ADMIN)
    assert (status, found["overlaps"]) == (200, [])
    assert found["missing"] and "node-a" not in found["missing"]
