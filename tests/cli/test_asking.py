"""The commands that ask the controller: what they send, what they print, how they end."""

from __future__ import annotations

import os
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Kubereach
from tests.web.stub_controller import BROKEN, INCIDENT, PROBE, RESOLVED, TOKEN, UNNAMED, StubController, cell

PAIR = ("shop/frontend-0", "svc/pay/payments:8443")
UNKNOWN: dict[str, Any] = {
    **BROKEN,
    "verdict": "unknown",
    "outcome": "not_measured",
    "causes": [],
    "missing_evidence": ["node-a's agent is silent"],
}
PROBES = [
    ("healthy", PROBE, 0),
    ("blocked as policy intends", {**BROKEN, "verdict": "blocked_as_intended"}, 0),
    ("broken and named", BROKEN, 1),
    ("passes though forbidden", {**BROKEN, "outcome": "ok", "verdict": "unexpected_pass"}, 1),
    ("broken, not named", {**BROKEN, "causes": []}, 3),
    ("called inconclusive", {**BROKEN, "causes": [{**BROKEN["causes"][0], "code": "inconclusive"}]}, 3),
    ("not measured", UNKNOWN, 3),
]


@pytest.mark.parametrize(("report", "code"), [row[1:] for row in PROBES], ids=[row[0] for row in PROBES])
async def test_the_exit_code_of_a_probe_is_its_verdict(
    stub: StubController, kubereach: Kubereach, report: dict[str, Any], code: int
) -> None:
    """0 as it should be, 1 wrong and named, 3 inconclusive: the same for people and for machines."""
    stub.answers["probe"] = (200, report)
    for form in ("table", "json"):
        done = await kubereach("probe", *PAIR, "-o", form)
        assert (done.code, done.err) == (code, "")


async def test_json_and_yaml_are_the_document_of_the_api(stub: StubController, kubereach: Kubereach) -> None:
    """Nothing is added, dropped or renamed on the way, not even fields that this version does not know."""
    document = {**BROKEN, "of_a_later_version": {"x": [1, 2, None]}}
    stub.answers["probe"] = (200, document)
    stub.incidents = [INCIDENT, RESOLVED]
    assert (await kubereach("probe", *PAIR, "-o", "json")).json == document
    assert yaml.safe_load((await kubereach("probe", *PAIR, "-o", "yaml")).out) == document
    assert (await kubereach("matrix", "-o", "json")).json == stub.matrices["node"]
    assert (await kubereach("matrix", "--kind", "dns", "-o", "json")).json == stub.matrices["dns"]
    assert (await kubereach("incidents", "-o", "json")).json == [INCIDENT]
    assert (await kubereach("incidents", "--all", "-o", "json")).json == [INCIDENT, RESOLVED]
    assert (await kubereach("explain", "3f2a", "-o", "json")).json == INCIDENT


async def test_options_of_a_probe_reach_the_api(stub: StubController, kubereach: Kubereach) -> None:
    """What is not said is left to the controller."""
    stub.answers["probe"] = (200, PROBE)
    await kubereach("probe", *PAIR)
    words = "--proto UDP --port 53 --family 6 --count 7 --size 1400 --timeout 250ms --interval 2s --no-trace"
    await kubereach("probe", "node/node-a", "[fd96::a]", *words.split())
    plain, full = (body for request, body in stub.requests if request == "POST /api/v1/probe")
    unsaid = {"protocol": None, "port": None, "family": None, "count": 3, "size": 0, "timeout_ms": 1000, "trace": None}
    assert plain == {"source": "pod/shop/frontend-0", "destination": "svc/pay/payments:8443", **unsaid}
    said = {"protocol": "udp", "port": 53, "family": 6, "count": 7, "size": 1400, "timeout_ms": 250}
    assert full == {"source": "node/node-a", "destination": "fd96::a", **said, "interval_ms": 2000, "trace": False}


async def test_a_broken_probe_reads_well(stub: StubController, kubereach: Kubereach) -> None:
    """Cause, object, evidence, mend and the way of the packets stand there in words, without colour codes."""
    stub.answers["probe"] = (200, BROKEN)
    done = await kubereach("probe", *PAIR)
    for words in (
        "✗ shop/frontend-0 → svc/pay/payments:8443 (tcp/8443): does not get through",
        "timeout: no answer came  (0 of 3 answered)",
        "allows it: NetworkPolicy pay/allow-shop",
        "node.firewall_drop",
        "iptables-rule filter/FORWARD/3 on node-b",
        "-A FORWARD -p tcp -m tcp --dport 8443 -j DROP",
        "• its counter moved by exactly the three packets of the probe",
        "mend: iptables -D FORWARD 3",
        "3 sent, 0 answered, 3 lost",
        "→ out cni0",
        "✗ left node-b through its bridge cni0",
    ):
        assert words in done.out
    assert "\x1b" not in done.out
    assert "11 → 14" not in done.out
    assert "11 → 14" in (await kubereach("probe", *PAIR, "-o", "wide")).out


async def test_times_show_their_spread(stub: StubController, kubereach: Kubereach) -> None:
    """Minimum, median and maximum, and each phase where the probe has phases."""
    attempts = [
        {"outcome": "ok", "rtt_us": rtt, "status": 204, "phases": {"tls": 10 * rtt, "connect": rtt, "dns": 0}}
        for rtt in (81, 64, 1203)
    ]
    stub.answers["probe"] = (200, {**PROBE, "attempts": attempts})
    out = (await kubereach("probe", *PAIR)).out
    assert "times   min 64 µs · median 81 µs · max 1.2 ms" in out
    assert "HTTP status 204" in out
    assert [out.index(name) for name in ("dns ", "connect ", "tls ")] == sorted(
        out.index(name) for name in ("dns ", "connect ", "tls ")
    )
    assert "min 640 µs · median 810 µs · max 12 ms" in out


async def test_an_inconclusive_probe_says_what_is_missing(stub: StubController, kubereach: Kubereach) -> None:
    """Never a guess: what was ruled out and which evidence is missing."""
    stub.answers["probe"] = (200, {**UNKNOWN, "ruled_out": ["node.uplink_down"]})
    out = (await kubereach("probe", *PAIR)).out
    assert "inconclusive" in out
    assert "node-a's agent is silent" in out
    assert "node.uplink_down" in out


MATRICES = [
    ("healthy", [], 0, "✓ all 16 measured cells as they should be"),
    ("blocked as intended", [cell("node-a", "node-b", "failing", "blocked_as_intended")], 0, "⊘ blocked as intended 1"),
    ("failing", [cell("node-a", "node-b", "failing")], 1, "failing, should pass"),
    ("passes though forbidden", [cell("node-a", "node-b", "ok", "unexpected_pass")], 1, "policy forbids it"),
    ("degraded", [cell("node-a", "node-b", "degraded", loss=0.004)], 1, "<1 %"),
    ("stale", [cell("node-a", "node-b", "stale", age_s=75)], 3, "75 s"),
    ("unknown", [cell("node-a", "node-b", "unknown", age_s=None)], 3, "never"),
    ("starved", [cell("node-a", "node-b", "starved")], 3, "the agent got no CPU"),
    ("not sampled", [cell("node-a", "node-b", "unsampled")], 0, "✓ all 15 measured cells"),
]


@pytest.mark.parametrize(("cells", "code", "words"), [row[1:] for row in MATRICES], ids=[row[0] for row in MATRICES])
async def test_a_matrix_tells_its_states_apart(
    stub: StubController, kubereach: Kubereach, cells: list[dict[str, Any]], code: int, words: str
) -> None:
    """Silence is never an answer: every state has its own word and glyph, and its exit code."""
    for changed in cells:
        await stub.set_cell(changed)
    done = await kubereach("matrix")
    assert done.code == code
    assert words in done.out
    assert "node-d" in done.out


async def test_long_columns_are_numbered_and_named(kubereach: Kubereach) -> None:
    """A Service's name is no column heading; its number is, with the names below."""
    out = (await kubereach("matrix", "--kind", "service", COLUMNS="80")).out
    assert "shop/catalogue-recommendations:8080" in out
    assert max(map(len, out.splitlines())) <= 80


async def test_a_matrix_that_does_not_fit_is_listed(stub: StubController, kubereach: Kubereach) -> None:
    """A thousand columns are no grid: the list says what fails."""
    await stub.stop()
    stub.__init__(200)  # type: ignore[misc]
    await stub.start()
    done = await kubereach("matrix", KUBEREACH_URL=stub.url)
    assert "do not fit here" in done.out
    assert "node-0017" in done.out
    assert done.code == 1


INCIDENTS = [("none", [], 0), ("resolved", [RESOLVED], 0), ("open", [INCIDENT, RESOLVED], 1), ("unnamed", [UNNAMED], 3)]


@pytest.mark.parametrize(("found", "code"), [row[1:] for row in INCIDENTS], ids=[row[0] for row in INCIDENTS])
async def test_incidents_end_with_what_is_open(
    stub: StubController, kubereach: Kubereach, found: list[dict[str, Any]], code: int
) -> None:
    """Resolved is as it should be; open is wrong and named, or inconclusive."""
    stub.incidents = found
    for words in (("incidents",), ("incidents", "--all", "-o", "wide")):
        assert (await kubereach(*words)).code == code


async def test_explain_finds_an_incident_by_a_beginning(stub: StubController, kubereach: Kubereach) -> None:
    """The whole id, the beginning of one, or `latest`; what is ambiguous or unknown is said so."""
    stub.incidents = [INCIDENT, RESOLVED]
    assert INCIDENT["title"] in (await kubereach("explain", "latest")).out
    assert INCIDENT["title"] in (await kubereach("explain", INCIDENT["id"])).out
    resolved = await kubereach("explain", "3b")
    assert RESOLVED["title"] in resolved.out
    assert resolved.code == 0
    ambiguous = await kubereach("explain", "3")
    assert ambiguous.code == 2
    assert "3b00aa11bb22, 3f2a9c51d0e7" in ambiguous.error_line
    unknown = await kubereach("explain", "zz")
    assert unknown.code == 2
    assert "'zz'" in unknown.error_line


@pytest.mark.parametrize(
    ("whole", "words", "code"), [(True, ["--wait"], 0), (False, ["--wait", "1s"], 3), (False, [], 0)]
)
async def test_a_sweep_that_was_waited_for_is_whole(
    stub: StubController, kubereach: Kubereach, whole: bool, words: list[str], code: int
) -> None:
    """--wait ends with 0 only if every path was observed."""
    stub.answers["sweep"] = (200, {"whole": whole, "paths": 64, "covered": 64 if whole else 12, "silent": []})
    done = await kubereach("sweep", *words)
    assert done.code == code
    assert "64" in done.out


async def test_colour_is_for_terminals_only(stub: StubController, kubereach: Kubereach) -> None:
    """On a terminal there is colour, unless --no-color says no; a pipe never gets any."""
    import pty

    async def on_terminal(*words: str) -> str:
        master, slave = pty.openpty()
        process = await _start(stub, slave, *words)
        os.close(slave)
        await process.wait()
        said = os.read(master, 65536).decode()
        os.close(master)
        return said

    assert "\x1b[1;32m" in await on_terminal("matrix")
    assert "\x1b[1;32m" not in await on_terminal("matrix", "--no-color")
    assert "\x1b" not in (await kubereach("matrix")).out


async def _start(stub: StubController, out: int, *words: str) -> Any:
    import asyncio
    import sys

    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "KUBEREACH_URL": stub.url, "KUBEREACH_TOKEN": TOKEN}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", *words, stdout=out, stderr=out, env=env
    )
