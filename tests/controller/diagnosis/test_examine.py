"""How long an examination waits for an agent: one that goes on speaking is only slow."""

from __future__ import annotations

import asyncio
import contextlib
import time

from controller.app import Controller
from controller.diagnosis.examine import FACTS_S, QUIET_S, SLOW_S, Examiner
from model.clock import SystemClock
from model.facts import Facts
from model.protocol import Answer, Status
from tests.controller.diagnosis import world
from tests.controller.running import ScriptedAgent, agent, token_of
from tests.lab.embedded.apiserver_process import Server


async def speak(one: ScriptedAgent) -> None:
    """Says that it lives, and nothing else."""
    while True:
        await one.send(Status(at_ms=int(time.time() * 1000), plan="", late_ms=0))
        await asyncio.sleep(QUIET_S / 4)


async def test_an_agent_that_is_slow_is_waited_for_and_a_silent_one_is_not(controller: Controller, api: Server) -> None:
    """Both are asked at once; the facts of the first come after the usual time and count."""
    token = token_of(api, "kubereach-agent")
    examiner = Examiner(controller.services.agents, SystemClock())
    async with agent(controller, "node-a", token) as slow, agent(controller, "node-b", token):
        speaking = asyncio.create_task(speak(slow))
        began = time.monotonic()
        asking = asyncio.create_task(examiner.first(world.case(world.host_flow()), ()))
        try:
            order = await slow.order()
            await asyncio.sleep(FACTS_S + 0.3)
            assert not asking.done()
            await slow.send(Answer(order=order.order, facts=Facts()))
            # as the neighbour of a silent node
            order = await slow.order()
            await slow.send(Answer(order=order.order, facts=Facts()))
            case = await asking
        finally:
            speaking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await speaking
        assert time.monotonic() - began < SLOW_S
    assert case.facts["node-a", ""] == Facts()
    assert case.silent == {"node-b": f"the agent of node-b did not answer within {FACTS_S:g} s"}
