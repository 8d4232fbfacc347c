"""`kubereach probe A B`: one question on the wire, and why the answer is what it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from cli import pcapng
from cli.client import ConfigError
from cli.options import (
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_WRONG,
    Parser,
    add_access,
    command_parser,
    milliseconds,
    one_of,
    port,
    protocol,
    whole,
)
from cli.render.incident import INCONCLUSIVE
from cli.render.probe import probe_report
from cli.session import Session, run
from cli.targets import Target, TargetKind, parse_source, parse_target
from model.diagnosis import ProbeReport
from model.words import Outcome, Verdict

DESCRIPTION = """\
Probes from A to B now, holds the result against NetworkPolicy, and where it fails names the cause.

A is   node/NAME · pod/NAMESPACE/NAME (or NAMESPACE/NAME)
B is   one of these, or svc/NAMESPACE/NAME[:PORT] · IP[:PORT] ([IPv6]:PORT) · dns/NAME · a URL"""
EXAMPLES = """examples:
  kubereach probe shop/frontend-0 svc/pay/payments:8443
  kubereach probe node/node-a node/node-b --family 6
  kubereach probe pod/ops/admin-0 dns/kubernetes.default.svc.cluster.local
  kubereach probe pod/shop/frontend-0 https://example.org/ -o wide
  kubereach probe node/node-a 10.96.0.10:53 --proto udp --count 20 --interval 50ms
  kubereach probe pod/shop/frontend-0 pod/pay/payments-0 --count 200 --interval 20ms --trace --pcap way.pcapng"""
DIAGNOSIS_DEADLINE_S = 30.0


def build_parser() -> Parser:
    """The parser of this command."""
    parser = command_parser("probe", DESCRIPTION, EXAMPLES, "A B")
    parser.add_argument("source", metavar="A", help="where the probe starts")
    parser.add_argument("destination", metavar="B", help="what it shall reach")
    how = parser.add_argument_group("how to ask")
    how.add_argument("--proto", type=protocol, help="tcp, udp, sctp, icmp, http or dns; else what suits B")
    how.add_argument("--port", type=port, help="port of B, 1 to 65535; else what B declares")
    how.add_argument("--family", type=one_of(("4", "6")), help="4 or 6; else what both ends have")
    how.add_argument("--count", type=whole(1, 1000), default=3, help="attempts (3)")
    how.add_argument("--interval", type=milliseconds(5, 10_000), metavar="TIME", help="between attempts (100ms)")
    how.add_argument("--size", type=whole(0, 65_000), default=0, help="payload in octets, for udp and icmp (0)")
    how.add_argument(
        "--timeout", type=milliseconds(10, 10_000), default=1000, metavar="TIME", help="of one attempt (1s)"
    )
    how.add_argument(
        "--trace",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="follow marked packets over every device of the way, there and back; else only if it fails",
    )
    how.add_argument(
        "--pcap", type=Path, metavar="FILE", help="save the traced packets as captured at every device (pcapng)"
    )
    add_access(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs the command. Returns the exit code."""
    args = build_parser().parse_args(argv)
    return run(lambda session: _probe(session, args), args)


def _probe(session: Session, args: argparse.Namespace) -> int:
    body = request(args)
    client = session.client
    lasts_s = args.count * (args.timeout + (args.interval or 100)) / 1000
    # A trace sends as many once more.
    deadline_s = DIAGNOSIS_DEADLINE_S + (2 if args.trace or args.pcap else 1) * lasts_s
    with session.working(f"probing {args.source} → {args.destination}"):
        document = client.post("/api/v1/probe", body, deadline_s=deadline_s)
    report = msgspec.convert(document, ProbeReport)
    document.pop("capture", None)
    if args.pcap is not None:
        _save(session, args, report)
    session.show(document, lambda: probe_report(report, args.source, args.destination, wide=session.wide))
    return exit_code(report)


def _save(session: Session, args: argparse.Namespace, report: ProbeReport) -> None:
    if report.trace is None:
        session.stderr.print(f"nothing was traced, so {args.pcap} is not written")
        return
    try:
        count = pcapng.write(args.pcap, report.capture, f"kubereach probe {args.source} {args.destination}")
    except OSError as error:
        raise ConfigError(f"--pcap {args.pcap}: {error.strerror}") from None
    session.stderr.print(f"{count} packets in {args.pcap}")


def request(args: argparse.Namespace) -> dict[str, Any]:
    """The body that the API takes. Raises TargetError or ConfigError for what contradicts itself."""
    source, destination = parse_source(args.source), parse_target(args.destination)
    _check(destination, args)
    body: dict[str, Any] = {
        "source": source.text,
        "destination": destination.text,
        "protocol": args.proto,
        "port": args.port,
        "family": int(args.family) if args.family else None,
        "count": args.count,
        "size": args.size,
        "timeout_ms": args.timeout,
        "trace": args.trace,
    }
    if args.pcap is not None:
        body |= {"trace": True, "capture": True}
    if args.interval is not None:
        body["interval_ms"] = args.interval
    return body


def _check(destination: Target, args: argparse.Namespace) -> None:
    if args.pcap is not None and args.trace is False:
        raise ConfigError("--pcap saves what a trace captures; leave --no-trace out")
    family = int(args.family) if args.family else 0
    if args.port and destination.port and args.port != destination.port:
        raise ConfigError(f"--port {args.port} contradicts '{args.destination}'; name the port once")
    if args.port and args.proto == "icmp":
        raise ConfigError(f"--port {args.port} says nothing for --proto icmp, which has no ports; leave one out")
    if family and destination.family and family != destination.family:
        raise ConfigError(f"--family {family} contradicts '{args.destination}', an IPv{destination.family} address")
    if destination.kind is TargetKind.ADDRESS and not destination.port and not args.port and args.proto in _WANT_PORT:
        raise ConfigError(f"--proto {args.proto} to '{args.destination}' needs a port; write it behind, or --port")


_WANT_PORT = ("tcp", "udp", "sctp")


def exit_code(report: ProbeReport) -> int:
    """0 as it should be, 1 wrong and named, 3 inconclusive."""
    if report.verdict in (Verdict.HEALTHY, Verdict.BLOCKED_AS_INTENDED):
        return EXIT_OK
    if report.verdict is Verdict.UNKNOWN and report.outcome is Outcome.OK:
        return EXIT_OK  # it gets through, and nothing says that it should not
    named = bool(report.causes) and report.causes[0].code != INCONCLUSIVE
    return EXIT_WRONG if named else EXIT_INCONCLUSIVE
