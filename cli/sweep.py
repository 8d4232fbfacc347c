"""`kubereach sweep`: probe everything now, instead of waiting for the schedule."""

from __future__ import annotations

import argparse
from typing import Any

from cli.options import EXIT_INCONCLUSIVE, EXIT_OK, Parser, add_access, command_parser, milliseconds
from cli.render.sweep import is_whole, sweep
from cli.session import Session, run

DESCRIPTION = """\
Asks for one sweep now: every path of the plan is probed once more.
With --wait the command returns when the sweep is whole; then `kubereach matrix` shows nothing older."""
EXAMPLES = """examples:
  kubereach sweep
  kubereach sweep --wait
  kubereach sweep --wait 10s && kubereach matrix"""
DEFAULT_WAIT_MS = 30_000


def build_parser() -> Parser:
    """The parser of this command."""
    parser = command_parser("sweep", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--wait",
        nargs="?",
        const=DEFAULT_WAIT_MS,
        type=milliseconds(1, 600_000),
        metavar="TIME",
        help="wait until it is whole, at most TIME (30s)",
    )
    add_access(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs the command. Returns the exit code."""
    args = build_parser().parse_args(argv)
    return run(lambda session: _sweep(session, args), args)


def _sweep(session: Session, args: argparse.Namespace) -> int:
    wait_s = (args.wait or 0) / 1000
    client = session.client
    with session.working("sweeping"):
        document: dict[str, Any] = client.post("/api/v1/sweep", query={"wait": f"{wait_s:g}"}, deadline_s=wait_s + 15)
    session.show(document, lambda: sweep(document, waited=bool(args.wait)))
    return EXIT_INCONCLUSIVE if args.wait and not is_whole(document) else EXIT_OK
