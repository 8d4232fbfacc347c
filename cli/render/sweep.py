"""How far a sweep has come."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def is_whole(document: dict[str, Any]) -> bool:
    """Whether every path of the plan was observed since the sweep began."""
    return bool(document.get("whole"))


def sweep(document: dict[str, Any], *, waited: bool) -> RenderableType:
    """The state of the sweep: a headline, and the figures that the controller gives."""
    if is_whole(document):
        head = Text("✓ the sweep is whole", style="bold green")
    elif waited:
        head = Text("? the sweep is not whole yet", style="bold yellow")
    else:
        head = Text("the sweep has begun; --wait waits for its end")
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in document.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            grid.add_row(Text(name.replace("_", " "), style="dim"), str(value))
        elif isinstance(value, list) and value:
            grid.add_row(Text(name.replace("_", " "), style="dim"), ", ".join(map(str, value)))
    return Group(head, grid)
