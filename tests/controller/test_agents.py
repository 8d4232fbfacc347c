"""Agents at the controller's door, over real WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import time

import aiohttp
import pytest

from controller.agents import OrderError
from controller.app import Controller
from controller.sequence import KEPT, SequenceSet
from model.facts import Facts, FactsOrder
from model.probes import Attempt, Observation, ProbeOrder, ProbeResult, Vantage
from model.protocol import Ack, Answer, Armed, Batch, Goodbye, LinkEvent, Order, PlanUpdate, Status
from model.words import CellState, Method, Outcome
from tests.controller.running import agent, eventually, token_of, url
from tests.lab.embedded.apiserver_process import ADMIN, Server

ORDER = ProbeOrder(vantage=Vantage(), method=Method.UDP, family=4, address="10.77.1.12", port=8701)


@pytest.fixture
def token(api: Server) -> str:
    """What agents show."""
    return token_of(api, "kubereach-agent")


async def test_an_agent_gets_its_plan_and_fills_its_row(controller: Controller, token: str) -> None:
    """After hello come welcome and plan; what it reports stands in its cells, and in nobody else's."""
    async with agent(controller, "node-a", token) as one:
        await one.report(1, await one.plan())
        statuses = controller.services.matrix.statuses().values()
        assert {s.path.source_node for s in statuses if s.state is CellState.OK} == {"node-a"}
        assert {s.state for s in statuses if s.path.source_node == "node-a"} == {CellState.OK}


async def test_a_batch_counts_once(controller: Controller, token: str) -> None:
    """Sent again over a second connection it is acknowledged, and thrown away; the older connection closes."""
    async with agent(controller, "node-a", token) as one:
        plan = await one.plan()
        await one.report(7, plan)
        before = controller.services.matrix.observations
        async with agent(controller, "node-a", token, via="node-b") as two:
            await two.report(7, plan)
            assert controller.services.matrix.observations == before
            await two.report(8, plan)
            assert controller.services.matrix.observations == before + len(plan.tasks)
            async with asyncio.timeout(5):
                while (await one.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
            info = controller.services.agents.get("node-a")
            assert info is not None
            assert (info.connected, info.via, info.uplink) == (True, "node-b", "eth0")


async def test_another_run_counts_anew(controller: Controller, token: str) -> None:
    """Sequence numbers belong to one run of the agent."""
    async with agent(controller, "node-a", token, boot="x") as one:
        plan = await one.plan()
        await one.report(1, plan)
    before = controller.services.matrix.observations
    async with agent(controller, "node-a", token, boot="y") as two:
        await two.report(1, plan)
    assert controller.services.matrix.observations == before + len(plan.tasks)


async def test_a_probe_is_ordered_and_answered(controller: Controller, token: str) -> None:
    """The order reaches the node's agent; its answer comes back as it is."""
    async with agent(controller, "node-a", token) as one:
        asked = asyncio.create_task(controller.services.agents.probe("node-a", ORDER, 5))
        order = await one.order()
        assert order.probe == ORDER
        assert 0 < order.timeout_ms < 5000
        result = ProbeResult(attempts=(Attempt(outcome=Outcome.OK, rtt_us=44),))
        await one.send(Answer(order=order.order, probe=result))
        assert await asked == result


async def test_a_tap_says_when_it_listens(controller: Controller, token: str) -> None:
    """`armed` is called before the facts are there."""
    armed = asyncio.Event()
    async with agent(controller, "node-a", token) as one:
        asked = asyncio.create_task(
            controller.services.agents.facts("node-a", FactsOrder(vantage=Vantage()), 5, armed.set)
        )
        order = await one.order()
        await one.send(Armed(order=order.order))
        async with asyncio.timeout(5):
            await armed.wait()
        assert not asked.done()
        await one.send(Answer(order=order.order, facts=Facts(at_ms=1)))
        assert await asked == Facts(at_ms=1)


async def test_errors_of_orders_are_values(controller: Controller, token: str) -> None:
    """Silent, refused, timed out, lost: each says so, none raises."""
    agents = controller.services.agents
    assert await agents.probe("node-z", ORDER, 1) == OrderError("silent", "no agent is connected from node-z")
    async with agent(controller, "node-a", token) as one:
        asked = asyncio.create_task(agents.probe("node-a", ORDER, 5))
        await one.send(Answer(order=(await one.order()).order, error="no such pod"))
        assert await asked == OrderError("refused", "the agent of node-a: no such pod")
        late = await agents.probe("node-a", ORDER, 0.05)
        assert isinstance(late, OrderError)
        assert late.reason == "timeout"
        asked = asyncio.create_task(agents.probe("node-a", ORDER, 5))
        await one.receive(Order)
        await one.socket.close()
        lost = await asked
        assert isinstance(lost, OrderError)
        assert lost.reason == "lost"


async def test_status_and_goodbye_are_kept(controller: Controller, token: str) -> None:
    """Lateness and link events stay known; an agent that said goodbye is no longer expected to serve its ports."""
    agents = controller.services.agents
    event = LinkEvent(at_ms=1, device="eth0", up=False, carrier=False)
    async with agent(controller, "node-c", token) as one:
        now = int(time.time() * 1000)
        for _ in range(2):
            await one.send(Status(at_ms=now, plan="p", late_ms=321, link_events=(event,)))
        await eventually(lambda: len(agents.get("node-c").link_events) == 2, "both events")  # type: ignore[union-attr]
        info = agents.get("node-c")
        assert info is not None
        assert (info.late_ms, info.plan) == (321, "p")
        assert "node-c" in agents.serving()
        await one.send(Goodbye(reason="ends"))
        await eventually(lambda: "node-c" not in agents.serving(), "the goodbye is heard")


async def test_peers_of_an_agent_that_ended_stop_probing_its_ports(controller: Controller, token: str) -> None:
    """Its silence is no fault, so nobody's plan asks its port any more."""
    async with agent(controller, "node-a", token) as one:
        async with agent(controller, "node-b", token) as two:
            await eventually(lambda: "10.77.1.12" in _asked(controller), "node-b's port is probed")
            await two.send(Goodbye(reason="ends"))
        await eventually(lambda: "10.77.1.12" not in _asked(controller), "node-b's port is not probed")
        await one.receive(PlanUpdate)


def _asked(controller: Controller) -> set[str]:
    plan = controller.services.matrix.plan.plans["node-a"]
    return {t.address for t in plan.tasks if t.port == 8701}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param("\x00garbage", 1007, id="no JSON"),
        pytest.param('{"type":"unheard"}', 1007, id="an unknown message"),
        pytest.param('{"type":"batch","sequence":"x","observations":[]}', 1007, id="a wrong type"),
        pytest.param('{"type":"goodbye","reason":"x"}', 1008, id="goodbye before hello"),
        pytest.param('{"type":"hello","node":"","boot":"b","version":"v","at_ms":1}', 1008, id="no node"),
        pytest.param('{"type":"hello","node":"node-q","boot":"b","version":"v","at_ms":1}', 1008, id="no such node"),
    ],
)
async def test_garbage_closes_its_own_connection_alone(
    controller: Controller, token: str, frame: str, code: int
) -> None:
    """The sender is sent away with a close code, it is counted, and the neighbour's agent goes on."""
    async with agent(controller, "node-b", token) as other, agent(controller, "node-a", token, hello=False) as one:
        before = controller.services.counts.garbage
        await one.socket.send_str(frame)
        message = await one.socket.receive(timeout=5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, code)
        assert controller.services.counts.garbage == before + 1
        await other.send(Batch(sequence=1, observations=()))
        assert (await other.receive(Ack)).sequence == 1


async def test_a_frame_too_large_is_refused(controller: Controller, token: str) -> None:
    """Ten megabytes end the connection, and nothing else."""
    async with agent(controller, "node-a", token) as one:
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await one.socket.send_str("x" * 10_000_000)
        async with asyncio.timeout(10):
            while (message := await one.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    async with agent(controller, "node-a", token) as again:
        await again.plan()


@pytest.mark.parametrize(
    ("account", "audience", "status"),
    [
        pytest.param("", "", 401, id="no token"),
        pytest.param("garbage", "", 401, id="no token of this cluster"),
        pytest.param("kubereach-agent", "elsewhere", 401, id="meant for somebody else"),
        pytest.param("stranger", "kubereach", 403, id="another account"),
    ],
)
async def test_strangers_are_no_agents(
    controller: Controller, api: Server, account: str, audience: str, status: int
) -> None:
    """Only the agents' ServiceAccount, by a token made for us, opens a session."""
    token = token_of(api, account, audience=audience) if audience else account
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url(controller, "/api/v1/agent"), headers=headers)
    assert refused.value.status == status


async def test_a_bound_token_speaks_for_its_own_node_alone(controller: Controller, api: Server) -> None:
    """A token of a pod on node-b opens no session of node-a."""
    token = token_of(api, "kubereach-agent", pod="endpoint-1")
    async with agent(controller, "node-b", token) as own:
        await own.plan()
    async with agent(controller, "node-a", token, hello=False) as foreign:
        await foreign.socket.send_str('{"type":"hello","node":"node-a","boot":"b","version":"v","at_ms":1}')
        message = await foreign.socket.receive(timeout=5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)


async def test_an_administrator_is_no_agent(controller: Controller) -> None:
    """Being allowed everything is not being an agent."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url(controller, "/api/v1/agent"), headers={"Authorization": f"Bearer {ADMIN}"})


async def test_the_agents_clock_may_be_wrong(controller: Controller, token: str) -> None:
    """Ages are told by the controller's clock: an hour's difference makes nothing stale."""
    async with agent(controller, "node-a", token) as one:
        plan = await one.plan()
        wrong = int(time.time() * 1000) - 3_600_000
        await one.send(Status(at_ms=wrong, plan=plan.digest, late_ms=0))
        await one.send(
            Batch(sequence=1, observations=tuple(Observation(t.id, wrong, Outcome.OK, 5) for t in plan.tasks))
        )
        await one.receive(Ack)
        statuses = [s for s in controller.services.matrix.statuses().values() if s.path.source_node == "node-a"]
        assert {s.state for s in statuses} == {CellState.OK}


def test_numbers_are_taken_once_in_bounded_memory() -> None:
    """In any order; and of numbers far in the past nothing is taken twice."""
    taken = SequenceSet()
    assert [taken.add(n) for n in (5, 3, 5, 4, 3)] == [True, True, False, True, False]
    assert all(taken.add(n) for n in range(10, 10 + 3 * KEPT))
    assert not any(taken.add(n) for n in (3, 4, 5, 10, 9 + 3 * KEPT))


def test_numbers_that_were_passed_over_are_counted() -> None:
    """What is missing is known while it may still come, and for good once it is too old to."""
    taken = SequenceSet()
    assert taken.missing == 0
    for number in (7, 8, 11):
        taken.add(number)
    assert taken.missing == 2
    taken.add(9)
    assert taken.missing == 1
    for number in range(12, 12 + 3 * KEPT):
        taken.add(number)
    assert taken.missing == 1
