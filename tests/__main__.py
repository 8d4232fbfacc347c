"""Runs all tests but those of `make e2e`, in three processes side by side, as most of the time is waiting: `make test`.

    python -m tests [--reports FOLDER] [arguments of pytest]

One has the drills, which are the longest, one all else that needs a lab. With --reports each leaves a JUnit file there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

TESTS = Path(__file__).resolve().parent
# Those that break a lab with agents in it, cause by cause, and wait for what is said of it.
DRILLS = [TESTS / "lab" / "test_causes.py"]
LABS = TESTS / "lab"
# What is quick and needs no lab stands first, so that plain mistakes are seen at once.
QUICK = [TESTS / "test_repository.py", TESTS / "cli", TESTS / "controller"]
# Those on a real Kubernetes need Go, and have a target of their own: make e2e.
APART = [*QUICK, LABS, TESTS / "e2e"]
REST = sorted(path for path in TESTS.iterdir() if next(path.rglob("test_*.py"), None) and path not in APART)
LANES = {
    "without a lab": [*QUICK, *REST],
    "labs": [LABS, *(f"--ignore={path}" for path in DRILLS)],
    "drills": DRILLS,
}
SHOWN = "without a lab"


def main() -> int:
    """Exit code 0 if all tests passed."""
    parser = argparse.ArgumentParser(prog="python -m tests")
    parser.add_argument("--reports", type=Path)
    options, arguments = parser.parse_known_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # One at a time speaks; what the others said follows it.
        outputs = {name: (Path(folder) / name).open("w+b") for name in LANES if name != SHOWN}
        running = {name: _start(name, options.reports, arguments, outputs.get(name)) for name in LANES}
        try:
            codes = {name: process.wait() for name, process in running.items()}
        except KeyboardInterrupt:
            # They got the same signal, and take their labs away.
            codes = {name: process.wait() or 130 for name, process in running.items()}
        for output in outputs.values():
            with output:
                output.seek(0)
                sys.stdout.write(output.read().decode(errors="replace"))
    print(f"{', '.join(f'{name}: {code}' for name, code in codes.items())}; {time.monotonic() - began:.0f} s")
    return max(codes.values())


def _start(name: str, reports: Path | None, arguments: list[str], output: IO[bytes] | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-q", *arguments, *map(str, LANES[name])]
    if reports is not None:
        command.append(f"--junitxml={reports / name.replace(' ', '-')}.xml")
    return subprocess.Popen(command, cwd=TESTS.parent, stdout=output, stderr=output)


if __name__ == "__main__":
    sys.exit(main())
