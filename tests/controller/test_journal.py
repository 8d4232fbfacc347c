"""What changed on a node before a failure is told beside the cause, and nothing that has nothing to do with it."""

from __future__ import annotations

import pytest

from controller.facts.journal import KEPT, Journal, shortly_before
from model.journal import Change

FAILED_S = 1_700_000_000.0


def change(subject: str, name: str, what: str = "gone", says: str = "", *, before_s: float = 1.2) -> Change:
    """A change so long before the failure, at a clock that is 100 s behind the controller's."""
    at_ms = round((FAILED_S - before_s - 100) * 1000)
    return Change(at_ms=at_ms, subject=subject, name=name, what=what, says=says)


def told(*changes: Change) -> list[str]:
    """What is said of a failure between 10.244.1.5 and 10.244.2.5, whose nodes are 10.77.1.11 and .12."""
    journal = Journal()
    journal.take("node-a", changes, 100.0)
    addresses = ("10.244.1.5", "10.244.2.5", "10.77.1.12", "fd44::5")
    return [one.says for one in shortly_before(journal, ("node-a",), FAILED_S, addresses, ("eth0",))]


TOLD = {
    "route of the peer's pods": (
        change("route", "10.244.2.0/24", says="via 10.77.1.12 dev eth0"),
        "route 10.244.2.0/24 via 10.77.1.12 dev eth0 went, 1.2 s before the first failure",
    ),
    "default route": (change("route", "0.0.0.0/0"), "route 0.0.0.0/0 went, 1.2 s before the first failure"),
    "uplink": (
        change("link", "eth0", "changed", "down"), "link eth0 changed: down, 1.2 s before the first failure"
    ),
    "setting": (
        change("sysctl", "net.ipv4.conf.all.forwarding", "changed", "to 0"),
        "sysctl net.ipv4.conf.all.forwarding changed to 0, 1.2 s before the first failure",
    ),
    "filter": (
        change("packet filter", "nftables", "changed", "by nft (process 7)", before_s=0.01),
        "packet filter nftables changed by nft (process 7), at the first failure",
    ),
    "tunnel's end": (
        change("fdb", "02:00:00:00:00:01", says="dst 10.77.1.12 dev flannel.1"),
        "fdb 02:00:00:00:00:01 dst 10.77.1.12 dev flannel.1 went, 1.2 s before the first failure",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_what_concerns_the_flow_is_told(name: str) -> None:
    """In words, with how long before the first failure it was."""
    given, says = TOLD[name]
    assert told(given) == [says]


NOT_TOLD = {
    "another node's route": change("route", "10.244.3.0/24"),
    "another tunnel's end": change("fdb", "02:00:00:00:00:01", says="dst 10.77.1.120 dev flannel.1"),
    "a pod's device": change("link", "veth1234", "new"),
    "a pod's address": change("address", "10.244.1.9/32", "new"),
    "long before": change("route", "10.244.2.0/24", before_s=60),
    "behind the failure": change("route", "10.244.2.0/24", before_s=-3),
}


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_does_not_concern_it_is_not(name: str) -> None:
    """Neither what lies elsewhere nor what happened at another time."""
    assert told(NOT_TOLD[name]) == []


def test_the_latest_three_are_told_and_the_filter_last() -> None:
    """A node where much changes does not bury the incident; who changed the packet filter is often nobody's fault."""
    routes = [change("route", name, before_s=2.0 + at) for at, name in enumerate(("10.244.2.0/24", "10.244.0.0/16"))]
    filters = [change("packet filter", "nftables", "changed", before_s=0.5 + at) for at in range(3)]
    words = [one.split()[:2] for one in told(*filters, *routes)]
    assert words == [["route", "10.244.2.0/24"], ["route", "10.244.0.0/16"], ["packet", "filter"]]


def test_nothing_is_noted_twice_and_little_is_kept() -> None:
    """An agent tells again what it does not know to have arrived; the oldest is forgotten first."""
    journal = Journal()
    same = change("route", "10.244.2.0/24")
    assert (journal.take("a", [same], 0.0), journal.take("a", [same], 0.0)) == (1, 0)
    journal.take("a", [change("link", f"veth{at}") for at in range(KEPT)], 0.0)
    assert len(journal.of("a")) == KEPT and journal.of("a")[0].change.name == "veth0"
    journal.forget(["b"])
    assert journal.of("a") == ()
