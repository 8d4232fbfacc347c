"""`kubereach overlaps`: address ranges that are claimed twice across the cluster, and by whom."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.options import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_WRONG, Parser, add_access, command_parser
from cli.session import Session, run

DESCRIPTION = """\
Holds the address ranges of pods, nodes, Services, load balancers, address pools (Kubernetes' ServiceCIDRs, Calico's
IPPools, MetalLB's IPAddressPools), links and routes against one another.
What lies so by design (a wide network around pods, a network plugin's own routes) is no overlap."""
EXAMPLES = """examples:
  kubereach overlaps
  kubereach overlaps -o json"""


def build_parser() -> Parser:
    """The parser of this command."""
    parser = command_parser("overlaps", DESCRIPTION, EXAMPLES)
    add_access(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs the command. Returns the exit code."""
    return run(_overlaps, build_parser().parse_args(argv))


def _overlaps(session: Session) -> int:
    client = session.client
    with session.working("reading overlaps"):
        document: dict[str, Any] = client.get("/api/v1/overlaps")
    session.show(document, lambda: _table(document))
    if document["overlaps"]:
        return EXIT_WRONG
    return EXIT_INCONCLUSIVE if document["missing"] or document.get("unread") else EXIT_OK


def _table(document: dict[str, Any]) -> RenderableType:
    missing, unread = document["missing"], document.get("unread", {})
    parts: list[RenderableType] = []
    if document["overlaps"]:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("addresses", "claimed by", "and by", "so"):
            table.add_column(name, overflow="fold")
        for one in document["overlaps"]:
            table.add_row(one["cidr"], *(f"{claim['who']} ({claim['cidr']})" for claim in one["claims"]), one["effect"])
        parts.append(table)
    elif not missing and not unread:
        parts.append(Text("✓ no address is claimed twice", style="bold green"))
    if missing:
        parts.append(Text(f"links and routes are not known of {', '.join(missing)}", style="yellow"))
    parts += [Text(f"{kind} objects are not read: {why}", style="yellow") for kind, why in sorted(unread.items())]
    return Group(*parts)
