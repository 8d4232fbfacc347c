"""The agent with just the capabilities of its DaemonSet: all its work succeeds, and with one fewer some of it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import netns
from model.facts import FactsOrder, Packet
from model.netfilter import RuleTraceQuery, TracedFlow
from model.probes import ProbeOrder, Vantage
from model.protocol import Answer, Order
from model.words import Method, Outcome
from tests.agent.bed import HOST, FakeController, add_pod, agent, controller, ip, network, until
from tests.daemonset.manifests import pod_specs

POD = Vantage(pod_uid="uid-p", namespace="n", name="p", addresses=("10.9.0.22",))
SOMEBODY = "65532"
CAPABILITIES = tuple(pod_specs()["agent"]["containers"][0]["securityContext"]["capabilities"]["add"])
PACKET, POD_PACKET = (
    Packet(family=4, source=source, destination="10.9.0.1", protocol="tcp", destination_port=80)
    for source in ("10.9.0.2", "10.9.0.22")
)
TRACE = RuleTraceQuery(
    flows=(TracedFlow(family=4, source="", destination="10.9.0.1", protocol="tcp"),), duration_ms=200
)


@dataclass
class Ground:
    """A host with a pod on it, whose process is another user's, and a rule that drops nothing."""

    host: str
    controller: FakeController
    folder: Path


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    """Hosts 10.9.0.1 (controller) and 10.9.0.2, pod 10.9.0.22."""
    with network() as net:
        home, host, pod = net.add("ctl", 1), net.add("a", 2), net.add("p", 22)
        add_pod(tmp_path, POD.pod_uid, pod)
        netns.run_sync(host, ["iptables", "-A", "INPUT", "-s", "10.9.0.99", "-j", "DROP"])
        drop = ["unshare", "-m", "setpriv", "--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"]
        process = await asyncio.create_subprocess_exec(*netns.nsenter_argv(pod, [*drop, "sleep", "300"]))
        try:
            ip(host, "route", "add", "10.50.0.0/24", "via", "10.9.0.1")
            async with controller(home, "10.9.0.1", tmp_path) as fake:
                yield Ground(host, fake, tmp_path)
        finally:
            process.kill()
            await process.wait()


def orders() -> dict[str, Order]:
    """A piece of each kind of work."""

    def probe(vantage: Vantage, method: Method, port: int = 0) -> ProbeOrder:
        return ProbeOrder(vantage=vantage, method=method, family=4, address="10.9.0.1", port=port, count=1)

    asked = {
        "resolver of the pod": FactsOrder(vantage=POD, subjects=("resolver",)),
        "probe from the host": probe(HOST, Method.TCP, 8703),
        "ping from the host": probe(HOST, Method.ICMP),
        "probe as the pod": probe(POD, Method.TCP, 8703),
        "ping as the pod": probe(POD, Method.ICMP),
        "links and routes of the host": FactsOrder(vantage=HOST, subjects=("links", "routes", "neighbours", "fdb")),
        "rules of the host": FactsOrder(vantage=HOST, walks_asked=(PACKET,), droppers_asked=(PACKET,)),
        "routes of the pod": FactsOrder(vantage=POD, subjects=("links", "routes", "sockets")),
        "rules of the pod": FactsOrder(vantage=POD, walks_asked=(POD_PACKET,)),
        "rule trace": FactsOrder(vantage=HOST, rule_trace_asked=TRACE),
    }
    made = {}
    for number, (name, order) in enumerate(asked.items(), 1):
        kind = "probe" if isinstance(order, ProbeOrder) else "facts"
        made[name] = Order(order=number, timeout_ms=15_000, **{kind: order})  # type: ignore[arg-type]
    return made


def succeeded(order: Order, answer: Answer) -> bool:
    """Whether it was really done."""
    if order.probe is not None:
        return answer.probe is not None and [a.outcome for a in answer.probe.attempts] == [Outcome.OK]
    assert order.facts is not None
    if answer.facts is None or answer.facts.errors:
        return False
    walks = answer.facts.walks or ()
    return len(walks) == len(order.facts.walks_asked) and all(walk.verdict == "accept" for walk in walks)


async def work(ground: Ground, capabilities: tuple[str, ...]) -> set[str]:
    """What an agent with these capabilities fails to do."""
    kept = ",".join(f"+{name.lower()}" for name in capabilities)
    launcher = ("setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", f"-all,{kept}")
    async with agent(ground.host, "a", "10.9.0.2", "10.9.0.1", ground.folder, launcher=launcher) as running:
        await until(lambda: ground.controller.sockets, f"the agent connects: {running.log()}")
        asked = orders()
        answers = await asyncio.gather(*(ground.controller.ask(order, 30.0) for order in asked.values()))
        return {
            name for (name, order), answer in zip(asked.items(), answers, strict=True) if not succeeded(order, answer)
        }


async def test_these_capabilities_are_enough(ground: Ground) -> None:
    """Probes and facts of host and pod, with no privilege beside."""
    assert await work(ground, CAPABILITIES) == set()


@pytest.mark.parametrize("spared", CAPABILITIES)
async def test_none_of_them_can_be_spared(ground: Ground, spared: str) -> None:
    """Without it something of its work fails."""
    assert await work(ground, tuple(name for name in CAPABILITIES if name != spared)) != set()
