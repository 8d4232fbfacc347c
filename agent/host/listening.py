"""Runs an order's rule trace beside its other subjects: first, so that it misses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from agent.host.ruletrace.tracer import RuleTracer
from model.facts import Facts
from model.netfilter import RuleTrace, RuleTraceQuery


class Listening:
    """A rule trace that listens in a thread of its own."""

    def __init__(self, query: RuleTraceQuery) -> None:
        self._tracer = RuleTracer(query)
        self._found: RuleTrace | None = None
        self._error = ""
        self._thread: threading.Thread | None = None

    def begin(self, armed: Callable[[], None]) -> None:
        """Arms it and says so; what goes wrong is told at the end."""
        self._guard(self._tracer.arm)
        if not self._error:
            self._thread = threading.Thread(target=self._guard, args=(self._collect,), daemon=True)
            self._thread.start()
            armed()

    def end(self, facts: Facts) -> Facts:
        """Waits for its deadline; the facts with its answer, or its error, in addition."""
        if self._thread is not None:
            self._thread.join()
        errors = {**facts.errors, "rule_trace": self._error} if self._error else facts.errors
        return msgspec.structs.replace(facts, rule_trace=self._found, errors=errors)

    def _collect(self) -> None:
        self._found = self._tracer.collect()

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # one subject's failure is its own
            self._error = f"{type(error).__name__}: {error}"
