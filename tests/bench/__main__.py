"""Runs every bench of this folder and prints a table with the targets beside the figures: `make bench`. Never a gate.

python -m tests.bench [--json FILE] [BENCH …]
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.bench.processes import foreign_load
from tests.bench.targets import Target, target

BENCHES: Final = ("policy", "controller", "facts", "agent", "lab")
# Needs Go and minutes for its first build, so it runs where it is named.
NAMED_ONLY: Final = ("kubernetes",)
MOST_LOAD: Final = 5.0
FPING: Final = "burst of 4000, fping: CPU a probe"
OURS: Final = "burst of 4000, icmp: CPU a probe"


def main() -> int:
    """Exit code 0 if all benches ran through."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "benches",
        nargs="*",
        metavar="BENCH",
        help=f"of {', '.join(BENCHES)}, kubernetes; all but the last if none is named",
    )
    options = parser.parse_args()
    if unknown := set(options.benches) - {*BENCHES, *NAMED_ONLY}:
        parser.error(f"no such bench: {', '.join(sorted(unknown))}")
    told = [_run(name) for name in (options.benches or BENCHES)]
    if options.json is not None:
        machine = {"machine": platform.platform(), "python": platform.python_version(), "at": time.time()}
        options.json.write_text(json.dumps({**machine, "benches": told}, indent=2) + "\n")
    return 1 if any("error" in one for one in told) else 0


def _run(name: str) -> dict[str, Any]:
    load = foreign_load()
    doubt = "" if load <= MOST_LOAD else ": too much, do not trust what follows"
    print(f"\n{name}: foreign load {load:.1f}% of the machine{doubt}", flush=True)
    began = time.monotonic()
    told: dict[str, Any] = {"bench": name, "foreign_load_percent": round(load, 1)}
    try:
        figures = importlib.import_module(f"tests.bench.{name}").run()
    except Exception as error:
        print(f"  failed: {error!r}", flush=True)
        return {**told, "error": repr(error)}
    bounds = {one: _bound(one, figures) for one, _, _ in figures}
    for one, value, unit in figures:
        print(_line(one, value, unit, bounds[one]), flush=True)
    took = time.monotonic() - began
    print(f"  {took:.0f} s", flush=True)
    told["figures"] = [
        {
            "name": one,
            "value": value if math.isfinite(value) else None,
            "unit": unit,
            "target": str(bound) if (bound := bounds[one]) else None,
        }
        for one, value, unit in figures
    ]
    return {**told, "took_s": round(took, 1)}


def _bound(name: str, figures: list[tuple[str, float, str]]) -> Target | None:
    """The target; a burst's is what fping took in the same run."""
    if name == OURS:
        return next((Target(round(value, 2)) for one, value, _ in figures if one == FPING), None)
    return target(name)


def _line(name: str, value: float, unit: str, bound: Target | None) -> str:
    verdict = "" if bound is None else f"{bound!s:>10}  {'met' if bound.met(value) else 'MISSED'}"
    return f"  {name:58}{value:12.3f} {unit:22}{verdict}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
