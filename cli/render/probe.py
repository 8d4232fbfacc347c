"""The report of one probe: headline, times, what policy says, causes, the way of the packets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.render.cause import causes
from cli.render.way import way
from cli.render.words import OUTCOMES, VERDICTS, duration
from model.diagnosis import Expectation, ProbeReport
from model.words import Outcome, Verdict

PHASES = ("dns", "connect", "tls", "first_byte", "total")


def probe_report(report: ProbeReport, source: str, destination: str, *, wide: bool) -> Group:
    """The whole report; `source` and `destination` as the user wrote them."""
    parts: list[RenderableType] = [_headline(report, source, destination), Text(), _facts(report)]
    if report.causes:
        parts.append(causes(report.causes, wide=wide))
    elif report.verdict not in (Verdict.HEALTHY, Verdict.BLOCKED_AS_INTENDED):
        parts += [Text(), Text("no cause found that fits what was measured", style="bold yellow")]
    parts += remains(report.ruled_out, report.missing_evidence, settled=bool(report.causes), wide=wide)
    if report.trace is not None:
        parts += [Text(), way(report.hops, report.trace)]
    if wide and report.attempts:
        parts += [Text(), _attempts(report.attempts)]
    return Group(*parts)


def remains(ruled_out: Sequence[str], missing: Sequence[str], *, settled: bool, wide: bool) -> list[RenderableType]:
    """What was ruled out and which evidence is missing: always where nothing is settled, else only when asked."""
    parts: list[RenderableType] = []
    if missing:
        parts += [Text(), Text("missing evidence", style="bold yellow")]
        parts += [Text(f"        • {line}") for line in missing]
    if ruled_out and (wide or not settled):
        parts += [Text(), Text("ruled out", style="bold"), Text("        " + ", ".join(ruled_out), style="dim")]
    return parts


def _headline(report: ProbeReport, source: str, destination: str) -> Text:
    look = VERDICTS[report.verdict]
    line = Text.assemble((f"{look.glyph} ", look.style), (source, "bold"), " → ", (destination, "bold"))
    how = "/".join(str(report.probe[key]) for key in ("protocol", "port") if report.probe.get(key))
    if how:
        line.append(f" ({how})", style="dim")
    line.append(": ")
    line.append(_verdict_words(report), style=look.style)
    return line


def _verdict_words(report: ProbeReport) -> str:
    words = VERDICTS[report.verdict].words
    if report.verdict is Verdict.UNKNOWN and report.outcome is Outcome.OK:
        return "gets through; whether it should is open"
    return words


def _facts(report: ProbeReport) -> Table:
    grid = Table.grid(padding=(0, 0))
    grid.add_column(width=8, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("outcome", _outcome(report))
    times = _times(report.attempts)
    if times:
        grid.add_row("times", times)
    phases = _phases(report.attempts)
    if phases:
        grid.add_row("phases", phases)
    answers = sorted({str(text) for attempt in report.attempts for text in attempt.get("answer", ())})
    if answers:
        grid.add_row("answer", ", ".join(answers))
    grid.add_row("policy", _expectation(report.expectation))
    if report.took_ms:
        grid.add_row("took", Text(duration(report.took_ms * 1000), style="dim"))
    return grid


def _outcome(report: ProbeReport) -> Text:
    line = Text(OUTCOMES[report.outcome])
    if report.attempts:
        good = sum(1 for attempt in report.attempts if attempt.get("outcome") == Outcome.OK.value)
        line.append(f"  ({good} of {len(report.attempts)} answered)", style="dim")
    statuses = sorted({attempt["status"] for attempt in report.attempts if attempt.get("status")})
    if statuses:
        line.append(f"  HTTP status {', '.join(map(str, statuses))}", style="dim")
    details = sorted({str(attempt["detail"]) for attempt in report.attempts if attempt.get("detail")})
    if details and report.outcome is not Outcome.OK:
        line.append(f"\n{'; '.join(details)}", style="dim")
    return line


def _times(attempts: Sequence[dict[str, Any]]) -> Text | None:
    measured = [attempt["rtt_us"] for attempt in attempts if attempt.get("rtt_us")]
    return _spread(measured) if measured else None


def _spread(values: Sequence[int]) -> Text:
    if len(values) == 1:
        return Text(duration(values[0]))
    line = Text()
    for number, (name, value) in enumerate((("min", min(values)), ("median", median(values)), ("max", max(values)))):
        line.append(f"{' · ' if number else ''}{name} ", style="dim")
        line.append(duration(value))
    return line


def _phases(attempts: Sequence[dict[str, Any]]) -> Table | None:
    seen = [attempt.get("phases") or {} for attempt in attempts]
    known = {name for phases in seen for name in phases}
    if not known:
        return None
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name in [*(phase for phase in PHASES if phase in known), *sorted(known - set(PHASES))]:
        grid.add_row(name.replace("_", " "), _spread([phases[name] for phases in seen if name in phases]))
    return grid


def _expectation(expectation: Expectation) -> Text:
    words = {True: "allows it", False: "forbids it", None: "leaves it open"}[expectation.allowed]
    line = Text(words, style="" if expectation.allowed is not None else "dim")
    if expectation.because:
        line.append(f": {', '.join(expectation.because)}")
    if expectation.missing:
        word = "why" if expectation.allowed is False else "not known"
        line.append(f"\n{word}: {expectation.missing}", style="dim" if expectation.allowed is False else "yellow")
    return line


def _attempts(attempts: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="attempts", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("#", "outcome", "time", "from", "phases", "detail"):
        table.add_column(name, header_style="dim", overflow="fold")
    for number, attempt in enumerate(attempts, 1):
        source = str(attempt.get("source_address") or "")
        if attempt.get("source_port"):
            source = f"[{source}]:{attempt['source_port']}" if ":" in source else f"{source}:{attempt['source_port']}"
        phases = ", ".join(f"{name} {duration(us)}" for name, us in (attempt.get("phases") or {}).items())
        rtt = duration(attempt["rtt_us"]) if attempt.get("rtt_us") else ""
        detail = "; ".join(filter(None, [str(attempt.get("detail") or ""), ", ".join(attempt.get("answer") or ())]))
        table.add_row(str(number), str(attempt.get("outcome", "")), rtt, source, phases, detail)
    return table
