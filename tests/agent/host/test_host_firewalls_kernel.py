"""The recordings of Docker, firewalld and ufw in the kernel: what the walk says of a packet is what becomes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.facts import FactsOrder, Packet
from model.netfilter import RuleRef
from model.probes import Vantage
from tests.agent.host.kernel import CLIENT, CLIENT6, FENCE_PORT, SERVER, SERVER6, Router, disagreements, facts, run
from tests.agent.host.tracing import trace

FOLDER = Path(__file__).resolve().parents[2] / "recorded"
# The recorded host's device and addresses, and the router's.
HERE = {
    r"\beth0\b": "in0", r"\bnamed0\b": "out0", r"\b10\.70\.0\.9\b": SERVER, r"\b10\.70\.0\.2\b": "10.50.1.1",
    r"\b172\.33\.0\.2\b": SERVER, r"\b172\.33\.0\.0/24": "10.50.2.0/24", r"\bfd70::2\b": "fd50:1::1",
    "-i in0 -o lo": "-i in0 -o out0",
}  # fmt: skip
FENCE = {
    "docker": "iptables-nft -I FORWARD -p udp --dport {port} -j ACCEPT",
    "firewalld-nftables": "nft insert rule inet firewalld filter_FORWARD udp dport {port} accept; "
    "nft insert rule inet firewalld filter_PREROUTING udp dport {port} accept",
    "firewalld-iptables": "iptables-nft -I FORWARD -p udp --dport {port} -j ACCEPT",
    "ufw": "iptables-nft -I FORWARD -p udp --dport {port} -j ACCEPT",
}
# Somebody, and those whom the recorded firewalls know.
SOURCES = {4: (CLIENT, "10.71.0.5", "10.72.0.5", "10.73.0.5", "10.74.0.5"), 6: (CLIENT6, "fd73::5")}
PORTS = (22, 25, 53, 80, 443, 2050, 2222, 8080, 8082, 8443, 8444)


@pytest.fixture(scope="module", params=FENCE)
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[str, Router]]:
    """A router with recorded rules, and which they are."""
    with Router() as router:
        load(router, request.param)
        yield request.param, router


def load(router: Router, name: str) -> None:
    """Puts the recorded rules into the router, as if it were the recorded host."""
    for suffix, command in (("iptables", "iptables-nft-restore"), ("ip6tables", "ip6tables-nft-restore")):
        run(router.router, command, moved(FOLDER / f"{name}.{suffix}"))
    native = re.search(r"^table inet firewalld \{.*?^\}", moved(FOLDER / f"{name}.nft"), re.DOTALL | re.MULTILINE)
    if native:
        run(router.router, "nft -f -", native[0] + "\n")
    run(router.router, FENCE[name].format(port=FENCE_PORT))


def moved(path: Path) -> str:
    """The recorded text with the router's names."""
    text = path.read_text()
    for theirs, ours in HERE.items():
        text = re.sub(theirs, ours, text)
    return text


def packets() -> list[Packet]:
    """TCP and UDP from every known source through the router, and to the port that it hands on.

    What ends at the router itself arrives nowhere, whatever becomes of it.
    """
    ways = [
        (family, source, SERVER if family == 4 else SERVER6, protocol, port)
        for family, sources in SOURCES.items() for source in sources for protocol in ("tcp", "udp") for port in PORTS
    ]  # fmt: skip
    ways += [(4, CLIENT, "10.50.1.1", "tcp", port) for port in (8080, 8082)]
    return [
        Packet(
            family=family, source=source, destination=destination, protocol=protocol, incoming="in0",
            source_port=20_000 + at, destination_port=port,
        )
        for at, (family, source, destination, protocol, port) in enumerate(ways)
    ]  # fmt: skip


def test_the_walk_agrees_with_the_kernel(loaded: tuple[str, Router]) -> None:
    """No packet that the walk accepts is kept back, none that it drops arrives; translated ones are where it says."""
    _, router = loaded
    asked = packets()
    differing, unsure = disagreements(router, asked)
    assert not differing, "\n".join(differing)
    assert unsure == 0
    verdicts = {one is None for one in router.send(asked[:22] + asked[-2:])}
    assert verdicts == {True, False}


def test_walk_and_trace_name_the_same_rule(loaded: tuple[str, Router]) -> None:
    """The walk says beforehand which rule decides over what is for the host itself; the trace says the same."""
    name, router = loaded
    ways = [(4, "10.50.1.1", source) for source in SOURCES[4][1:4]] + [
        (6, "fd50:1::1", source) for source in SOURCES[6]
    ]
    asked = [
        Packet(
            family=family, source=source, destination=destination, protocol="tcp", incoming="in0",
            source_port=20_000 + port, destination_port=port,
        )
        for family, destination, source in ways for port in (25, 8443)
    ]  # fmt: skip
    walks = facts(router.router, FactsOrder(vantage=Vantage(), walks_asked=tuple(asked))).walks or ()
    seen = set()
    for walk in walks:
        (end,) = trace(router, walk.asked).ends
        assert (end.verdict, walk.unsure) == (walk.verdict, ()), walk
        if end.rule is None:
            assert (end.hook, walk.decided_by) == ("input", None)
        else:
            assert walk.decided_by is not None
            assert place(walk.decided_by) == place(end.rule), walk
        seen.add(end.verdict)
    assert ("accept" in seen) and (name == "docker" or seen & {"drop", "reject"})


def place(rule: RuleRef) -> tuple[str, str, str, int]:
    """Where a rule stands."""
    return rule.backend, rule.table, rule.chain, rule.position
