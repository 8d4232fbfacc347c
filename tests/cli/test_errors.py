"""Bad input and absent controllers: one clear line, the right exit code, and nothing sent that cannot be right."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from cli.client import ConfigError, UnreachableError
from cli.locate import find_access
from lab import spec
from lab.state import LabState, ProcessId, save_state, this_process
from tests.cli.conftest import Kubereach, run_kubereach
from tests.web.stub_controller import BROKEN, StubController

USAGE = [
    (["probe", "shop/frontend-0", "svc/pay/payments:70000"], "port 70000 in 'svc/pay/payments:70000'"),
    (["probe", "node/node-a", "node/node-b", "--port", "70000"], "port 70000 is out of range"),
    (["probe", "node/node-a", "node/node-b", "--port", "http"], "'http' is no port"),
    (["probe", "node/node-a", "10.0.0.300"], "'10.0.0.300' is a malformed IPv4 address"),
    (["probe", "node/node-a", "node/node-b", "--proto", "quic"], "'quic' is unknown; use one of tcp, udp"),
    (["probe", "node/node-a", "node/node-b", "--family", "5"], "'5' is unknown; use one of 4, 6"),
    (["probe", "node/node-a", "10.0.0.1", "--family", "6"], "--family 6 contradicts '10.0.0.1'"),
    (["probe", "node/node-a", "10.0.0.1:53", "--port", "54"], "--port 54 contradicts '10.0.0.1:53'"),
    (["probe", "node/node-a", "10.0.0.1", "--proto", "tcp"], "needs a port"),
    (["probe", "node/node-a", "node/node-b", "--count", "0"], "'0' is not accepted"),
    (["probe", "node/node-a", "node/node-b", "--timeout", "soon"], "'soon' is no duration"),
    (["probe", "node/node-a", "node/node-b", "--timeout", "nan"], "'nan' is no duration"),
    (["probe", "node/node-a", "node/node-b", "--timeout", "5h"], "'5h' is no duration"),
    (["probe", "svc/pay/payments", "node/node-b"], "cannot start from 'svc/pay/payments'"),
    (["probe", "node/node-a"], "required: B"),
    (["matrix", "--kind", "pods"], "'pods' is unknown; use one of node, host, pod"),
    (["matrix", "-o", "xml"], "'xml' is unknown; use one of table, wide, json, yaml"),
    (["matrix", "--king"], "--king"),
    (["matrx"], "'matrx' is no command; did you mean 'matrix'?"),
    (["--verbose", "matrix"], "'--verbose' is no option"),
]


@pytest.mark.parametrize(("words", "why"), USAGE, ids=[" ".join(row[0]) for row in USAGE])
async def test_bad_input_is_named_before_anything_is_sent(
    stub: StubController, kubereach: Kubereach, words: list[str], why: str
) -> None:
    """Exit code 2, one line with the input and the way out, no request."""
    done = await kubereach(*words)
    assert done.code == 2
    assert why in done.error_line
    assert stub.requests == []


ANSWERS = [
    ("unknown node", 404, {"error": "no node 'node-x'", "hint": "nodes are node-a, node-b"}, 2, "node-a, node-b"),
    ("cannot be probed", 422, {"error": "sctp is not probed"}, 2, "sctp is not probed"),
    (
        "not ready",
        503,
        {"error": "the cluster is still being read", "hint": "try again"},
        4,
        "still being read; try again",
    ),
    ("busy", 429, {"error": "16 probes are under way already"}, 4, "under way"),
    ("forbidden", 403, {"error": "not allowed"}, 2, "refuses the token: not allowed"),
    ("of another version", 200, {"outcome": "sideways"}, 2, "not understood"),
]


@pytest.mark.parametrize(
    ("status", "body", "code", "why"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
async def test_a_refusal_is_passed_on(
    stub: StubController, kubereach: Kubereach, status: int, body: dict[str, str], code: int, why: str
) -> None:
    """The controller's own words and its hint, on one line."""
    stub.answers["probe"] = (status, body)
    done = await kubereach("probe", "node/node-a", "node/node-b")
    assert done.code == code
    assert why in done.error_line


async def test_a_wrong_token_is_a_configuration_error(kubereach: Kubereach) -> None:
    """Exit code 2, and what the controller advises."""
    done = await kubereach("matrix", "--token", "wrong")
    assert done.code == 2
    assert "refuses the token" in done.error_line


async def test_options_go_before_the_environment(stub: StubController, kubereach: Kubereach) -> None:
    """--url and --token win, stand before or after the command, and the printed address works as it is."""
    elsewhere = {"KUBEREACH_URL": "http://127.0.0.1:9", "KUBEREACH_TOKEN": ""}
    address = f"{stub.url}/#token={stub.token}"
    assert (await kubereach("--url", address, "matrix", **elsewhere)).code == 0
    assert (await kubereach("matrix", f"--url={stub.url}", "--token", stub.token, **elsewhere)).code == 0


NOBODY = [
    ("http://127.0.0.1:9", 4, "Connection refused"),
    ("127.0.0.1:8704", 2, "is no URL of a controller"),
    ("http://127.0.0.1:99999", 2, "is no URL of a controller"),
    ("ftp://127.0.0.1", 2, "is no URL of a controller"),
]


@pytest.mark.parametrize(("url", "code", "why"), NOBODY, ids=[row[0] for row in NOBODY])
async def test_an_absent_controller_is_not_a_broken_network(url: str, code: int, why: str) -> None:
    """Exit code 4 where nobody answers, 2 where the address cannot be one; the address is in the line."""
    for words in (("matrix",), ("probe", "node/a", "node/b"), ("sweep",), ("incidents",), ("explain", "latest")):
        done = await run_kubereach(*words, KUBEREACH_URL=url, KUBEREACH_TOKEN="x")
        assert done.code == code
        assert why in done.error_line
        assert url in done.error_line


@pytest.mark.parametrize("said", [b"", b"\x00\x01garbage\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\noops"])
async def test_what_is_no_controller_is_said_to_be_none(said: bytes) -> None:
    """Something else listens there: exit code 4, one line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        done = await run_kubereach("matrix", "--url", f"http://127.0.0.1:{port}")
    assert done.code == 4
    assert done.error_line


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of labs of our own."""
    monkeypatch.setattr(spec, "LABS_DIR", tmp_path)
    return tmp_path


def add_lab(labs: Path, name: str, *, url: str = "", alive: bool = True, phase: str = "up") -> None:
    """A lab's account, as its supervisor writes it; that of a dead one names this process with another start time."""
    (labs / name).mkdir()
    kubeconfig = labs / name / "kubeconfig"
    kubeconfig.write_text("{}")
    supervisor = this_process() if alive else ProcessId(this_process().pid, 1)
    save_state(name, LabState(phase, supervisor, url=url, kubeconfig=str(kubeconfig)))


def find(**named: str) -> str:
    """Where the command would turn to; `env_…` are environment variables."""
    env = {key.removeprefix("env_"): value for key, value in named.items() if key.startswith("env_")}
    options = {key: named.get(key) for key in ("lab", "url", "token", "kubeconfig")}
    access = find_access(environ=env, **options)
    return f"{access.url} {access.token}"


def test_the_only_running_lab_need_not_be_named(labs: Path) -> None:
    """A lab that died does not count."""
    add_lab(labs, "one", url="http://127.0.0.1:1001/#token=t1")
    add_lab(labs, "dead", url="http://127.0.0.1:1002/#token=t2", alive=False)
    assert find() == "http://127.0.0.1:1001/ t1"


def test_several_labs_are_named_for_the_user_to_choose(labs: Path) -> None:
    """Exit code 2 with the names; --lab, KUBEREACH_LAB or --kubeconfig choose."""
    add_lab(labs, "one", url="http://127.0.0.1:1001/#token=t1")
    add_lab(labs, "two", url="http://127.0.0.1:1002/#token=t2")
    with pytest.raises(ConfigError, match="one, two"):
        find()
    assert find(lab="two") == "http://127.0.0.1:1002/ t2"
    assert find(env_KUBEREACH_LAB="two") == "http://127.0.0.1:1002/ t2"
    assert find(kubeconfig=str(labs / "one" / "kubeconfig")) == "http://127.0.0.1:1001/ t1"
    assert find(lab="two", env_KUBEREACH_URL="http://127.0.0.1:9") == "http://127.0.0.1:1002/ t2"


def test_a_lab_that_cannot_answer_is_told_from_one_that_is_not_there(labs: Path) -> None:
    """Not there is a mistake of the user's; dead or starting is a controller that cannot be reached."""
    with pytest.raises(ConfigError, match="no lab runs"):
        find()
    add_lab(labs, "dead", url="http://127.0.0.1:1002/#token=t2", alive=False)
    add_lab(labs, "young", phase="starting")
    with pytest.raises(ConfigError, match=r"'none-such'.*labs that run: young"):
        find(lab="none-such")
    with pytest.raises(UnreachableError, match="'dead' does not run any more"):
        find(lab="dead")
    with pytest.raises(UnreachableError, match="'young' has no controller yet"):
        find(lab="young")
    with pytest.raises(ConfigError, match="is not there"):
        find(kubeconfig=f"{__file__}.none")


def test_services_start_without_what_only_people_need() -> None:
    """Whatever the dispatcher imports is resident in an agent on every node."""
    code = "import sys, cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rich", "aiohttp", "argparse", "yaml", "msgspec", "lab", "http.client", "asyncio"} & set(loaded)


HELPS = [
    ["--help"],
    ["help"],
    *([name, "--help"] for name in ("probe", "matrix", "incidents", "explain", "sweep", "version")),
]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
async def test_every_level_has_help(words: list[str]) -> None:
    """Help goes to stdout with exit code 0, fits a terminal, and names the exit codes where there are several."""
    done = await run_kubereach(*words)
    assert (done.code, done.err) == (0, "")
    assert "usage: kubereach" in done.out
    assert max(map(len, done.out.splitlines())) <= 110


async def test_no_command_is_a_usage_error_with_help() -> None:
    """Whoever types the bare name gets the help, but not success."""
    done = await run_kubereach()
    assert (done.code, done.out) == (2, "")
    assert "usage: kubereach" in done.err


async def test_a_reader_that_leaves_early_is_no_error(stub: StubController) -> None:
    """`kubereach … | head -1` ends without a traceback."""
    stub.answers["probe"] = (200, {**BROKEN, "ruled_out": ["x" * 100] * 20_000})
    command = (
        f"{sys.executable} -m cli.main --url {stub.url} --token {stub.token} probe node/a node/b -o json | head -1"
    )
    process = await asyncio.create_subprocess_shell(command, stdout=-1, stderr=-1)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (out, err) == (b"{\n", b"")
