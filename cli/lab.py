"""`kubereach lab …`: reads arguments, calls lab.api, prints. Progress to stderr, results to stdout."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import yaml

from cli import switchboard
from lab import api
from lab.spec import CNIS, FAMILIES, PROXIES, LabSpec, lab_names

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
OUTPUTS = ("table", "wide", "json", "yaml")
Parsers = Any  # argparse's action of subparsers, whose class is private


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(value: Any, output: str, table: Callable[[], str]) -> None:
    if output == "json":
        print(json.dumps(value, indent=2))
    elif output == "yaml":
        print(yaml.safe_dump(value, sort_keys=False), end="")
    else:
        print(table())


def _columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _up(options: argparse.Namespace) -> int:
    spec = LabSpec(
        name=options.name,
        nodes=options.nodes,
        cni=options.cni,
        proxy=options.proxy,
        family=options.family,
        zones=options.zones,
        control_plane="kubernetes" if options.kubernetes else "embedded",
    )
    _end_by_signals()
    try:
        state = api.up(
            spec,
            lambda text: _say(f"lab {spec.name}: {text}"),
            agents=not options.no_agents,
            endpoints=not options.bare,
        )
        print(state.url or state.kubeconfig, flush=True)
        if options.detach:
            return 0
        _say(f"lab {spec.name} runs until Ctrl-C")
        while api.supervised(spec.name):
            time.sleep(1.0)
    except KeyboardInterrupt:
        if spec.name in lab_names():
            api.down(spec.name)
        _say(f"lab {spec.name}: taken away")
        return 0
    if spec.name in lab_names():
        raise api.LabError(f"the supervisor of lab {spec.name} died (kubereach lab down --name {spec.name})", 1)
    return 0


def _end_by_signals() -> None:
    """Make the first SIGTERM, SIGHUP or Ctrl-C an interruption, and ignore those that come while it is obeyed."""

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _ENDING:
        signal.signal(number, end)


def _down(options: argparse.Namespace) -> int:
    names = lab_names() if options.all else [options.lab or os.environ.get("KUBEREACH_LAB") or api.pick(None)]
    for name in names:
        api.down(name)
        _say(f"lab {name}: taken away")
    return 0


def _status(options: argparse.Namespace) -> int:
    value = api.status(api.pick(options.lab))

    def table() -> str:
        head = [f"{key}: {value[key]}" for key in ("name", "state", "cni", "proxy", "url", "kubeconfig")]
        rows = [["NODE", "ZONE", "ADDRESSES", "POD CIDRS", "AGENT"]]
        for node in value["nodes"]:
            pid = value["pids"]["agents"].get(node["name"])
            columns = [node["name"], node["zone"], ", ".join(node["addresses"]), ", ".join(node["pod_cidrs"])]
            rows.append([*columns, str(pid or "-")])
        return "\n".join([*head, "", _columns(rows)])

    _print(value, options.output, table)
    return 0 if value["state"] == "up" else 1


def _list(options: argparse.Namespace) -> int:
    labs = []
    for name in lab_names():
        try:
            one = api.status(name)
        except api.LabError as error:
            one = {"name": name, "state": "unreadable", "message": str(error), "nodes": []}
        labs.append({key: one.get(key, "") for key in ("name", "state", "control_plane", "cni", "proxy", "url")})

    def table() -> str:
        header = ["NAME", "STATE", "CONTROL PLANE", "CNI", "PROXY", "URL"]
        return _columns([header, *([str(value) for value in one.values()] for one in labs)])

    _print(labs, options.output, table)
    return 0


def _exec(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    argv = api.exec_argv(api.pick(options.lab), options.place, command)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        raise api.LabError(f"{argv[0]}: {error.strerror}") from None


def _apply(options: argparse.Namespace) -> int:
    for line in api.apply(api.pick(options.lab), options.file, delete=options.verb == "delete"):
        print(line)
    return 0


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _add_up(verbs: Parsers) -> None:
    parser = verbs.add_parser("up", help="build a lab and start agents and controller in it")
    parser.add_argument("--name", default="lab", help="name of the lab (default: lab)")
    parser.add_argument("--nodes", type=_number, default=4, metavar="K")
    parser.add_argument("--zones", type=_number, default=2, metavar="Z")
    parser.add_argument("--cni", default=CNIS[0], metavar="|".join(CNIS))
    parser.add_argument("--proxy", default=PROXIES[0], metavar="|".join(PROXIES))
    parser.add_argument("--family", default="dual", metavar="|".join(FAMILIES))
    parser.add_argument(
        "--kubernetes", action="store_true", help="a real Kubernetes, built here the first time (needs Go)"
    )
    parser.add_argument("--no-agents", action="store_true", help="the cluster only, without kubereach in it")
    parser.add_argument("--bare", action="store_true", help="and without kubereach's objects: for its manifests")
    parser.add_argument("--detach", action="store_true", help="return once it is up")
    parser.set_defaults(run=_up)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubereach lab", description="A cluster of network namespaces.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_up(verbs)
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--lab", "--name", dest="lab", help="which lab, where several run (or KUBEREACH_LAB)")
    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument("-o", "--output", choices=OUTPUTS, default="table")
    down = verbs.add_parser("down", parents=[which], help="take a lab away, whole, also after a crash")
    down.add_argument("--all", action="store_true", help="every lab of this machine")
    down.set_defaults(run=_down)
    verbs.add_parser("status", parents=[which, reading], help="what runs").set_defaults(run=_status)
    verbs.add_parser("list", parents=[reading], help="all labs of this machine").set_defaults(run=_list)
    execute = verbs.add_parser("exec", parents=[which], help="run a command in a node, a pod, router or outside")
    execute.add_argument("place", help="node/NAME, pod/NS/NAME, router, outside or control")
    execute.add_argument("command", nargs=argparse.REMAINDER, help="-- CMD…")
    execute.set_defaults(run=_exec)
    for verb, says in (("apply", "take YAML into the lab's API"), ("delete", "take it out again")):
        one = verbs.add_parser(verb, parents=[which], help=says)
        one.add_argument("-f", "--file", action="append", required=True, help="file, directory or -")
        one.set_defaults(run=_apply)
    switchboard.add_verbs(verbs, which, reading)
    return parser


def main(argv: list[str]) -> int:
    """Run one `kubereach lab` command; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
        return code
    except api.LabError as error:
        _say(f"error: {error}")
        return error.code
