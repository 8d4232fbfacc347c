"""A probe on demand: an agent that goes on reporting is only slow, and is asked once more."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from controller.app import Controller
from model.probes import Attempt, ProbeResult
from model.protocol import Answer
from model.words import Outcome
from tests.controller.diagnosis.test_examine import speak
from tests.controller.running import agent, call, token_of
from tests.lab.embedded.apiserver_process import Server

DONE = ProbeResult(attempts=(Attempt(outcome=Outcome.OK, rtt_us=90),))
BODY = msgspec.json.encode({"source": "node/node-a", "destination": "node/node-b", "count": 1, "trace": False})


@pytest.mark.parametrize("late", [1, 2])
async def test_one_that_was_too_busy_is_asked_again(controller: Controller, api: Server, late: int) -> None:
    """Once, and not for ever: what it did not come to a second time was not measured, and it says why."""
    async with agent(controller, "node-a", token_of(api, "kubereach-agent")) as busy:
        speaking = asyncio.create_task(speak(busy))
        try:
            asking = asyncio.create_task(call(controller, "POST", "/api/v1/probe", body=BODY))
            for number in range(2):
                order = await busy.order()
                words = "not done within 1900 ms"
                answered = (
                    Answer(order=order.order, error=words) if number < late else Answer(order=order.order, probe=DONE)
                )
                await busy.send(answered)
            status, report = await asking
        finally:
            speaking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await speaking
    assert status == 200
    assert report["outcome"] == ("ok" if late == 1 else "not_measured")
    assert ("not done within" in str(report.get("missing_evidence"))) is (late == 2)
