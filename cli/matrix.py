"""`kubereach matrix`: what reaches what, right now."""

from __future__ import annotations

import msgspec

from cli.options import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_WRONG, Parser, add_access, command_parser, one_of
from cli.render.matrix import as_it_should_be, matrix
from cli.render.policy_matrix import PolicyShown, policy_matrix
from cli.session import Session, run
from model.diagnosis import Matrix
from model.words import MatrixKind, Verdict

BY = ("namespace", "workload")
KINDS = tuple(kind.value for kind in MatrixKind)
DESCRIPTION = """\
Shows the matrix of one kind: a row is where probes start, a column what they shall reach.
`node` is host and pod network together; `policy` is what policies let through, beside what was seen.
Silence has states of its own: unknown, stale, starved, not sampled."""
EXAMPLES = """examples:
  kubereach matrix
  kubereach matrix --kind service
  kubereach matrix --kind dns -o wide
  kubereach matrix --kind policy --by workload -n shop"""


def build_parser() -> Parser:
    """The parser of this command."""
    parser = command_parser("matrix", DESCRIPTION, EXAMPLES)
    parser.add_argument("--kind", type=one_of(KINDS), default="node", help=f"{', '.join(KINDS)} (node)")
    parser.add_argument("--by", type=one_of(BY), help="of --kind policy: namespace, or workload (namespace)")
    parser.add_argument("--namespace", "-n", help="of --kind policy: what is in this namespace alone")
    add_access(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs the command. Returns the exit code."""
    args = build_parser().parse_args(argv)
    if args.kind == MatrixKind.POLICY.value:
        return run(lambda session: _policy(session, args.by or "namespace", args.namespace or ""), args)
    for name in ("by", "namespace"):
        if getattr(args, name):
            build_parser().error(f"--{name} goes with --kind policy alone")
    return run(lambda session: _matrix(session, args.kind), args)


def _policy(session: Session, by: str, namespace: str) -> int:
    query = {"by": by} | ({"namespace": namespace} if namespace else {})
    with session.working("reading the policy matrix"):
        document = session.client.get("/api/v1/policy/matrix", query)
    shown = msgspec.convert(document, PolicyShown)
    session.show(document, lambda: policy_matrix(shown, wide=session.wide, width=session.console.width))
    wrong = {Verdict.UNEXPECTED_BLOCK, Verdict.UNEXPECTED_PASS}
    if any(cell.verdict in wrong for cell in shown.cells):
        return EXIT_WRONG
    return EXIT_OK if any(cell.paths for cell in shown.cells) else EXIT_INCONCLUSIVE


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
