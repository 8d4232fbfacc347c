"""Causes: what is broken, why we say so, and the mend."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from model.diagnosis import Cause, Evidence


def causes(found: tuple[Cause, ...], *, wide: bool) -> Group:
    """All causes; the first is the answer, the others are what else fits."""
    parts: list[RenderableType] = []
    for number, cause in enumerate(found):
        heading = Text("cause   ", style="bold") if number == 0 else Text("also    ", style="bold")
        heading.append(cause.code, style="bold red" if number == 0 else "yellow")
        if cause.confidence > 0:
            heading.append(f"  confidence {cause.confidence:.0%}", style="dim")
        parts += [Text(), heading, Padding(_body(cause, wide=wide), (0, 0, 0, 8))]
    return Group(*parts)


def _body(cause: Cause, *, wide: bool) -> Group:
    named = Text(str(cause.object), style="bold")
    parts: list[RenderableType] = [named]
    if cause.object.text:
        parts.append(Text(cause.object.text, style="cyan"))
    parts.append(Text(cause.summary))
    parts += [_evidence(fact, wide=wide) for fact in cause.evidence]
    if cause.fix:
        parts.append(_fix(cause.fix))
    if wide and cause.suppresses:
        parts.append(Text(f"explains also: {', '.join(cause.suppresses)}", style="dim"))
    return Group(*parts)


def _evidence(fact: Evidence, *, wide: bool) -> RenderableType:
    line = Text("• ", style="dim")
    line.append(fact.says, style="default")
    if wide:
        read = [fact.fact, fact.node]
        if fact.before is not None or fact.after is not None:
            read.append(f"{fact.before} → {fact.after}")
        read.append(fact.value)
        line.append(f"  [{', '.join(part for part in read if part)}]", style="dim")
    return _hanging(line)


def _fix(fix: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("mend:", style="bold green"), Text(fix, style="green", overflow="fold"))
    return grid


def _hanging(line: Text) -> RenderableType:
    grid = Table.grid()
    grid.add_column(width=2)
    grid.add_column(overflow="fold")
    grid.add_row(line[:2], line[2:])
    return grid
