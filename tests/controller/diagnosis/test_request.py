"""What people write as A and B: understood as they mean it, refused with the input's name."""

from __future__ import annotations

import pytest

from controller.diagnosis.asked import ProbeRequest, TargetError
from controller.diagnosis.request import resolve
from controller.plan.paths import EgressTarget
from model.words import Method
from tests.controller.diagnosis import world

EGRESS = (
    EgressTarget(url="https://web.outside.test/", host="web.outside.test", port=443, addresses=("203.0.113.10",)),
)


def ask(source: str, destination: str, **more: object):
    """Resolve a request against the healthy cluster."""
    return resolve(ProbeRequest(source=source, destination=destination, **more), world.cluster(), EGRESS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "destination", "more", "method", "address", "port"),
    [
        pytest.param("node/node-a", "node/node-b", {}, Method.UDP, "10.77.1.12", 8701, id="node to node"),
        pytest.param("node/node-a", "node/node-b", {"port": 22}, Method.TCP, "10.77.1.12", 22, id="node and port"),
        pytest.param("pod/shop/web-node-a", "pod/shop/web-node-b", {}, Method.TCP, "10.244.2.2", 8080, id="pod to pod"),
        pytest.param(
            "shop/web-node-a", "shop/web-node-b", {"protocol": "icmp"}, Method.ICMP, "10.244.2.2", 0, id="short form"
        ),
        pytest.param("shop/web-node-a", "svc/shop/web", {}, Method.TCP, "10.96.3.7", 80, id="Service, first port"),
        pytest.param("shop/web-node-a", "svc/shop/web:http", {}, Method.TCP, "10.96.3.7", 80, id="Service, named port"),
        pytest.param("shop/web-node-a", "10.96.3.7:80", {}, Method.TCP, "10.96.3.7", 80, id="Service address"),
        pytest.param("shop/web-node-a", "10.244.2.2:8080", {}, Method.TCP, "10.244.2.2", 8080, id="pod address"),
        pytest.param("shop/web-node-a", "dns/web.shop.svc.cluster.local", {}, Method.DNS, "10.96.0.10", 53, id="name"),
        pytest.param("shop/web-node-a", "https://web.outside.test/", {}, Method.HTTP, "203.0.113.10", 443, id="URL"),
        pytest.param("node/node-a", "203.0.113.10", {}, Method.TCP, "203.0.113.10", 443, id="egress address"),
    ],
)
def test_what_is_understood(source, destination, more, method, address, port):
    """Each way of writing leads to the flow that is meant."""
    flow = ask(source, destination, **more).flow
    assert (flow.method, flow.destination.address, flow.port) == (method, address, port)


def test_a_service_is_asked_through_its_backends_too():
    """A Service's question carries the flow to each ready backend."""
    question = ask("shop/web-node-a", "svc/shop/web")
    assert {f.destination.address for f in question.backends} == {"10.244.1.2", "10.244.2.2", "10.244.3.2"}
    assert {f.port for f in question.backends} == {8080}


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("web", "web.shop.svc.cluster.local."),
        ("web.shop", "web.shop.svc.cluster.local."),
        ("web.shop.svc", "web.shop.svc.cluster.local."),
        ("web.outside.test", "web.outside.test."),
    ],
)
def test_names_are_completed_as_the_search_path_does(written, asked):
    """Short cluster names are completed; others stand as they are."""
    assert ask("shop/web-node-a", f"dns/{written}").flow.name == asked


@pytest.mark.parametrize(
    ("source", "destination", "more", "named"),
    [
        pytest.param("node/node-x", "node/node-b", {}, "node-x", id="unknown node"),
        pytest.param("pod/shop/nobody", "node/node-b", {}, "shop/nobody", id="unknown pod"),
        pytest.param("node/node-a", "svc/shop/nothing", {}, "shop/nothing", id="unknown Service"),
        pytest.param("node/node-a", "svc/shop/web:81", {}, "81", id="unknown Service port"),
        pytest.param("node/node-a", "svc/shop/web:70000", {}, "70000", id="impossible Service port"),
        pytest.param("node/node-a", "node/node-b", {"port": 70000}, "70000", id="impossible port"),
        pytest.param("node/node-a", "10.244.2.2:70000", {}, "70000", id="impossible port of an address"),
        pytest.param("node/node-a", "8.8.8.8", {}, "8.8.8.8", id="address outside that was not configured"),
        pytest.param("node/node-a", "https://example.com/", {}, "example.com", id="URL that was not configured"),
        pytest.param("node/node-a", "10.300.1.1", {}, "10.300.1.1", id="malformed address"),
        pytest.param("node/node-a", "node/node-b", {"family": 6}, "IPv6", id="no such family"),
        pytest.param("node/node-a", "node/node-b", {"protocol": "quic"}, "quic", id="unknown protocol"),
        pytest.param("node/node-a", "dns/" + "a" * 64 + ".test", {}, "aaa", id="label too long"),
        pytest.param("10.244.1.2", "node/node-b", {}, "10.244.1.2", id="an address is no source"),
    ],
)
def test_what_is_refused_is_named(source, destination, more, named):
    """Bad input is refused with a text that names it; nothing outside may be probed unless it was configured."""
    with pytest.raises(TargetError) as refused:
        ask(source, destination, **more)
    assert named in str(refused.value)
