"""The repository itself: files are small, layers hold, causes have twins, documents say what is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cli.main import COMMANDS
from controller.diagnosis import causes
from controller.diagnosis.catalogue import catalogue
from controller.diagnosis.document import document
from lab import faults
from lab.fault import all_faults

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 400
# Data, and what a tool writes.
NOT_WRITTEN_BY_LINE = {".ip6tables", ".iptables", ".json", ".lock", ".md", ".mod", ".nft", ".sum", ".yaml"}
LAYERS = {
    "model": {"model"},
    "agent": {"agent", "model"},
    "controller": {"controller", "model"},
    "lab": {"lab", "model"},
    "cli": {"cli", "agent", "controller", "lab", "model"},
}
# A third party, and the folders that may import it.
HOMES = {
    "scapy": ("agent/wire",),
    "pyroute2": ("agent/host", "lab"),
    "kubernetes": ("controller/cluster",),
    "dns": ("agent/probers", "tests"),
    "wsproto": ("agent/stream.py", "cli/forward.py"),
    "aiohttp": ("controller", "cli", "lab"),
}


def tracked() -> list[Path]:
    """Every file of the repository that is there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def sources(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Python files of these folders with their syntax trees."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(), str(path))


def imported(tree: ast.Module) -> set[str]:
    """Top-level names of all that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_every_cause_has_its_twin() -> None:
    """What can be named can be drilled and the other way round: the same codes, in files of the same names."""
    assert {cause.code for cause in catalogue()} == {fault.code for fault in all_faults()}
    folders = [Path(package.__path__[0]) for package in (causes, faults)]
    assert len({frozenset(path.name for path in folder.glob("*.py")) for folder in folders}) == 1
    codes = [cause.code for cause in catalogue()]
    assert len(codes) == len(set(codes)) > 0


def test_what_a_cause_explains_away_exists() -> None:
    """A cause suppresses only causes of the catalogue, and never itself."""
    codes = {cause.code for cause in catalogue()}
    for cause in catalogue():
        assert set(cause.suppresses) <= codes - {cause.code}, cause.code


def test_the_catalogue_is_written_out() -> None:
    """docs/catalogue.md is what `make docs` writes."""
    assert (ROOT / "docs" / "catalogue.md").read_text() == document(catalogue())


def test_files_are_small() -> None:
    """No file that is written by hand has 400 lines."""
    counted = {path: len(path.read_bytes().splitlines()) for path in tracked()}
    written = {path: count for path, count in counted.items() if path.suffix not in NOT_WRITTEN_BY_LINE}
    assert len(written) > 100
    assert {str(p.relative_to(ROOT)): count for p, count in written.items() if count >= MOST_LINES} == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_nobody_imports_another_layer(layer: str) -> None:
    """Agent, controller and lab know the model and themselves; also inside functions."""
    wrong = {
        str(path.relative_to(ROOT)): found
        for path, tree in sources(layer)
        if (found := imported(tree) & (LAYERS.keys() | {"tests"}) - LAYERS[layer])
    }
    assert wrong == {}


@pytest.mark.parametrize("library", HOMES)
def test_a_third_party_has_one_home(library: str) -> None:
    """What a library gives us is wrapped in one place."""
    users = {str(path.relative_to(ROOT)) for path, tree in sources(*LAYERS) if library in imported(tree)}
    assert {user for user in users if not user.startswith(HOMES[library])} == set()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_pin_by_hash_and_name_no_index(name: str) -> None:
    """A lock file holds versions with hashes, and no address."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in lines if "://" in line or line.startswith("-")]
    pinned = [line for line in lines if line and not line[0].isspace()]
    assert pinned
    assert [line for line in pinned if not re.fullmatch(r"[a-z0-9.-]+==\S+( ;.*)? \\", line)] == []
    assert len([line for line in lines if "--hash=sha256:" in line]) >= len(pinned)


def told() -> list[str]:
    """Commands of kubereach that the README shows, in blocks and in the text."""
    text = (ROOT / "README.md").read_text()
    blocks = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`(kubereach [^`]*)`", text)
    return sorted({line.partition(" #")[0].strip() for line in [*blocks, *inline] if line.startswith("kubereach ")})


@cache
def usage(*words: str) -> str:
    """What `--help` says; the command must end with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *words, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", told())
def test_commands_of_the_readme_exist(line: str) -> None:
    """Each command that the README shows is there, with the options that it is shown with."""
    words = line.partition(" -- ")[0].split()[1:]
    assert words[0] in COMMANDS
    verb = words[1:2] if words[0] == "lab" and words[1:] and words[1].isalpha() else []
    text = usage(words[0], *verb)
    for option in (word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z=-]*", word)):
        assert option == "--help" or re.search(rf"(?<![\w-]){option}(?![\w-])", text), option


def test_the_verbs_of_the_lab_exist() -> None:
    """The README's row of `kubereach lab` lists verbs that the lab has."""
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `kubereach lab …`"))
    verbs = re.findall(r"`(\w+)`", row.split("|")[2])
    assert len(verbs) > 5
    text = usage("lab")
    assert [verb for verb in verbs if not re.search(rf"\b{verb}\b", text)] == []


def test_no_test_is_left_out() -> None:
    """Nothing is skipped or expected to fail: what cannot run here is no test here."""
    forbidden = {"skip", "skipif", "xfail", "importorskip"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in sources("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in forbidden and "pytest" in ast.unparse(node)
    ]
    assert found == []
