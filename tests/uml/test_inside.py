"""What this machine's kernel cannot do (IPVS, IPIP, netem) in a kernel that can: the checks of `inside/`, in one boot.

They are ordinary pytest modules, named check_*.py so that no other run takes them for its own; each test of theirs is
told here by its own name.
"""

from __future__ import annotations

import ast
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.uml import boot

INSIDE = Path(__file__).with_name("inside")
WITHIN_S = 150.0
COMMAND = (
    ".venv/bin/python -m pytest -q -p no:cacheprovider -o python_files='check_*.py' --junitxml=/tmp/out/junit.xml "
    f"{INSIDE.relative_to(boot.ROOT)}"
)
NAMES = [
    f"{module.stem}.{node.name}"
    for module in sorted(INSIDE.glob("check_*.py"))
    for node in ast.parse(module.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, list[str]]]:
    """Of each test that ran in there, what it failed with (nothing, if it passed), one entry for each parameter."""
    out = Path(tempfile.mkdtemp(prefix="krh-uml-"))
    try:
        ran = boot.run(COMMAND, out, WITHIN_S)
        report = out / "junit.xml"
        assert report.exists(), f"no report; code {ran.code}\n{ran.output}\n{ran.console[-4000:]}"
        found: dict[str, list[str]] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name', '').partition('[')[0]}"
            wrong = [one.text or one.tag for one in case if one.tag in {"failure", "error", "skipped"}]
            found.setdefault(name, []).append("\n".join(wrong))
        yield found
    finally:
        shutil.rmtree(out)


@pytest.mark.timeout(WITHIN_S + 30)
@pytest.mark.parametrize("name", NAMES)
def test_in_the_other_kernel(told: dict[str, list[str]], name: str) -> None:
    """The test has run in there, and has passed with every parameter."""
    assert name in told
    assert told[name] == [""] * len(told[name])


def test_a_boot_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """When its time is up the kernel goes, and with it every process that it is on this machine."""
    ran = boot.run("echo begun; sleep 100", tmp_path, 8.0)
    assert ran.code is None
    assert "Linux version" in ran.console
    ends = time.monotonic() + 5
    while (left := _processes(str(tmp_path))) and time.monotonic() < ends:
        time.sleep(0.05)
    assert left == []


def _processes(word: str) -> list[Path]:
    return [one for one in Path("/proc").glob("[0-9]*/cmdline") if word in _words(one)]


def _words(cmdline: Path) -> str:
    try:
        return cmdline.read_text(errors="replace")
    except OSError:
        return ""
