"""Facts of a node: an overview with what changed lately, or each subject as a table."""

from __future__ import annotations

import json
from collections.abc import Callable
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
        parts += [
            Text(f"{name} of {where}, read {when}", style="bold"),
            _value(FLAT.get(name, _same)(value), wide=wide),
            Text(),
        ]
    if any(answer.get("more") for answer in document["facts"].get("conntrack_entries", ())):
        parts.append(
            Text("there are more: narrow it down by --where, or ask for more by --where limit=1000", style="dim")
        )
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


def _same(value: Any) -> Any:
    return value


def _ipvs(services: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each server; one for a service without."""
    rows: list[dict[str, Any]] = []
    for one in services:
        where = f"{one.get('address', '')}:{one['port']}" if one.get("port") else one.get("address", "")
        head = {"service": where or f"mark {one['mark']}", "protocol": one.get("protocol", "")}
        head["scheduler"] = one.get("scheduler", "")
        rows += [{**head, **_server(server)} for server in one.get("servers", ())] or [{**head, "server": "none"}]
    return rows


def _server(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "server": f"{one['address']}:{one['port']}",
        "forwarding": one.get("forwarding", "masquerade"),
        "weight": one.get("weight", 1),
        **{name: one.get(name, 0) for name in ("active", "inactive", "connections", "packets_in")},
    }


def _connections(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "protocol": one["original"]["protocol"],
            "original": _way(one["original"]),
            "reply": _way(one["reply"]),
            "state": one.get("state", ""),
            "status": " ".join(one.get("status", ())),
            "timeout_s": one.get("timeout_s", 0),
        }
        for answer in answers
        for one in answer.get("entries", ())
    ]


def _way(one: dict[str, Any]) -> str:
    return f"{_end(one, 'source')} → {_end(one, 'destination')}"


def _end(one: dict[str, Any], name: str) -> str:
    port = one.get(f"{name}_port")
    address = f"[{one[name]}]" if port and ":" in one[name] else one[name]
    return f"{address}:{port}" if port else address


def _conntrack(value: dict[str, Any]) -> dict[str, Any]:
    return {"count": value["count"], "maximum": value["maximum"], **value.get("statistics", {})}


def _counters(value: dict[str, Any]) -> dict[str, Any]:
    softnet = {
        f"softnet.cpu{one['cpu']}.{name}": one.get(name, 0)
        for one in value.get("softnet", ())
        for name in ("processed", "dropped", "time_squeeze")
    }
    return {**value["protocols"], **softnet}


FLAT: dict[str, Callable[[Any], Any]] = {
    "ipvs": _ipvs, "conntrack_entries": _connections, "conntrack": _conntrack, "counters": _counters
}  # fmt: skip


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
