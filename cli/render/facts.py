"""Facts of a node: an overview with what changed lately, or each subject as a table."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

CHANGES_SHOWN = 20
# Of devices' many numbers only these stand in a narrow table.
NARROW = 9


def overview(document: dict[str, Any]) -> RenderableType:
    """What is kept, since when, and the latest changes."""
    kept = _table("subject", "entries", "read at", "digest")
    for name, one in sorted(document["subjects"].items()):
        kept.add_row(name, str(one["entries"]), one["at"], one["digest"])
    nothing = Text("nothing is kept of this node yet; name a subject to ask it now", style="dim")
    parts: list[RenderableType] = [kept if document["subjects"] else nothing, *_errors(document)]
    changes = document["changes"][-CHANGES_SHOWN:]
    if changes:
        table = _table("changed at", "what", "", "")
        for one in reversed(changes):
            table.add_row(one["at"], f"{one['subject']} {one['name']}", one["says"], one["what"])
        parts += [Text(), table]
    return Group(*parts)


def subjects(document: dict[str, Any], *, wide: bool) -> RenderableType:
    """Each subject that was asked for."""
    where = f"{document['node']}, pod {document['pod']}" if document["pod"] else document["node"]
    when = "now" if document["fresh"] else f"at {document['at']}" if document["at"] else "never"
    parts: list[RenderableType] = []
    for name, value in document["facts"].items():
        parts += [Text(f"{name} of {where}, read {when}", style="bold"), _value(value, wide=wide), Text()]
    return Group(*parts, *_errors(document))


def _errors(document: dict[str, Any]) -> list[Text]:
    return [Text(f"cannot read {subject} because {why}", style="yellow") for subject, why in document["errors"].items()]


def _value(value: Any, *, wide: bool) -> RenderableType:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        names = list(dict.fromkeys(name for one in value for name in one))
        shown = names if wide else names[:NARROW]
        table = _table(*shown)
        for one in value:
            table.add_row(*(_word(one.get(name)) for name in shown))
        return table
    if isinstance(value, dict):
        table = _table("name", "value")
        for name, one in value.items():
            table.add_row(name, _word(one))
        return table
    return Text(_word(value) if value else "none", style="" if value else "dim")


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _word(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
