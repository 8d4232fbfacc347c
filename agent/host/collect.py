"""Reads the subjects of an order; the failure of one is its own entry in `Facts.errors` and never harms another."""

from __future__ import annotations

import time
from typing import Any

from agent.host.context import Context
from agent.host.digest import digest
from agent.host.registry import READERS, wanted
from model.facts import Facts


def collect(context: Context) -> Facts:
    """All that the order asks for, but for a rule trace, which runs beside."""
    fields: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for subject in wanted(context.order):
        if subject == "rule_trace":
            continue
        reader = READERS.get(subject)
        if reader is None:
            errors[subject] = "no such subject"
            continue
        try:
            fields[subject] = reader(context)
        except Exception as error:  # whatever goes wrong with one subject must not cost the others
            errors[subject] = f"{type(error).__name__}: {error}"
    if "firewall" in vars(context):
        errors |= {f"netfilter {backend}": why for backend, why in context.firewall.reading.errors.items()}
    digests = {subject: digest(subject, fields[subject]) for subject in context.order.known if subject in fields}
    for subject, now in digests.items():
        if now == context.order.known[subject]:
            del fields[subject]
    return Facts(at_ms=time.time_ns() // 1_000_000, digests=digests, errors=errors, **fields)
