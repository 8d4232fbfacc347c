"""The way of a traced burst: a line a device, grouped by host and pod, there and back; where it stopped stands out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.render.words import duration
from model.diagnosis import Hop, Stop, TraceSummary

SOCKET = "socket"
TITLES = {"request": "the way there", "reply": "the way back", "error": "errors (ICMP)"}


def way(hops: Sequence[Hop], trace: TraceSummary) -> Group:
    """The whole trace: its figures, its table, what could not be watched."""
    parts: list[RenderableType] = [_title(trace)]
    if hops:
        parts += _groups(hops, trace)
    if trace.stop is not None and not any(_is_at(trace.stop, hop) for hop in hops):
        parts.append(_stopped(trace.stop))
    parts += [Text(f"        not watched: {line}", style="yellow") for line in trace.missing]
    return Group(*parts)


def _title(trace: TraceSummary) -> Text:
    line = Text("trace", style="bold")
    line.append(f"   {trace.sent} sent, ")
    line.append(f"{trace.answered} answered", style="green" if trace.answered else "")
    for count, words in ((trace.rejected, "rejected"), (trace.lost, "lost")):
        if count:
            line.append(", ")
            line.append(f"{count} {words}", style="bold red")
    told = [(trace.resets, "by reset"), (trace.repeated, "sent again"), (trace.duplicates, "answered twice")]
    told.append((trace.reordered, "answers out of order"))
    for count, words in told:
        if count:
            line.append(f", {count} {words}", style="yellow")
    if trace.network_us:
        line.append(f" · {duration(trace.network_us)} on the wire, there and back", style="dim")
    return line


def _groups(hops: Sequence[Hop], trace: TraceSummary) -> Iterator[RenderableType]:
    """Yield a heading for each way, for each host or pod on it, and the lines of its devices."""
    width = max(len(_device(hop)) for hop in hops)
    way, ends = "", ("", "")
    for (now, place), group in groupby(hops, key=lambda hop: (_way(hop), _where(hop))):
        if now != way:
            yield Text(f"  {TITLES[now]}", style="bold")
            way, ends = now, ("", "")
        yield Text(f"    {place}", style="cyan")
        grid = _grid(width)
        for hop in group:
            grid.add_row("", *_row(hop, trace, ends))
            ends = (hop.source, hop.destination)
            if trace.stop is not None and _is_at(trace.stop, hop):
                yield grid
                yield _stopped(trace.stop)
                grid = _grid(width)
        yield grid


def _grid(width: int) -> Table:
    grid = Table.grid(padding=(0, 1))
    for column in (5, 1, 3, width):
        grid.add_column(width=column, no_wrap=True)
    grid.add_column(width=4, justify="right", no_wrap=True)
    grid.add_column(width=8, justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _way(hop: Hop) -> str:
    return "error" if hop.error else "reply" if hop.reply else "request"


def _where(hop: Hop) -> str:
    return f"{hop.node} · pod {hop.namespace}" if hop.namespace else hop.node


def _device(hop: Hop) -> str:
    return "to its socket" if hop.device == SOCKET else hop.device


def _row(hop: Hop, trace: TraceSummary, ends: tuple[str, str]) -> tuple[RenderableType, ...]:
    return (
        "←" if hop.reply else "→",
        Text("" if hop.device == SOCKET else hop.direction, style="dim"),
        Text(_device(hop), style="italic" if hop.device == SOCKET else ""),
        Text(str(hop.numbers), style="" if hop.numbers >= trace.sent else "yellow"),
        Text(duration(hop.at_us), style="dim"),
        _notes(hop, ends),
    )


def _notes(hop: Hop, ends: tuple[str, str]) -> Text:
    """What is new at this device: addresses, translation, tunnel, and what befell packets here."""
    line = Text()

    def say(words: str, style: str = "dim") -> None:
        line.append("  " if line else "")
        line.append(words, style=style)

    if hop.error:
        say(hop.error, "red")
    elif hop.translated:
        say(hop.translated, "bold magenta")
    elif (hop.source, hop.destination) != ends and not any(ends) and hop.destination:
        say(f"{hop.source} → {hop.destination}")
    if hop.outer:
        say(f"in a tunnel {hop.outer.replace('>', ' → ')}", "blue")
    if hop.resets:
        say(f"{hop.resets} resets" if hop.resets > 1 else "1 reset", "yellow")
    if hop.repeated:
        say(f"{hop.repeated} seen twice", "yellow")
    if hop.reordered:
        say(f"{hop.reordered} out of order", "yellow")
    if hop.lost:
        say(f"{hop.lost} seen nowhere behind this", "red")
    return line


def _is_at(stop: Stop, hop: Hop) -> bool:
    here = (stop.node, stop.namespace, stop.device, stop.direction, stop.reply)
    return here == (hop.node, hop.namespace, hop.device, hop.direction, hop.reply) and not hop.error and hop.lost > 0


def _stopped(stop: Stop) -> Text:
    of = f" ({stop.packets} of {stop.of})" if stop.packets != stop.of else ""
    line = Text(f"      ✗ {stop.says}{of}", style="bold red")
    if stop.kernel:
        line.append(f"\n        the kernel there: {stop.kernel}", style="red")
    return line
