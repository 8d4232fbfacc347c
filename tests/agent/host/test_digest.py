"""What is known already is not sent again: subjects by their digest, in which nothing stands that moves by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from agent.host.digest import digest
from model.facts import Facts, FactsOrder, Link
from model.probes import Vantage
from tests.agent.host.kernel import facts, run

SUBJECTS = ("links", "addresses", "routes", "sysctls")


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace with a device."""
    name = f"krh-{os.getpid()}-d"
    run("", f"ip netns add {name}")
    try:
        run(name, "ip link set lo up; ip link add va type veth peer name vb; ip link set va up; ip link set vb up;"
                  "ip addr add 10.70.0.1/24 dev va")  # fmt: skip
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


def ask(namespace: str, known: dict[str, str]) -> Facts:
    """The subjects, but for those of which this is known."""
    return facts(namespace, FactsOrder(vantage=Vantage(), subjects=SUBJECTS, known=known))


def test_only_what_changed_is_sent(namespace: str) -> None:
    """The first answer has everything and its digests; the next only the subject that is another."""
    first = ask(namespace, dict.fromkeys(SUBJECTS, ""))
    assert all(getattr(first, one) for one in SUBJECTS) and set(first.digests) == set(SUBJECTS)
    run(namespace, "fping -q -c3 -p10 10.70.0.1")
    again = ask(namespace, first.digests)
    assert [getattr(again, one) for one in SUBJECTS] == [None] * 4 and again.digests == first.digests
    run(namespace, "ip route add 10.71.0.0/16 via 10.70.0.9")
    changed = ask(namespace, first.digests)
    assert changed.routes and (changed.links, changed.addresses, changed.sysctls) == (None, None, None)
    assert {one for one in SUBJECTS if changed.digests[one] != first.digests[one]} == {"routes"}


def test_who_knows_nothing_gets_no_digests(namespace: str) -> None:
    """An order without `known` is answered as ever."""
    assert ask(namespace, {}).digests == {}


def test_counters_are_not_in_a_digest() -> None:
    """A link that carried packets says what it said; one that went down does not."""
    link = Link(index=2, name="eth0", up=True, mtu=1500)
    busy = msgspec.structs.replace(link, rx_packets=7, tx_packets=9, rx_dropped=1)
    down = msgspec.structs.replace(link, up=False)
    assert digest("links", (link,)) == digest("links", (busy,)) != digest("links", (down,))
