"""`kubereach incidents` and `kubereach explain INCIDENT`: what is wrong, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from cli.client import Client, ConfigError
from cli.options import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_WRONG, Parser, add_access, command_parser
from cli.render.incident import explained, incident_table, is_named
from cli.session import Session, run
from model.diagnosis import Incident
from model.words import IncidentState

LATEST = "latest"
INCIDENTS_EXAMPLES = """examples:
  kubereach incidents
  kubereach incidents --all -o wide"""
EXPLAIN_EXAMPLES = """examples:
  kubereach explain latest
  kubereach explain 3f2a          the beginning of an id is enough
  kubereach explain 3f2a -o json"""


def build_incidents_parser() -> Parser:
    """The parser of `kubereach incidents`."""
    parser = command_parser(
        "incidents", "Lists what is wrong now: one line a cause, not a line a cell.", INCIDENTS_EXAMPLES
    )
    parser.add_argument("--all", action="store_true", help="the resolved ones too")
    add_access(parser)
    return parser


def build_explain_parser() -> Parser:
    """The parser of `kubereach explain`."""
    parser = command_parser(
        "explain", "Explains an incident: cause, object, evidence, mend.", EXPLAIN_EXAMPLES, "INCIDENT"
    )
    parser.add_argument("incident", metavar="INCIDENT", help="its id, the beginning of its id, or 'latest'")
    add_access(parser)
    return parser


def main(argv: list[str]) -> int:
    """Runs `kubereach incidents`. Returns the exit code."""
    args = build_incidents_parser().parse_args(argv)
    return run(lambda session: _incidents(session, everything=args.all), args)


def explain(argv: list[str]) -> int:
    """Runs `kubereach explain`. Returns the exit code."""
    args = build_explain_parser().parse_args(argv)
    return run(lambda session: _explain(session, args.incident), args)


def _incidents(session: Session, *, everything: bool) -> int:
    client = session.client
    with session.working("reading incidents"):
        document = client.get("/api/v1/incidents", None if everything else {"state": IncidentState.OPEN.value})
    found = msgspec.convert(document, tuple[Incident, ...])
    now = datetime.now(UTC)
    session.show(document, lambda: incident_table(found, now, everything=everything, wide=session.wide))
    return exit_code(found)


def _explain(session: Session, wanted: str) -> int:
    client = session.client
    with session.working("reading the incident"):
        name = _resolve(client, wanted)
        document = client.get(f"/api/v1/incidents/{name}")
    incident = msgspec.convert(document, Incident)
    session.show(document, lambda: explained(incident, datetime.now(UTC), wide=session.wide))
    return exit_code((incident,))


def _resolve(client: Client, wanted: str) -> str:
    listed = msgspec.convert(client.get("/api/v1/incidents"), tuple[Incident, ...])
    if wanted == LATEST:
        if not listed:
            raise ConfigError("there is no incident to explain, neither open nor resolved")
        return max(listed, key=lambda one: (one.state is IncidentState.OPEN, one.opened_at)).id
    matching = sorted(one.id for one in listed if one.id.startswith(wanted)) if wanted else []
    if wanted in matching:
        return wanted
    if len(matching) > 1:
        raise ConfigError(f"'{wanted}' begins more than one incident's id: {', '.join(matching)}; write more of it")
    if not matching:
        raise ConfigError(f"no incident has an id that begins with '{wanted}'; `kubereach incidents --all` lists them")
    return matching[0]


def exit_code(incidents: Sequence[Incident]) -> int:
    """0 nothing is open, 1 an open incident names its cause, 3 what is open is all inconclusive."""
    still_open = [incident for incident in incidents if incident.state is IncidentState.OPEN]
    if any(is_named(incident) for incident in still_open):
        return EXIT_WRONG
    return EXIT_INCONCLUSIVE if still_open else EXIT_OK
