"""The command `kubereach`: finds the module of a subcommand, loads it and nothing else, and runs it.

Each module has `main(argv) -> int`, which returns the exit code. Must import nothing heavy: agent and endpoint start
through here.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

# command → (module, what it does)
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "lab": ("cli.lab", "a cluster of network namespaces to try on and to break"),
    "probe": ("cli.probe", "ask from A to B, now"),
    "sweep": ("cli.sweep", "one pass over everything, now"),
    "matrix": ("cli.matrix", "what reaches what"),
    "incidents": ("cli.incidents", "what is wrong"),
    "explain": ("cli.explain", "why, with evidence and mend"),
    "agent": ("agent.app", "the service of every node"),
    "endpoint": ("agent.endpoint", "the answerer on the pod network"),
    "controller": ("controller.app", "the service that knows the whole"),
}


def usage() -> str:
    """Return the text of `kubereach --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {says}" for name, (_, says) in COMMANDS.items()]
    return "\n".join(["usage: kubereach COMMAND …", "", *lines, "", "kubereach COMMAND --help says more."])


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2 where there is no such command."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: no command {name!r} (kubereach --help lists them)", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    code: int = module.main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
