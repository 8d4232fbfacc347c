"""Nodes that give pods no network: who is suspect and when, what is named, and that it closes with its sign."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from controller.agents import OrderError
from controller.cluster.api import ApiError
from controller.cluster.state import ClusterState, Condition, Pod
from controller.diagnosis.node_case import signs
from controller.diagnosis.node_watch import JOINING_S, TURNED_S, NodeWatch
from controller.incident.book import IncidentBook
from model.facts import CniFile, Facts, FactsOrder
from model.words import IncidentState
from tests.controller.diagnosis import world
from tests.controller.diagnosis.test_localise import FixedClock

NO_NETWORK = "KubeletNotReady: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady"
FLANNEL = 'plugin type="flannel" failed (add): open /run/flannel/subnet.env: no such file or directory'
GOOD = CniFile(path="/etc/cni/net.d/10-flannel.conflist", name="cbr0", types=("flannel", "portmap"))
NO_SANDBOX = Condition(type="PodReadyToStartContainers", status="False")


def node_is(state: ClusterState, *, ready: bool | None, reason: str = "") -> ClusterState:
    """node-b says this of itself."""
    changed = msgspec.structs.replace(state.nodes["node-b"], ready=ready, ready_reason=reason)
    return replace(state, nodes={**state.nodes, "node-b": changed})


def with_waiting(state: ClusterState, **changes: Any) -> ClusterState:
    """An endpoint on node-b that waits for its network."""
    given: dict[str, Any] = {
        "namespace": "kubereach",
        "node": "node-b",
        "phase": "Pending",
        "conditions": (NO_SANDBOX,),
    }
    waiting = Pod(uid="waiting", name="kubereach-endpoint-x", **(given | changes))
    return replace(state, pods={**state.pods, "waiting": waiting})


WELL = node_is(world.cluster(), ready=True)
SIGNS = [
    pytest.param(WELL, [], id="all well"),
    pytest.param(node_is(WELL, ready=False, reason=NO_NETWORK), ["node-b"], id="kubelet says so"),
    pytest.param(
        node_is(WELL, ready=False, reason="KubeletNotReady: PLEG is not healthy"), [], id="NotReady otherwise"
    ),
    pytest.param(node_is(WELL, ready=None, reason="NodeStatusUnknown: silent"), [], id="kubelet silent"),
    pytest.param(with_waiting(WELL), ["node-b"], id="endpoint without sandbox"),
    pytest.param(with_waiting(WELL, namespace="shop"), [], id="somebody else's pod"),
    pytest.param(with_waiting(WELL, phase="Running"), [], id="it runs"),
    pytest.param(with_waiting(WELL, conditions=()), [], id="nothing is said of its sandbox"),
    pytest.param(with_waiting(WELL, deleting=True), [], id="it goes"),
    pytest.param(with_waiting(WELL, host_network=True), [], id="it needs none"),
    pytest.param(with_waiting(node_is(WELL, ready=None)), [], id="on a silent node"),
]


@pytest.mark.parametrize(("state", "suspect"), SIGNS)
def test_just_nodes_without_network_are_suspect(state: ClusterState, suspect: list[str]) -> None:
    """By the kubelet's own words, or by an endpoint whose sandbox is not made on a node that is otherwise well."""
    assert [sign.node for sign in signs(state, "kubereach")] == suspect


@dataclass
class Known:
    """What the agent and Kubernetes' events say."""

    facts: Facts | OrderError = field(default_factory=lambda: Facts(cni=()))
    events: list[str] | ApiError = field(default_factory=list)


class Bench:
    """A watch over a cluster that is changed by hand; agent and API answer what is `known`."""

    def __init__(self, state: ClusterState, known: Known) -> None:
        self.state = replace(state, synced=True)
        self.known = known
        self.clock = FixedClock()
        self.book = IncidentBook(self.clock)
        self.asked = 0
        self.watch = NodeWatch(
            cluster=lambda: self.state, agents=self, book=self.book, api=self, namespace="kubereach", clock=self.clock
        )

    async def facts(self, node: str, order: FactsOrder, _timeout_s: float) -> Facts | OrderError:
        """As the agents' registry."""
        assert (node, "cni" in order.subjects) == ("node-b", True)
        self.asked += 1
        return self.known.facts

    async def get(self, path: str, params: dict[str, str], _timeout_s: float) -> dict[str, Any]:
        """As the API's client."""
        assert path == "/api/v1/namespaces/kubereach/events"
        assert "waiting" in params["fieldSelector"]
        if isinstance(self.known.events, ApiError):
            raise self.known.events
        return {"items": [{"message": text} for text in self.known.events]}

    async def at(self, seconds: float) -> list[tuple[str, str]]:
        """The open incidents' code and node, this long after the beginning."""
        self.clock.now = 200.0 + seconds
        await self.watch.turn()
        causes = [incident.causes[0] for incident in self.book.list(IncidentState.OPEN)]
        return [(cause.code, cause.object.node) for cause in causes]


BROKEN = msgspec.structs.replace(GOOD, missing_types=("portmap",))
NAMED = [
    pytest.param("node", Known(), "there is no network configuration in /etc/cni/net.d", id="no configuration"),
    pytest.param("node", Known(Facts(cni=(BROKEN,))), "not installed: portmap", id="plugin missing"),
    pytest.param(
        "node", Known(Facts(cni=(msgspec.structs.replace(GOOD, error="no JSON"),))), "no JSON", id="broken file"
    ),
    pytest.param(
        "node", Known(Facts(cni=(GOOD,))), "its network plugin is not ready", id="by the kubelet's word alone"
    ),
    pytest.param("node", Known(OrderError("silent", "no agent")), "its network plugin is not ready", id="agent silent"),
    pytest.param("pod", Known(Facts(cni=(GOOD,)), ["Failed to pull image", FLANNEL]), "subnet.env", id="plugin fails"),
    pytest.param("pod", Known(Facts(cni=(GOOD,)), ["Failed to pull image"]), None, id="no word of a plugin"),
    pytest.param("pod", Known(Facts(cni=(GOOD,)), ApiError(403, "no")), None, id="events may not be read"),
]


@pytest.mark.parametrize(("sign", "known", "says"), NAMED)
async def test_the_node_is_named_with_what_it_lacks(sign: str, known: Known, says: str | None) -> None:
    """A pod that waits proves nothing: without a lack in the configuration or a word of the plugin nobody is blamed."""
    state = node_is(WELL, ready=False, reason=NO_NETWORK) if sign == "node" else with_waiting(WELL)
    bench = Bench(WELL, known)
    await bench.at(0)
    bench.state = replace(state, synced=True)
    await bench.at(1)
    assert await bench.at(2 + TURNED_S) == ([("cni.not_ready", "node-b")] if says else [])
    if says:
        assert says in bench.book.list()[0].causes[0].summary


async def test_a_node_that_joins_is_given_time_and_one_that_was_well_less() -> None:
    """A new node waits for its plugin's image; nobody is blamed for that, and nobody asked."""
    bench = Bench(node_is(WELL, ready=False, reason=NO_NETWORK), Known())
    assert [await bench.at(s) for s in (0, TURNED_S + 1, JOINING_S - 1)] == [[], [], []]
    assert bench.asked == 0
    bench.state = replace(WELL, synced=True)
    assert await bench.at(JOINING_S) == []
    bench.state = replace(node_is(WELL, ready=False, reason=NO_NETWORK), synced=True)
    await bench.at(JOINING_S + 1)
    assert await bench.at(JOINING_S + 2 + TURNED_S) == [("cni.not_ready", "node-b")]


async def test_it_closes_with_its_sign_and_not_before() -> None:
    """Open while the sign stands, whatever paths do; closed with it; and an API that is silent closes nothing."""
    bench = Bench(node_is(WELL, ready=False, reason=NO_NETWORK), Known())
    await bench.at(0)
    assert await bench.at(JOINING_S) != []
    bench.state = replace(WELL, synced=True, stale_since=1.0)
    assert await bench.at(JOINING_S + 30) != []
    bench.state = replace(WELL, synced=True)
    assert await bench.at(JOINING_S + 31) == []
