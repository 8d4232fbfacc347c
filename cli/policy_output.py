"""Rendering of `kubereach policy`: JSON and YAML by the contract, tables for people. Results go to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.manifests import Manifests
from cli.policy_ingress import ingress_rows
from cli.policy_why import Answer
from controller.policy import Decision, PeerName, PolicyModel, RangeName, Relation, Row
from controller.policy.difference import Difference
from controller.policy.ports import ranges_text

_WIDTH = 200
_VERDICTS = {True: "allowed", False: "denied", None: "unknown"}


def relation_out(found: Relation, manifests: Manifests, model: PolicyModel, form: str) -> None:
    """Print a relation: what is not listed is denied."""
    ingress = ingress_rows(manifests, model)
    if form in {"json", "yaml"}:
        whole: dict[str, Any] = {"allowed": [_row(row) for row in found.allowed]}
        if found.unknown:
            whole["unknown"] = [_row(row) for row in found.unknown]
        if manifests.ingresses:
            whole["ingress"] = ingress
        _structured(whole, form)
        return
    _table("Allowed; what is not listed is denied", found.allowed)
    if found.unknown:
        _table("Left open by the standard", found.unknown)
    if ingress:
        table = _empty_table("From an ingress controller of unknown place and labels")
        for row in ingress:
            to = row["destination"]
            ports = tuple((first, last) for first, last in row["ports"])
            cells = (f"{to['namespace']}/{to['name']}", row["protocol"], ranges_text(ports), ", ".join(row["because"]))
            table.add_row("IngressController", *(Text(cell) for cell in cells))
        _print(table)


def difference_out(found: Difference, form: str) -> None:
    """Print what a change opens and closes."""
    if form in {"json", "yaml"}:
        _structured(
            {"opened": [_row(row) for row in found.opened], "closed": [_row(row) for row in found.closed]}, form
        )
        return
    if not found.opened and not found.closed:
        print("No connection is opened or closed.")
    if found.opened:
        _table("Opened", found.opened)
    if found.closed:
        _table("Closed", found.closed)


def why_out(answer: Answer, form: str) -> None:
    """Print the answer to a question."""
    if form in {"json", "yaml"}:
        parts = [_decision(text, port, answer.protocol, decision) for text, port, decision in answer.parts]
        head: dict[str, Any] = {"source": answer.source, "allowed": answer.allowed}
        whole = {**head, **parts[0]} if len(parts) == 1 else {**head, "destination": answer.destination}
        _structured({**whole, "parts": parts} if len(parts) > 1 else whole, form)
        return
    for text, port, decision in answer.parts:
        what = f"{answer.protocol} {port}" if port else answer.protocol
        print(f"{_VERDICTS[decision.allowed]}: {answer.source} → {text}, {what}")
        for rule in decision.rules or decision.because:
            print(f"  because: {rule}")
        if decision.direction:
            print(f"  where: {decision.direction}")
        if decision.missing:
            print(f"  {'missing' if decision.allowed is False else 'left open'}: {decision.missing}")


def _decision(text: str, port: int, protocol: str, decision: Decision) -> dict[str, Any]:
    return {
        "destination": text,
        "protocol": protocol,
        "port": port or None,
        "allowed": decision.allowed,
        "because": list(decision.because),
        "rules": list(decision.rules),
        "direction": decision.direction,
        "missing": decision.missing,
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "source": _peer(row.source),
        "destination": _peer(row.destination),
        "protocol": row.protocol,
        "ports": [list(span) for span in row.ports],
        "because": list(row.because),
    }


def _peer(peer: PeerName | RangeName) -> dict[str, str]:
    if isinstance(peer, RangeName):
        return {"kind": peer.kind, "first": peer.first, "last": peer.last}
    return {"kind": peer.kind, "namespace": peer.namespace, "name": peer.name}


def _peer_text(peer: PeerName | RangeName) -> str:
    if isinstance(peer, RangeName):
        return f"{peer.first} to {peer.last}"
    return f"{peer.namespace}/{peer.name}" + ("" if peer.kind == "Pod" else f" ({peer.kind})")


def _structured(whole: Any, form: str) -> None:
    if form == "json":
        print(msgspec.json.format(msgspec.json.encode(whole), indent=1).decode())
    else:
        yaml.safe_dump(whole, sys.stdout, sort_keys=False, allow_unicode=True)


def _empty_table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("SOURCE", "DESTINATION", "PROTOCOL", "PORTS", "BECAUSE"):
        table.add_column(column, overflow="fold")
    return table


def _table(title: str, rows: Iterable[Row]) -> None:
    table = _empty_table(title)
    merged: dict[tuple[str, str, tuple[tuple[int, int], ...], tuple[str, ...]], list[str]] = {}
    for row in rows:
        key = (_peer_text(row.source), _peer_text(row.destination), row.ports, row.because)
        merged.setdefault(key, []).append(row.protocol)
    for (source, destination, ports, because), protocols in merged.items():
        cells: Sequence[str] = (source, destination, ",".join(protocols), ranges_text(ports), ", ".join(because))
        table.add_row(*(Text(cell) for cell in cells))
    _print(table)


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
