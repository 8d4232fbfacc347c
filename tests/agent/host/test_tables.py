"""Connection tracking and counters against what `conntrack` and `nstat` say of the same namespace."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from model.facts import Facts, FactsOrder
from model.probes import Vantage
from model.tables import ConntrackQuery, ConntrackTuple
from tests.agent.host.kernel import facts, run

SETUP = r"""
ip link set lo up
nft 'add table ip t; add chain ip t o { type filter hook output priority 0; }; add rule ip t o ct state new accept'
nft 'add chain ip t n { type nat hook output priority -100; }; \
  add rule ip t n ip daddr 127.0.0.9 udp dport 53 dnat to 127.0.0.1:8053'
sysctl -qw net.netfilter.nf_conntrack_acct=1
for at in $(seq 1 30); do
  conntrack -I -s 10.1.0.$at -d 10.96.0.10 -p tcp --sport 4000 --dport 80 -r 10.244.0.7 -q 10.1.0.$at \
    --reply-port-src 8080 --reply-port-dst 4000 --state ESTABLISHED -t 100 -u SEEN_REPLY,ASSURED -m 9 >/dev/null
done
conntrack -I -s fd01::5 -d fd02::7 -p udp --sport 5000 --dport 53 -t 30 >/dev/null
fping -q -c2 -p20 127.0.0.5
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace with tracked connections."""
    name = f"krh-{os.getpid()}-t"
    run("", f"ip netns add {name}")
    try:
        run(name, SETUP)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


def ask(namespace: str, *subjects: str, queries: tuple[ConntrackQuery, ...] = ()) -> Facts:
    """Facts without an error."""
    found = facts(namespace, FactsOrder(vantage=Vantage(), subjects=subjects, conntrack_asked=queries))
    assert found.errors == {}
    return found


def test_how_full_connection_tracking_is(namespace: str) -> None:
    """Count and maximum of this namespace; statistics by the names that `conntrack -S` prints."""
    found = ask(namespace, "conntrack").conntrack
    assert found is not None
    assert found.count == int(run(namespace, "conntrack -C")) > 30
    assert found.maximum == int(run(namespace, "sysctl -n net.netfilter.nf_conntrack_max"))
    printed = run(namespace, "conntrack -S").split()
    theirs: dict[str, int] = {}
    for name, _, value in (word.partition("=") for word in printed):
        theirs[name] = theirs.get(name, 0) + int(value)
    ours = {name: value for name, value in found.statistics.items() if name in theirs}
    assert len(ours) > 6 and ours == {name: theirs[name] for name in ours}


QUERIES = {
    "address": (ConntrackQuery(source="10.1.0.7"), 1),
    "service": (ConntrackQuery(destination="10.96.0.10", protocol="tcp", destination_port=80), 30),
    "another port": (ConntrackQuery(destination="10.96.0.10", protocol="tcp", destination_port=81), 0),
    "the backend, by its replies": (ConntrackQuery(source="10.244.0.7", source_port=8080, reply=True), 30),
    "the backend, but asked the wrong way": (ConntrackQuery(source="10.244.0.7"), 0),
    "a port without a protocol": (ConntrackQuery(source_port=4000, source="10.1.0.3"), 1),
    "ipv6": (ConntrackQuery(family=6, destination="fd02:0::7", protocol="udp"), 1),
    "echo": (ConntrackQuery(protocol="icmp"), 1),
    "everything of a family": (ConntrackQuery(family=6), 1),
}


@pytest.mark.parametrize("name", QUERIES)
def test_entries_by_filter(namespace: str, name: str) -> None:
    """Just the entries that the query means."""
    query, count = QUERIES[name]
    (found,) = ask(namespace, queries=(query,)).conntrack_entries or ()
    assert (found.query, len(found.entries), found.more) == (query, count, False)


def test_an_entry_has_both_tuples(namespace: str) -> None:
    """The original and the reply's tuple, and the kernel's words about the connection."""
    (found,) = ask(namespace, queries=(ConntrackQuery(source="10.1.0.7"),)).conntrack_entries or ()
    (entry,) = found.entries
    assert entry.original == ConntrackTuple(
        source="10.1.0.7", destination="10.96.0.10", protocol="tcp", source_port=4000, destination_port=80
    )
    assert (entry.reply.source, entry.reply.source_port, entry.state) == ("10.244.0.7", 8080, "established")
    assert (set(entry.status), entry.mark) == ({"assured", "seen_reply"}, 9)
    assert 0 < entry.timeout_s <= 100


def test_real_packets_are_counted(namespace: str) -> None:
    """An entry that packets made has their number; one without a reply says so."""
    (echo,) = ask(namespace, queries=(ConntrackQuery(protocol="icmp"),)).conntrack_entries or ()
    assert (echo.entries[0].original.destination, echo.entries[0].original.packets) == ("127.0.0.5", 2)
    run(namespace, "echo x >/dev/udp/127.0.0.9/53")
    (dns,) = ask(namespace, queries=(ConntrackQuery(destination="127.0.0.9"),)).conntrack_entries or ()
    (entry,) = dns.entries
    assert (entry.reply.source, entry.reply.source_port) == ("127.0.0.1", 8053)
    assert {"dnat", "unreplied"} <= set(entry.status)


def test_the_number_of_entries_is_bounded(namespace: str) -> None:
    """No more than the limit, and it is told that there were more."""
    (found,) = ask(namespace, queries=(ConntrackQuery(protocol="tcp", limit=4),)).conntrack_entries or ()
    assert (len(found.entries), found.more) == (4, True)


def test_a_query_that_is_none(namespace: str) -> None:
    """A word that is no address is an error of the subject, not an empty answer."""
    order = FactsOrder(vantage=Vantage(), subjects=("links",), conntrack_asked=(ConntrackQuery(source="shop"),))
    found = facts(namespace, order)
    assert found.links and found.conntrack_entries is None
    assert "not an address" in found.errors["conntrack_entries"]


def test_counters(namespace: str) -> None:
    """The counters that `nstat` prints, by the kernel's names; a packet to a closed port moves the right one by one."""
    before = ask(namespace, "counters").counters
    run(namespace, "echo x >/dev/udp/127.0.0.1/9")
    after = ask(namespace, "counters").counters
    assert before is not None and after is not None
    assert after.protocols["Udp.NoPorts"] == before.protocols.get("Udp.NoPorts", 0) + 1
    printed = json.loads(run(namespace, "nstat -jasz"))["kernel"]
    ours = {name.replace(".", ""): value for name, value in after.protocols.items()}
    assert {name: value for name, value in printed.items() if name in ours and "Octets" not in name} == {
        name: ours[name] for name in printed if name in ours and "Octets" not in name
    }
    # What nstat leaves out are settings, not counters.
    settings = {"IpForwarding", "IpDefaultTTL", "TcpRtoAlgorithm", "TcpRtoMin", "TcpRtoMax", "TcpMaxConn"}
    assert ours.keys() - printed.keys() <= settings
    assert after.softnet and after.softnet[0].processed > 0


def test_no_ipvs_is_no_error(namespace: str) -> None:
    """Where the kernel has no IPVS there is no service, and asking loads nothing."""
    assert ask(namespace, "ipvs").ipvs == ()
    assert run(namespace, "ls /proc/net").split().count("ip_vs") == 0
