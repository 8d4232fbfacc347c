"""`kubereach lab faults`, `lab break CODE`, `lab heal`: the switchboard of a lab, on the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import yaml

from lab import api, switchboard
from lab.fault import FaultError, all_faults
from lab.netns import NetnsError
from lab.spec import Topology, load_topology


def add_verbs(verbs: Any, which: argparse.ArgumentParser, reading: argparse.ArgumentParser) -> None:
    """Add the three verbs to the parser of `kubereach lab`."""
    verbs.add_parser("faults", parents=[which, reading], help="what can be broken, and what is").set_defaults(
        run=_faults
    )
    breaking = verbs.add_parser("break", parents=[which], help="break the lab in a named way")
    breaking.add_argument("code", metavar="CODE", help="a fault (see: kubereach lab faults)")
    breaking.add_argument(
        "--on", default="", metavar="OBJECT", help="what to break: node/NAME, node/A,node/B, svc/NS/NAME, …"
    )
    breaking.set_defaults(run=_break)
    healing = verbs.add_parser("heal", parents=[which], help="undo one fault, or all")
    healing.add_argument("code", nargs="?", default="", metavar="CODE")
    healing.set_defaults(run=_heal)


def _lab(options: argparse.Namespace) -> tuple[Topology, Path]:
    name = api.pick(options.lab)
    return load_topology(name), Path(str(api.status(name)["kubeconfig"]))


def _faults(options: argparse.Namespace) -> int:
    topology, _ = _lab(options)
    broken = {b.code: b for b in switchboard.broken(topology)}
    rows = [
        {
            "code": f.code,
            "on": f.target,
            "title": f.title,
            "applies": f.applies(topology.spec),
            "broken": broken[f.code].says if f.code in broken else "",
        }
        for f in all_faults()
    ]
    if options.output == "json":
        print(json.dumps(rows, indent=2))
    elif options.output == "yaml":
        print(yaml.safe_dump(rows, sort_keys=False), end="")
    else:
        width = max(len(str(row["code"])) for row in rows)
        target = max(len(str(row["on"])) for row in rows)
        for row in rows:
            state = (
                f"BROKEN: {row['broken']}"
                if row["broken"]
                else row["title"]
                if row["applies"]
                else f"{row['title']} (not in this lab)"
            )
            print(f"{row['code']:<{width}}  {row['on']:<{target}}  {state}")
    return 0


def _break(options: argparse.Namespace) -> int:
    topology, kubeconfig = _lab(options)
    made = _run(switchboard.break_it(topology, kubeconfig, options.code, options.on))
    print(f"broken: {made.says}")
    see = f"kubereach probe {' '.join(made.probe)}" if made.probe else "kubereach incidents"
    print(f"see it: {see}")
    return 0


def _heal(options: argparse.Namespace) -> int:
    topology, kubeconfig = _lab(options)
    healed = _run(switchboard.heal(topology, kubeconfig, options.code))
    for one in healed:
        print(f"healed: {one.says}")
    if not healed:
        print("nothing is broken")
    return 0


def _run(work: Any) -> Any:
    try:
        return asyncio.run(work)
    except (FaultError, NetnsError) as error:
        raise api.LabError(str(error)) from None
