"""Runs tests in processes side by side, as most of the time is waiting: `make test` and `make e2e`.

    python -m tests [--e2e] [--reports FOLDER] [arguments of pytest]

Of `make test` one has the drills, which are the longest, one all else that needs a lab. Of --e2e each has the labs of
one combination of network plugin and proxy. With --reports each leaves a JUnit file there.
"""

from __future__ import annotations

import argparse
import re
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
ON_KUBERNETES = {
    "kubernetes, flannel-vxlan": [TESTS / "e2e", "--combination=flannel-vxlan"],
    "kubernetes, flannel-host-gw": [TESTS / "e2e", "--combination=flannel-host-gw"],
}


def main() -> int:
    """Exit code 0 if all tests passed."""
    parser = argparse.ArgumentParser(prog="python -m tests")
    parser.add_argument("--e2e", action="store_true")
    parser.add_argument("--reports", type=Path)
    options, arguments = parser.parse_known_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # One at a time speaks; what the others said follows it.
        lanes = ON_KUBERNETES if options.e2e else LANES
        outputs = {name: (Path(folder) / name).open("w+b") for name in list(lanes)[1:]}
        running = {
            name: _start(
                [*arguments, *map(str, its), *_report(options.reports, name)],
                outputs.get(name),
            )
            for name, its in lanes.items()
        }
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


def _report(folder: Path | None, name: str) -> list[str]:
    return [] if folder is None else [f"--junitxml={folder / re.sub(r'[^a-z]+', '-', name)}.xml"]


def _start(arguments: list[str], output: IO[bytes] | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.Popen(command, cwd=TESTS.parent, stdout=output, stderr=output)


if __name__ == "__main__":
    sys.exit(main())
