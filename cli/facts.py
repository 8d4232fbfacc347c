"""`kubereach facts NODE [SUBJECT …]`: what a node's network looks like, and what changed there lately."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from cli.client import ConfigError
from cli.options import EXIT_INCONCLUSIVE, EXIT_OK, Parser, add_access, command_parser
from cli.render.facts import overview, subjects
from cli.session import Session, run

DESCRIPTION = """\
Shows what the agent of a node reads there. Without SUBJECT: what is kept of the node, and what changed there lately.
With SUBJECT the agent is asked now; --kept tells what was read last, which a silent node has too.

subjects: links addresses routes rules neighbours fdb sysctls sockets resolver cni ipvs conntrack conntrack_entries
counters; exit code 3 if one of them could not be read."""
EXAMPLES = """examples:
  kubereach facts node-a
  kubereach facts node-a routes rules
  kubereach facts node-a sockets resolver --pod shop/frontend-0
  kubereach facts node-a conntrack_entries --where destination=10.96.0.10 --where protocol=udp
  kubereach facts node-a links --kept -o json"""


def build_parser() -> Parser:
    """The parser of this command."""
    parser = command_parser("facts", DESCRIPTION, EXAMPLES, "NODE [SUBJECT …]")
    parser.add_argument("node", metavar="NODE", help="the node's name")
    parser.add_argument("subjects", metavar="SUBJECT", nargs="*", help="what of it")
    parser.add_argument("--pod", default="", metavar="NS/NAME", help="of this pod's network namespace on the node")
    parser.add_argument(
        "--where", action="append", default=[], metavar="NAME=VALUE",
        help="which conntrack_entries: protocol, source, destination, source_port, destination_port, family, limit",
    )  # fmt: skip
    parser.add_argument("--kept", action="store_true", help="as it was read last; nobody is asked")
    add_access(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs the command. Returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)
    return run(lambda session: _facts(session, args), args)


def _facts(session: Session, args: argparse.Namespace) -> int:
    if args.kept and args.pod:
        raise ConfigError("nothing is kept of pods; leave out --kept")
    query = {"subject": ",".join(args.subjects), "pod": args.pod, "where": ",".join(args.where)}
    if (args.subjects or args.pod) and not args.kept:
        query["now"] = "true"
    client = session.client
    with session.working("reading facts"):
        document: dict[str, Any] = client.get(
            f"/api/v1/nodes/{quote(args.node, safe='')}/facts", {name: text for name, text in query.items() if text}
        )
    asked = bool(args.subjects or args.pod)
    session.show(document, lambda: subjects(document, wide=session.wide) if asked else overview(document))
    unread = set(document["errors"]) & {*args.subjects, "agent"} if asked else set()
    return EXIT_INCONCLUSIVE if unread else EXIT_OK
