"""`kubereach`, also installed as `kubectl-reach`: finds the command and loads it, and nothing else.

Services start by this module too (`kubereach agent`), so it must not import what only some commands need: a third party
imported here is resident in an agent on every node.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """A command: where its `main(argv) -> exit code` is, and one line for the help."""

    module: str
    function: str
    help: str


ASKING = {
    "probe": Command("cli.probe", "main", "probe from A to B now; where it fails, name the cause"),
    "matrix": Command("cli.matrix", "main", "what reaches what, right now"),
    "incidents": Command("cli.incidents", "main", "what is wrong: one line a cause"),
    "explain": Command("cli.incidents", "explain", "one incident: cause, object, evidence, mend"),
    "facts": Command("cli.facts", "main", "what a node's network looks like, and what changed there lately"),
    "overlaps": Command("cli.overlaps", "main", "address ranges that are claimed twice, and by whom"),
    "sweep": Command("cli.sweep", "main", "probe everything now"),
}
OTHERS = {
    "policy": Command("cli.policy", "main", "what NetworkPolicy allows; offline, from manifests"),
    "lab": Command("cli.lab", "main", "a cluster of network namespaces on this machine, to try and to break"),
    "version": Command("cli.version", "main", "print the version"),
}
SERVICES = {
    "agent": Command("agent.app", "main", "the service on every node that probes and reads host state"),
    "endpoint": Command("agent.endpoint", "main", "the service on the pod network that answers probes"),
    "controller": Command("controller.app", "main", "the service that watches, decides and serves the API"),
}
COMMANDS = ASKING | OTHERS | SERVICES
WITH_VALUE = ("--lab", "--url", "--token", "--kubeconfig")
WITHOUT_VALUE = ("--no-color",)


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    before, rest = _split(words)
    if not rest or rest[0] in ("-h", "--help", "help"):
        return _help(rest)
    if rest[0] == "--version":
        rest[0] = "version"
    command = COMMANDS.get(rest[0])
    if command is None:
        return _unknown(rest[0])
    if before and rest[0] not in (*ASKING, "lab"):
        return _misplaced(before[0], rest[0])
    # The verbs of `lab` know --lab, `lab` itself does not.
    verb = 2 if rest[0] == "lab" and before else 1
    try:
        run = getattr(importlib.import_module(command.module), command.function)
        return int(run([*rest[1:verb], *before, *rest[verb:]]))
    except KeyboardInterrupt:
        return INTERRUPTED


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Global options that stand before the command, and the rest."""
    at = 0
    while at < len(words):
        name = words[at].partition("=")[0]
        if name in WITH_VALUE:
            at += 1 if "=" in words[at] else 2
        elif name in WITHOUT_VALUE:
            at += 1
        else:
            break
    return words[:at], words[at:]


def _help(rest: list[str]) -> int:
    if len(rest) > 1 and rest[0] == "help" and rest[1] in COMMANDS:
        return main([*rest[1:], "--help"])
    print(_usage(), file=sys.stdout if rest else sys.stderr)
    return 0 if rest else USAGE_ERROR


def _usage() -> str:
    def table(commands: dict[str, Command]) -> str:
        return "\n".join(f"  {name:<12}{command.help}" for name, command in commands.items())

    return f"""\
usage: kubereach [--lab NAME | --url URL --token TOKEN] COMMAND …

What cannot reach what in a Kubernetes cluster, and why, exactly.

ask the controller:
{table(ASKING)}

without a controller:
{table(OTHERS)}

services:
{table(SERVICES)}

which cluster (before or after the command):
  --lab NAME         the lab of this name (or KUBEREACH_LAB); with one lab running, none need be named
  --url, --token     a controller's address and token (or KUBEREACH_URL, KUBEREACH_TOKEN)
  --kubeconfig FILE  the cluster of this kubeconfig; if no lab runs, that of the current one is asked
  --no-color         no colour, also on a terminal

begin with:
  kubereach lab up --name demo --detach
  kubereach matrix
  kubereach probe shop/frontend-0 svc/pay/payments:8443

`kubereach COMMAND --help` tells more. Exit codes: 0 as it should be · 1 wrong, and named · 2 usage ·
3 inconclusive · 4 controller not reachable."""


def _unknown(word: str) -> int:
    import difflib

    close = difflib.get_close_matches(word, COMMANDS, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"commands are {', '.join(COMMANDS)}"
    what = "option before the command" if word.startswith("-") else "command"
    print(f"error: '{word}' is no {what}; {hint}", file=sys.stderr)
    return USAGE_ERROR


def _misplaced(option: str, command: str) -> int:
    print(f"error: '{option}' before '{command}' says nothing; see 'kubereach {command} --help'", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
