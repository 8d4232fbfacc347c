"""A matrix as a compact grid with a legend, and what fails as a list below it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.render.words import BLOCKED, OPEN, STATES, Look, age, duration, look_of, loss
from model.diagnosis import Cell, Matrix
from model.words import CellState, Verdict

GRID_COLUMNS = 60
LISTED = 40
SHORT_LABEL = 6
QUIET = (STATES[CellState.OK], BLOCKED, STATES[CellState.UNSAMPLED])


def matrix(document: Matrix, *, wide: bool, width: int) -> Group:
    """The grid (left out where the columns do not fit: then the list says all), the legend and the list."""
    counts: dict[Look, int] = {}
    for cell in document.cells:
        look = look_of(cell.state, cell.verdict)
        counts[look] = counts.get(look, 0) + 1
    parts: list[RenderableType] = [_title(document, counts), Text()]
    row_width = max((len(row) for row in document.rows), default=0)
    if not document.cells:
        parts.append(Text("nothing is measured here yet", style="dim"))
    elif len(document.columns) <= GRID_COLUMNS and row_width + 2 + 3 * len(document.columns) <= width:
        parts += [_grid(document, width - row_width - 2, wide=wide), Text(), _legend(counts)]
    else:
        parts.append(
            Text(f"{len(document.rows)} × {len(document.columns)} cells do not fit here; see the browser view")
        )
        parts.append(_legend(counts))
    noisy = [cell for cell in document.cells if look_of(cell.state, cell.verdict) not in QUIET]
    if noisy:
        parts += [Text(), _list(noisy, everything=wide)]
    return Group(*parts)


def _title(document: Matrix, counts: dict[Look, int]) -> Text:
    said = counts.get(STATES[CellState.OK], 0) + counts.get(BLOCKED, 0)
    sampled = len(document.cells) - counts.get(STATES[CellState.UNSAMPLED], 0)
    title = Text.assemble((document.kind, "bold"), f" matrix at {document.at}: ")
    if not sampled:
        return title.append("nothing is measured", style="bold")
    if said == sampled:
        return title.append(f"✓ all {sampled} measured cells as they should be", style="bold green")
    return title.append(f"{sampled - said} of {sampled} measured cells are not as they should be", style="bold red")


def _grid(document: Matrix, room: int, *, wide: bool) -> Group:
    cells = {(cell.source, cell.destination): cell for cell in document.cells}
    names = [_short(column, document.columns) for column in document.columns]
    longest = max(map(len, names), default=0)
    labelled = longest <= SHORT_LABEL or (longest + 2) * len(names) <= room
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("from ╲ to", style="bold", no_wrap=True, header_style="dim")
    for number, name in enumerate(names, 1):
        table.add_column(name if labelled else str(number), justify="center", no_wrap=True, header_style="bold")
    for row in document.rows:
        table.add_row(row, *(_glyph(cells.get((row, column)), wide=wide) for column in document.columns))
    if labelled:
        return Group(table)
    keys = Table.grid(padding=(0, 1))
    for number, column in enumerate(document.columns, 1):
        keys.add_row(Text(str(number), style="bold", justify="right"), column)
    return Group(table, Text(), Text("columns", style="dim"), keys)


def _short(column: str, columns: tuple[str, ...]) -> str:
    head, slash, rest = column.partition("/")
    return rest if slash and all(other.startswith(f"{head}/") for other in columns) else column


def _glyph(cell: Cell | None, *, wide: bool) -> Text:
    if cell is None:
        return Text(" ")
    look = look_of(cell.state, cell.verdict)
    text = Text(look.glyph, style=look.style)
    if wide and cell.rtt_us:
        text.append(f" {duration(cell.rtt_us)}", style="dim")
    return text


def _legend(counts: dict[Look, int]) -> Text:
    line = Text()
    for look in (*STATES.values(), BLOCKED, OPEN):
        if counts.get(look):
            line.append(f"{look.glyph} ", style=look.style).append(f"{look.words} {counts[look]}   ", style="dim")
    return line


def _list(cells: list[Cell], *, everything: bool) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "from", "to", "state", "loss", "time", "age", "paths failing"):
        table.add_column(name, justify="right" if name in ("loss", "time", "age") else "left", overflow="fold")
    ranked = sorted(cells, key=lambda cell: cell.state is not CellState.FAILING)
    shown = ranked if everything else ranked[:LISTED]
    for cell in shown:
        look = look_of(cell.state, cell.verdict)
        failing = f"{len(cell.failing)} of {cell.paths}" if cell.failing else ""
        if everything and cell.failing:
            failing += f": {', '.join(cell.failing)}"
        table.add_row(
            Text(look.glyph, style=look.style),
            cell.source,
            cell.destination,
            Text(_words(cell, look), style=look.style),
            loss(cell.loss),
            duration(cell.rtt_us) if cell.rtt_us else "–",
            age(cell.age_s),
            failing,
        )
    if len(shown) == len(cells):
        return Group(table)
    return Group(table, Text(f"and {len(cells) - len(shown)} more; -o wide lists them all", style="dim"))


def _words(cell: Cell, look: Look) -> str:
    if look is STATES[CellState.FAILING] and cell.verdict is Verdict.UNEXPECTED_BLOCK:
        return "failing, should pass"
    return look.words


def as_it_should_be(cell: Cell) -> bool | None:
    """Whether a cell is as it should be; None where nobody can tell (unknown, stale, starved). Unsampled is fine."""
    look = look_of(cell.state, cell.verdict)
    if look in QUIET:
        return True
    return None if cell.state in (CellState.UNKNOWN, CellState.STALE, CellState.STARVED) else False
