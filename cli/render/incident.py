"""Incidents: the table of them, and one of them explained."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.render.cause import causes
from cli.render.probe import remains
from cli.render.words import age, since
from model.diagnosis import Incident
from model.words import IncidentState

CELLS_SHOWN = 12
INCONCLUSIVE = "inconclusive"


def is_named(incident: Incident) -> bool:
    """Whether the incident names a cause."""
    return bool(incident.causes) and incident.causes[0].code != INCONCLUSIVE


def incident_table(incidents: Sequence[Incident], now: datetime, *, everything: bool, wide: bool) -> RenderableType:
    """All incidents, the open ones first."""
    if not incidents:
        words = "no incident, open or resolved" if everything else "no open incident"
        return Text(f"✓ {words}", style="bold green")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "incident", "state", "opened", "lasts", "cause", "object", "cells"):
        table.add_column(
            name,
            overflow="fold",
            no_wrap=name not in ("object", "cause"),
            justify="right" if name in ("lasts", "cells") else "left",
        )
    if wide:
        table.add_column("summary", overflow="fold")
    ordered = sorted(incidents, key=lambda incident: incident.opened_at, reverse=True)
    for incident in sorted(ordered, key=lambda incident: incident.state is not IncidentState.OPEN):
        is_open = incident.state is IncidentState.OPEN
        first = incident.causes[0] if incident.causes else None
        row: list[RenderableType] = [
            Text("✗", style="bold red") if is_open else Text("✓", style="green"),
            Text(incident.id, style="bold"),
            Text("open", style="bold red") if is_open else Text("resolved", style="green"),
            incident.opened_at,
            age(_lasted(incident, now)),
            Text(first.code if is_named(incident) and first else INCONCLUSIVE, style="bold"),
            str(first.object) if first else incident.title,
            str(incident.cell_count or len(incident.cells)),
        ]
        table.add_row(*row, *([first.summary if first else incident.title] if wide else []))
    hint = "kubereach explain INCIDENT (or: explain latest) tells why, and how to mend it"
    return Group(table, Text(), Text(hint, style="dim"))


def explained(incident: Incident, now: datetime, *, wide: bool) -> Group:
    """One incident: since when, the causes, the cells concerned."""
    is_open = incident.state is IncidentState.OPEN
    head = Text("✗ " if is_open else "✓ ", style="bold red" if is_open else "bold green")
    head.append(incident.title, style="bold")
    grid = Table.grid()
    grid.add_column(width=9, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("incident", incident.id)
    lasted = age(_lasted(incident, now))
    state = f"open for {lasted}" if is_open else f"resolved at {incident.resolved_at}, after {lasted}"
    grid.add_row("state", Text(state, style="red" if is_open else "green"))
    grid.add_row("opened", incident.opened_at)
    if wide and incident.first_sign_at:
        grid.add_row("1st sign", incident.first_sign_at)
    if wide and incident.named_at:
        grid.add_row("named", incident.named_at)
    parts: list[RenderableType] = [head, Text(), grid]
    if incident.causes:
        parts.append(causes(incident.causes, wide=wide))
    else:
        parts += [Text(), Text("? inconclusive: no cause fits what was measured", style="bold yellow")]
    parts += remains(incident.ruled_out, incident.missing_evidence, settled=is_named(incident), wide=wide)
    if incident.cells:
        parts += [Text(), _cells(incident, wide=wide)]
    return Group(*parts)


def _cells(incident: Incident, *, wide: bool) -> Group:
    total = max(incident.cell_count, len(incident.cells))
    shown = incident.cells if wide else incident.cells[:CELLS_SHOWN]
    grid = Table.grid(padding=(0, 1))
    for cell in shown:
        grid.add_row("       ", Text(cell.kind, style="dim"), cell.source, "→", cell.destination)
    parts: list[RenderableType] = [Text(f"cells concerned ({total})", style="bold"), grid]
    if total > len(shown):
        parts.append(Text(f"        and {total - len(shown)} more", style="dim"))
    return Group(*parts)


def _lasted(incident: Incident, now: datetime) -> float | None:
    opened = since(incident.opened_at, now)
    resolved = since(incident.resolved_at, now) if incident.resolved_at else 0.0
    return None if opened is None else max(0.0, opened - (resolved or 0.0))
