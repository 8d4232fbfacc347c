"""The catalogue: what a cause is, and the collection of all of them, one file a cause in `causes/`.

To add a cause is to add a file there, and its twin in `lab/faults/`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from controller.diagnosis import causes
from controller.diagnosis.case import Case, Flow
from controller.diagnosis.finding import Finding
from controller.diagnosis.node_case import NodeCase


@dataclass(frozen=True, slots=True)
class CauseType:
    """An entry of the catalogue.

    `needs` are the host facts to ask for (fields of `model.facts.Facts`), on the flow's nodes, and `pod_needs` those of
    the destination's pod; `concerns` says from the flow alone whether the cause can apply, which saves asking.
    `find` reads the case and yields what it finds; it asks nobody and does not change anything. `late` causes need
    what a burst tells (counters that moved, taps); the others are looked for first, since they cost less.
    `of_node` takes the place of `find` where no path can fail: it reads what is known of a node.
    `suppresses` are codes that are but consequences of this one.
    """

    code: str
    title: str
    sign: str
    evidence: str
    find: Callable[[Case], Iterator[Finding]] = lambda _case: iter(())
    concerns: Callable[[Flow], bool] = lambda _flow: False
    of_node: Callable[[NodeCase], Iterator[Finding]] | None = None
    needs: frozenset[str] = frozenset()
    pod_needs: frozenset[str] = frozenset()
    late: bool = False
    suppresses: tuple[str, ...] = ()


@cache
def catalogue() -> tuple[CauseType, ...]:
    """Every cause, by code."""
    found: list[CauseType] = []
    for module in pkgutil.iter_modules(causes.__path__):
        loaded = importlib.import_module(f"{causes.__name__}.{module.name}")
        found.extend(value for value in vars(loaded).values() if isinstance(value, CauseType))
    return tuple(sorted(found, key=lambda c: c.code))


def concerned(flow: Flow) -> tuple[CauseType, ...]:
    """The causes that can apply to a flow."""
    return tuple(cause for cause in catalogue() if cause.concerns(flow))
