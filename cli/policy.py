"""`kubereach policy`: what NetworkPolicy allows between the workloads of manifests. Needs no cluster.

    kubereach policy -f DIR_OR_FILE… [-o table|wide|json|yaml] [--by pod|workload]
    kubereach policy diff -f OLD… -f NEW…
    kubereach policy why A B --port P [--proto tcp|udp|sctp|icmp] -f FILE [-f FILE…]

Exit code: 0 printed, or `why`: allowed · 1 `why`: denied · 2 usage or broken input · 3 `why`: left open.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from cli.documents import ManifestError
from cli.manifests import Manifests, read_manifests
from cli.policy_output import difference_out, relation_out, why_out
from cli.policy_why import Asked, QuestionError, ask
from controller.policy import PolicyModel, Profile, Relation, TooManyPeersError, relation
from controller.policy.difference import difference

USAGE_ERROR = 2


def main(argv: Sequence[str]) -> int:
    """Run the command with the words after `kubereach policy`; gives the exit code."""
    words = list(argv)
    commands: dict[str, Callable[[list[str]], int]] = {"diff": _diff, "why": _why}
    command = commands.get(words[0]) if words else None
    try:
        return command(words[1:]) if command is not None else _relation(words)
    except TooManyPeersError as error:
        further = "; ask for one pair, kubereach policy why A B, or for less: --by workload, fewer files"
        print(f"kubereach policy: {error}{further}", file=sys.stderr)
        return USAGE_ERROR
    except (ManifestError, QuestionError) as error:
        print(f"kubereach policy: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:
        # Whoever read has enough; what Python would still write at its end must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("-o", "--output", choices=("table", "wide", "json", "yaml"), default="table")
    parser.add_argument(
        "--ip-blocks-select-pods",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the network plugin matches addresses of pods against ipBlock and networks (default: it does)",
    )
    parser.add_argument(
        "--host-network-as-pods",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="whether the plugin's policies select host-network pods (default: they count as their node)",
    )
    return parser


def _by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=("pod", "workload"), default="pod", help="what the peers are")


def _relation(words: list[str]) -> int:
    parser = _parser("kubereach policy", "What NetworkPolicy allows between the workloads of manifests, and why.")
    parser.epilog = "Further: `kubereach policy diff --help`, `kubereach policy why --help`."
    parser.add_argument("-f", "--filename", nargs="+", action="extend", required=True, metavar="DIR_OR_FILE")
    _by(parser)
    args = parser.parse_args(words)
    manifests = _read(args.filename)
    relation_out(_whole(manifests, args), manifests, _model(manifests, args), args.output)
    return 0


def _diff(words: list[str]) -> int:
    parser = _parser("kubereach policy diff", "What a change of manifests would open and close.")
    parser.add_argument(
        "-f", "--filename", nargs="+", action="append", required=True, metavar="DIR_OR_FILE",
        help="give it twice: the old manifests, then the new ones",
    )  # fmt: skip
    _by(parser)
    args = parser.parse_args(words)
    if len(args.filename) != 2:
        parser.error("-f must be given twice: -f OLD… -f NEW…")
    old, new = (_read(group) for group in args.filename)
    difference_out(difference(_whole(old, args), _whole(new, args)), args.output)
    return 0


def _why(words: list[str]) -> int:
    parser = _parser("kubereach policy why", "Which rule allows a connection, or what is missing.")
    parser.add_argument("source", metavar="A", help="NS/NAME, pod/NS/NAME, KIND/NS/NAME, node/NAME or an address")
    parser.add_argument("destination", metavar="B", help="the same, or svc/NS/NAME[:PORT], or ADDRESS:PORT")
    parser.add_argument("-f", "--filename", action="append", required=True, metavar="DIR_OR_FILE")
    parser.add_argument("--port", type=int, help="the port of B")
    parser.add_argument("--proto", choices=("tcp", "udp", "sctp", "icmp"), default="tcp", type=str.lower)
    parser.add_argument("--family", type=int, choices=(4, 6))
    args = parser.parse_args(words)
    manifests = _read(args.filename)
    asked = Asked(args.source, args.destination, args.proto.upper(), args.port, args.family)
    answer = ask(_model(manifests, args), manifests, asked)
    why_out(answer, args.output)
    return {True: 0, False: 1, None: 3}[answer.allowed]


def _read(paths: list[str]) -> Manifests:
    manifests = read_manifests(paths)
    for note in manifests.notes:
        print(f"kubereach policy: {note}", file=sys.stderr)
    return manifests


def _model(manifests: Manifests, args: argparse.Namespace) -> PolicyModel:
    return PolicyModel.build(
        manifests.namespaces,
        manifests.pods,
        manifests.policies,
        Profile(args.ip_blocks_select_pods, args.host_network_as_pods),
        nodes=manifests.nodes,
        service_addresses=manifests.service_addresses,
    )


def _whole(manifests: Manifests, args: argparse.Namespace) -> Relation:
    return relation(_model(manifests, args), args.by, manifests.owner_of)
