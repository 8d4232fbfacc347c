"""Runs tests in processes side by side, as most of the time is waiting: `make test` and `make e2e`.

    python -m tests [--e2e] [--reports FOLDER] [arguments of pytest]

Of `make test` one has the drills, which are the longest, one all else that needs a lab. Of --e2e each has the labs of
one combination of network plugin and proxy. With --reports each leaves a JUnit file there. What failed, and at what,
stands at the end, where who sees no more than the end of a long output finds it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

TESTS = Path(__file__).resolve().parent
# Those that break a lab with agents in it, cause by cause, and wait for what is said of it; those by hand fill the lane
# of the other labs, which is shorter.
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
REASON_CHARS = 1500


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
        reports = options.reports or Path(folder)
        written = {name: reports / f"{re.sub(r'[^a-z]+', '-', name)}.xml" for name in lanes}
        running = {
            name: _start([*arguments, *map(str, its), f"--junitxml={written[name]}"], outputs.get(name))
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
        for reason in (reason for file in written.values() for reason in _failures(file)):
            print(reason)
    print(f"{', '.join(f'{name}: {code}' for name, code in codes.items())}; {time.monotonic() - began:.0f} s")
    return max(codes.values())


def _failures(report: Path) -> Iterator[str]:
    """Yield the tests of a JUnit file that failed, each with its reason; none where a lane wrote no file."""
    if not report.is_file():
        return
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for found in (*case.iter("failure"), *case.iter("error")):
            reason = " ".join((found.get("message") or "").split())
            yield f"failed: {case.get('classname')}::{case.get('name')}: {reason[:REASON_CHARS]}"


def _start(arguments: list[str], output: IO[bytes] | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.Popen(command, cwd=TESTS.parent, stdout=output, stderr=output)


if __name__ == "__main__":
    sys.exit(main())
