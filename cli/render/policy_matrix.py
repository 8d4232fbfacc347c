"""The matrix of policies: what may pass between namespaces or workloads, beside what was observed there."""

from __future__ import annotations

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.render.words import BLOCKED, OPEN, STATES, Look, look_of
from model.words import CellState, Verdict

EXPECTED: dict[str, Look] = {
    "allowed": Look("+", "green", "everything may pass"),
    "partly": Look("±", "yellow", "some ports or pods"),
    "denied": Look("-", "dim", "nothing may pass"),
    "unknown": Look("?", "magenta", "left open"),
}
LISTED = 60


class PolicyCellShown(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a cell of the API's document."""

    source: str
    destination: str
    expected: str
    state: CellState
    verdict: Verdict
    ports: tuple[str, ...] = ()
    paths: int = 0


class PolicyShown(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of the API's document."""

    by: str
    at: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[PolicyCellShown, ...]


def policy_matrix(document: PolicyShown, *, wide: bool, width: int) -> Group:
    """The grid where it fits, the legend, and the cells where some ports pass or something is not as it should be."""
    parts: list[RenderableType] = [_title(document), Text()]
    names = max((len(row) for row in document.rows), default=0)
    if names + 2 + 5 * len(document.columns) <= width:
        parts += [_grid(document), Text(), _legend()]
    else:
        size = f"{len(document.rows)} × {len(document.columns)} cells"
        parts.append(Text(f"{size} do not fit here; --namespace shows a part, the browser view all"))
    told = [c for c in document.cells if c.expected in ("partly", "unknown") or _wrong(c)]
    if told:
        parts += [Text(), _list(told, everything=wide)]
    return Group(*parts)


def _wrong(cell: PolicyCellShown) -> bool:
    return cell.verdict in (Verdict.UNEXPECTED_BLOCK, Verdict.UNEXPECTED_PASS)


def _title(document: PolicyShown) -> Text:
    wrong = sum(map(_wrong, document.cells))
    seen = sum(1 for cell in document.cells if cell.paths)
    line = Text.assemble(("policy", "bold"), f" by {document.by} at {document.at}: ")
    if wrong:
        return line.append(f"{wrong} of {seen} observed cells are not as policies say", style="bold red")
    if not seen:
        return line.append("nothing was observed yet", style="bold magenta")
    return line.append(f"✓ {seen} observed cells, all as policies say", style="bold green")


def _grid(document: PolicyShown) -> Group:
    cells = {(cell.source, cell.destination): cell for cell in document.cells}
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("from ╲ to", style="bold", no_wrap=True, header_style="dim")
    for number, _ in enumerate(document.columns, 1):
        table.add_column(str(number), justify="center", no_wrap=True, header_style="bold")
    for number, row in enumerate(document.rows, 1):
        table.add_row(f"{number:>2} {row}", *(_glyphs(cells[row, column]) for column in document.columns))
    return Group(table)


def _glyphs(cell: PolicyCellShown) -> Text:
    expected, seen = EXPECTED[cell.expected], look_of(cell.state, cell.verdict)
    return Text.assemble((expected.glyph, expected.style), (seen.glyph, seen.style))


def _legend() -> Text:
    line = Text("expected ", style="dim")
    for look in EXPECTED.values():
        line.append(f"{look.glyph} ", style=look.style).append(f"{look.words}   ", style="dim")
    line.append("\nobserved ", style="dim")
    seen = (STATES[CellState.OK], BLOCKED, OPEN, STATES[CellState.FAILING], STATES[CellState.UNSAMPLED])
    for look in seen:
        line.append(f"{look.glyph} ", style=look.style).append(f"{look.words}   ", style="dim")
    return line


def _list(cells: list[PolicyCellShown], *, everything: bool) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("from", "to", "expected", "observed"):
        table.add_column(name, overflow="fold")
    ranked = sorted(cells, key=lambda cell: not _wrong(cell))
    shown = ranked if everything else ranked[:LISTED]
    for cell in shown:
        seen = look_of(cell.state, cell.verdict)
        expected = f"{cell.expected}: {', '.join(cell.ports)}" if cell.ports else EXPECTED[cell.expected].words
        table.add_row(cell.source, cell.destination, expected, Text(f"{seen.glyph} {seen.words}", style=seen.style))
    if len(shown) == len(cells):
        return Group(table)
    return Group(table, Text(f"and {len(cells) - len(shown)} more; -o wide lists them all", style="dim"))
