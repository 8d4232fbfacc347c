"""What a trace shows, by values alone: where it stopped, and the causes that rest on it."""
# ruff: noqa: E501 - one case a line reads better

from __future__ import annotations

import msgspec
import pytest

from controller.diagnosis import explain
from controller.diagnosis.case import Case
from controller.diagnosis.hops import told, with_rules
from controller.diagnosis.trace import Trace
from controller.diagnosis.way import way_of
from controller.diagnosis.witness import flows_at, words_of
from model.diagnosis import Cause
from model.facts import Link
from model.netfilter import RuleRef, RuleTrace, TraceEnd
from model.probes import Vantage
from model.trace import Seen, Traced
from model.words import MatrixKind, Method, Outcome
from tests.controller.diagnosis import world

ENDS = ("10.244.1.2", "10.244.2.2:8700")


def found(case: Case) -> tuple[Cause, ...]:
    """What is found, best first."""
    return tuple(f.cause for f in explain.ordered([*explain.early(case), *explain.late(case)]))


def codes(case: Case) -> tuple[str, ...]:
    """The codes that are found, best first."""
    return tuple(cause.code for cause in found(case))


def seen(
    vantage: int, device: str, direction: str, numbers: int = 0b111110, way: str = "request", **more: object
) -> Seen:
    """Five packets at a device of a pod (0) or its host (1)."""
    source, destination = ENDS if way == "request" else (ENDS[1], ENDS[0])
    after_ns = int(more.pop("after_ns", 0))  # type: ignore[call-overload]
    return Seen(
        vantage=vantage, device=device, direction=direction, way=way, source=source, destination=destination,
        numbers=f"{numbers:x}", packets=numbers.bit_count(), after_ns=after_ns, **more,  # type: ignore[arg-type]
    )  # fmt: skip


POD_A = (Link(index=2, name="eth0", kind="veth", peer_index=9),)
HOST = (
    Link(index=1, name="eth0", kind="veth"),
    Link(index=9, name="veth9", kind="veth", master="cni0"),
    Link(index=8, name="veth8", kind="veth", master="cni0"),
    Link(index=3, name="cni0", kind="bridge"),
    Link(index=4, name="flannel.1", kind="vxlan"),
)
THERE = (
    seen(0, "eth0", "out"),
    seen(1, "veth9", "in"),
    seen(1, "cni0", "in"),
    seen(1, "flannel.1", "out"),
    seen(1, "eth0", "out", outer="a>b"),
)
ARRIVED = (
    seen(1, "eth0", "in", outer="a>b"),
    seen(1, "flannel.1", "in"),
    seen(1, "cni0", "out"),
    seen(1, "veth9", "out"),
    seen(0, "eth0", "in"),
)


def trace_of(here: tuple[Seen, ...], there: tuple[Seen, ...] | None, sent: int = 5, refused: str = "") -> Trace:
    """A trace between the pods of node-a and node-b; None: node-b could not be watched."""
    flow = world.pod_flow()
    devices = {0: POD_A, 1: HOST}
    watched = {"node-a": (flow.source.vantage, Vantage()), "node-b": (flow.destination.vantage, Vantage())}
    answers = {"node-a": Traced(seen=here, sent=sent, refused=refused, devices=devices)}
    if there is not None:
        answers["node-b"] = Traced(seen=there, devices=devices)
    return Trace(flow, 5, watched, answers, {} if there is not None else {"node-b": "silent"})


def node_of(address: str) -> str:
    """Whose an address is."""
    return {"10.244.1.2": "node-a", "10.244.2.2": "node-b", "a": "node-a", "b": "node-b"}.get(address, "")


UPLINKS = {"node-a": "eth0", "node-b": "eth0"}
SOCKET = seen(0, "socket", "in")
BACK = tuple(
    seen(v, d, w, way="reply")
    for v, d, w in ((0, "eth0", "out"), (1, "veth9", "in"), (1, "cni0", "in"), (1, "flannel.1", "out"))
)
OVER = seen(1, "eth0", "out", way="reply", outer="b>a")
FLOODED = seen(1, "veth8", "out")


@pytest.mark.parametrize(
    ("here", "there", "place", "node", "device", "words"),
    [
        pytest.param((), (), "sender", "node-a", "", "no device sent them", id="neighbour or link of the sender"),
        pytest.param(THERE[:1], (), "node", "node-a", "eth0", "other end of that cable", id="cable of the sender"),
        pytest.param(THERE[:3], (), "node", "node-a", "cni0", "left it by no device", id="routing or FORWARD"),
        pytest.param(THERE[:4], (), "node", "node-a", "flannel.1", "did not leave it in a tunnel packet", id="tunnel's entry"),
        pytest.param(THERE, (), "between", "node-a", "eth0", "never reached node-b", id="fabric"),
        pytest.param(THERE, None, "unwatched", "node-a", "eth0", "was not watched", id="nobody watched there"),
        pytest.param(THERE, ARRIVED[:1], "node", "node-b", "eth0", "did not come out of the tunnel", id="INPUT of the tunnel"),
        pytest.param(THERE, ARRIVED[:2], "node", "node-b", "flannel.1", "left it by no device", id="FORWARD there"),
        pytest.param(THERE, (*ARRIVED[:3], FLOODED), "node", "node-b", "cni0", "reached no pod", id="flooded by the bridge"),
        pytest.param(THERE, ARRIVED[:4], "node", "node-b", "veth9", "not seen at its other end", id="cable there"),
        pytest.param(THERE, ARRIVED, "node", "node-b", "eth0", "not handed up", id="the pod's own rules"),
        pytest.param(THERE, (*ARRIVED, SOCKET), "destination", "node-b", "socket", "nothing came back", id="silent process"),
        pytest.param(THERE, (*ARRIVED, SOCKET, *BACK), "node", "node-b", "flannel.1", "the reply entered the tunnel", id="reply's tunnel"),
        pytest.param(THERE, (*ARRIVED, SOCKET, *BACK, OVER), "between", "node-b", "eth0", "the reply left node-b", id="reply in the fabric"),
    ],
)  # fmt: skip
def test_the_stop_is_where_packets_were_seen_last(here, there, place, node, device, words):
    """By the last device, and what comes behind it on the way; a port that a bridge floods is no part of the way."""
    stop = told(trace_of(here, there), UPLINKS, node_of)[1].stop
    assert stop is not None
    assert (stop.place, stop.node, stop.device, stop.packets, stop.of) == (place, node, device, 5, 5)
    assert words in stop.says


@pytest.mark.parametrize(
    ("here", "there", "asked"),
    [
        pytest.param((), (), [("", 0, "10.244.2.2", 8700, "udp")], id="sender"),
        pytest.param(THERE[:3], (), [("10.244.1.2", 0, "10.244.2.2", 8700, "udp")], id="forwarded"),
        pytest.param(THERE, ARRIVED[:1], [("a", 0, "b", 0, "udp")], id="the tunnel that carries it"),
        pytest.param(THERE, (*ARRIVED, SOCKET, *BACK[:3]), [("10.244.2.2", 8700, "10.244.1.2", 0, "udp")], id="reply"),
    ],
)
def test_the_kernel_is_asked_about_packets_as_they_reach_the_stop(here, there, asked):
    """By the ends that they have at the first device there, or by those of the tunnel that they did not come out of."""
    trace = trace_of(here, there)
    stop = told(trace, UPLINKS, node_of)[1].stop
    assert stop is not None
    flows = [
        (f.source, f.source_port, f.destination, f.destination_port, f.protocol)
        for f in flows_at(trace, way_of(trace), stop)
    ]
    assert flows == asked


def test_what_the_kernel_says_is_told():
    """A rule with its table, chain and duty; the routing; and nothing where it knows of no loss."""
    rule = RuleRef(
        backend="nft_compat",
        family=4,
        table="filter",
        chain="FORWARD",
        position=3,
        text="-j DROP",
        target="NetworkPolicy a/b",
    )
    by_rule = RuleTrace(ends=(TraceEnd(verdict="drop", hook="forward", packets=5, rule=rule),))
    lost = RuleTrace(ends=(TraceEnd(verdict="lost", hook="routing", packets=5),))
    passed = RuleTrace(ends=(TraceEnd(verdict="accept", hook="postrouting", packets=5),))
    assert words_of(by_rule) == "dropped by rule 3 of filter FORWARD (for NetworkPolicy a/b): -j DROP"
    assert "by the routing" in words_of(lost)
    assert (words_of(passed), words_of(None)) == ("", "")
    summary = told(trace_of(THERE[:3], ()), UPLINKS, node_of)[1]
    named = with_rules(summary, by_rule).stop
    assert named is not None and named.rule is not None
    assert (named.rule.name, named.rule.node) == ("filter/FORWARD/3", "node-a")
    assert with_rules(summary, passed) == summary


def test_no_stop_without_loss():
    """Where every packet was answered nothing stopped, and where the sender was refused nothing was sent."""
    answered = (*THERE, *(seen(0, d, "in", way="reply") for d in ("eth0", "socket")))
    hops, summary = told(trace_of(answered, (*ARRIVED, SOCKET)), UPLINKS, node_of)
    assert (summary.stop, summary.answered, summary.lost) == (None, 5, 0)
    assert all(hop.lost == 0 for hop in hops)
    refused = told(trace_of((), (), sent=0, refused="EPERM: no"), UPLINKS, node_of)[1]
    assert refused.stop is not None
    assert (refused.stop.place, refused.stop.error, refused.lost) == ("sender", "EPERM: no", 0)


def test_losses_are_counted_where_they_happen():
    """Numbers tell how many were lost behind which device; the stop is where most were."""
    here = (
        *THERE[:2],
        seen(1, "cni0", "in", 0b111100),
        *(seen(0, d, "in", 0b1000, way="reply") for d in ("eth0", "socket")),
    )
    there = tuple(msgspec.structs.replace(s, numbers=f"{0b11100:x}") for s in ARRIVED)
    hops, summary = told(trace_of(here, (*there, seen(0, "socket", "in", 0b1000))), UPLINKS, node_of)
    lost = {(h.node, h.namespace != "", h.device): h.lost for h in hops if h.lost}
    assert lost == {("node-a", False, "veth9"): 1, ("node-a", False, "cni0"): 1, ("node-b", True, "eth0"): 2}
    assert (summary.answered, summary.lost) == (1, 4)
    assert summary.stop is not None
    assert (summary.stop.node, summary.stop.device, summary.stop.packets) == ("node-b", "eth0", 2)


def test_translations_and_time_on_the_wire():
    """What changes between two devices is told, and undone on the way back; the wire's time needs no common clock."""
    out = msgspec.structs.replace(seen(1, "eth0", "out", after_ns=50_000), source="10.77.1.11")
    back = [
        msgspec.structs.replace(seen(1, "eth0", "in", way="reply", after_ns=650_000), destination="10.77.1.11"),
        seen(0, "socket", "in", way="reply", after_ns=660_000),
    ]
    there = (seen(1, "eth0", "in"), seen(1, "eth0", "out", way="reply", after_ns=400_000))
    hops, summary = told(trace_of((THERE[0], out, *back), there), UPLINKS, node_of)
    assert [h.translated for h in hops if h.translated] == [
        "SNAT 10.244.1.2 → 10.77.1.11", "SNAT 10.77.1.11 → 10.244.1.2",
        "SNAT undone 10.244.1.2 → 10.77.1.11", "SNAT undone 10.77.1.11 → 10.244.1.2",
    ]  # fmt: skip
    assert summary.network_us == 200


@pytest.mark.parametrize(
    ("hosts", "what"),
    [
        pytest.param(
            {Method.UDP: Outcome.TIMEOUT, Method.TCP: Outcome.OK, Method.ICMP: Outcome.OK}, "UDP", id="one protocol"
        ),
        pytest.param({Method.UDP: Outcome.TIMEOUT, Method.TCP: Outcome.TIMEOUT}, "all traffic", id="everything"),
        pytest.param({Method.UDP: Outcome.OK}, "UDP port 8701", id="one port"),
        pytest.param({}, "UDP", id="nothing else is known"),
    ],
)
def test_fabric_is_named_by_both_ends(hosts, what):
    """Left the one uplink, never reached the other: direction and what is blocked are named, and no more than that."""
    trace = world.traced(world.host_flow(), {"node-a": (world.seen("eth0", "out", 5),), "node-b": ()})
    pair = frozenset({("node-a", "node-b", MatrixKind.HOST), ("node-b", "node-a", MatrixKind.HOST)})
    case = world.case(world.host_flow(), failing=pair, burst=world.failed(), trace=trace, hosts=hosts)
    assert codes(case) == ("fabric.blocked",)
    assert found(case)[0].object.name == f"node-a → node-b {what}"


@pytest.mark.parametrize(
    ("hosts", "what"),
    [
        pytest.param({Method.UDP: Outcome.OK, Method.TCP: Outcome.OK}, "UDP port 8472 (VXLAN)", id="the tunnel alone"),
        pytest.param({Method.UDP: Outcome.TIMEOUT, Method.TCP: Outcome.TIMEOUT}, "all traffic", id="everything"),
    ],
)
def test_of_the_pods_tunnel_it_is_said_only_where_the_hosts_reach_one_another(hosts, what):
    """A pod's packets are lost in their tunnel; where the hosts' own are lost too, it is no matter of the tunnel."""
    outer = "10.77.1.11>10.77.1.12"
    trace = world.traced(world.pod_flow(), {"node-a": (world.seen("eth0", "out", 5, outer=outer),), "node-b": ()})
    case = world.case(world.pod_flow(), burst=world.failed(), trace=trace, hosts=hosts)
    assert found(case)[0].object.name == f"node-a → node-b {what}"


def test_fabric_needs_both_ends():
    """With one end silent nobody can say where the packets went."""
    trace = world.traced(world.host_flow(), {"node-a": (world.seen("eth0", "out", 5),)})
    case = world.case(world.host_flow(), burst=world.failed(), trace=trace)
    assert codes(case) == ()


def test_reply_lost_in_the_fabric():
    """The request arrives and the reply does not: the other direction is named."""
    trace = world.traced(world.host_flow(), {
        "node-a": (world.seen("eth0", "out", 5),),
        "node-b": (world.seen("eth0", "in", 5), world.seen("eth0", "out", 5, reply=True)),
    })  # fmt: skip
    case = world.case(world.host_flow(), burst=world.failed(), trace=trace)
    assert found(case)[0].object.name.startswith("node-b → node-a")
