"""`kubereach matrix`: what reaches what, right now."""

from __future__ import annotations

import msgspec

from cli.options import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_WRONG, Parser, add_access, command_parser, one_of
from cli.render.matrix import as_it_should_be, matrix
from cli.session import Session, run
from model.diagnosis import Matrix
from model.words import MatrixKind

KINDS = tuple(kind.value for kind in MatrixKind)
DESCRIPTION = """\
Shows the matrix of one kind: a row is where probes start, a column what they shall reach.
`node` is host and pod network together. Silence has states of its own: unknown, stale, starved, not sampled."""
EXAMPLES = """examples:
  kubereach matrix
  kubereach matrix --kind service
  kubereach matrix --kind dns -o wide"""


def build_parser() -> Parser:
    """The parser of this command."""
    parser = command_parser("matrix", DESCRIPTION, EXAMPLES)
    parser.add_argument("--kind", type=one_of(KINDS), default="node", help=f"{', '.join(KINDS)} (node)")
    add_access(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs the command. Returns the exit code."""
    args = build_parser().parse_args(argv)
    return run(lambda session: _matrix(session, args.kind), args)


def _matrix(session: Session, kind: str) -> int:
    client = session.client
    with session.working(f"reading the {kind} matrix"):
        document = client.get("/api/v1/matrix", {"kind": kind})
    shown = msgspec.convert(document, Matrix)
    session.show(document, lambda: matrix(shown, wide=session.wide, width=session.console.width))
    return exit_code(shown)


def exit_code(shown: Matrix) -> int:
    """0 all as it should be, 1 cells that are not, 3 nothing measured or cells of which nobody can tell."""
    judged = {as_it_should_be(cell) for cell in shown.cells}
    if False in judged:
        return EXIT_WRONG
    return EXIT_INCONCLUSIVE if None in judged or not judged else EXIT_OK
