"""What a killed rule trace leaves is taken away by the agent: at the order's end, or at its own next start."""

from __future__ import annotations

import subprocess
import sys

from lab import netns
from model.facts import FactsOrder
from model.netfilter import RuleTraceQuery, TracedFlow
from model.protocol import Order
from tests.agent.bed import HOST, ROOT, agent, until
from tests.agent.conftest import Bed

LONG = RuleTraceQuery(
    flows=(TracedFlow(family=4, source="", destination="10.9.0.3", protocol="tcp"),), duration_ms=60_000
)
ARMS = """
import time
import msgspec
from agent.host.ruletrace.tracer import RuleTracer
from model.netfilter import RuleTraceQuery, TracedFlow
tracer = RuleTracer(RuleTraceQuery(flows=(TracedFlow(family=4, source="", destination="10.9.0.3", protocol="tcp"),)))
tracer.arm()
print("armed", flush=True)
time.sleep(60)
"""


def tables(namespace: str) -> str:
    """The tables of nftables there."""
    return subprocess.run(
        netns.nsenter_argv(namespace, ["nft", "list", "tables"]), capture_output=True, text=True, check=True, timeout=10
    ).stdout


def kill_an_armed_trace(namespace: str) -> None:
    """Kills it as kill -9 does."""
    command = netns.nsenter_argv(namespace, [sys.executable, "-c", ARMS])
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"armed\n"
        child.kill()


async def test_a_new_agent_clears_away(bed: Bed) -> None:
    """A trace was killed with the agent: the next agent removes its table before it does anything else."""
    kill_an_armed_trace(bed.a)
    assert "kubereach_trace" in tables(bed.a)
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder) as running:
        await until(lambda: tables(bed.a) == "", "no table left")
        await until(lambda: "leftovers of a killed rule trace are removed" in running.log(), "said so")


async def test_an_order_that_is_cut_short_clears_away(bed: Bed) -> None:
    """An order that is not done in its time is killed with its trace; when its answer comes, the table is gone."""
    async with agent(bed.a, "a", "10.9.0.2", "10.9.0.1", bed.folder):
        await until(lambda: bed.controller.hellos, "the agent's hello")
        order = Order(order=7, timeout_ms=2000, facts=FactsOrder(vantage=HOST, rule_trace_asked=LONG))
        answer = await bed.controller.ask(order)
        assert bed.controller.armed == [7]
        assert "not done within" in answer.error
        assert tables(bed.a) == ""
