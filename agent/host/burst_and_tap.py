"""Runs an order's tap, rule trace and burst beside its other subjects: the burst last, so that they miss nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from agent.host.context import Context


class Capture:
    """A tap and a rule trace that listen in threads of their own, and a burst that is ready to be sent."""

    def __init__(self, context: Context) -> None:
        self.fields: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self._context = context
        self._threads: list[threading.Thread] = []
        self._packets: list[bytes] = []

    def begin(self, armed: Callable[[], None]) -> None:
        """Builds the burst, opens tap and trace, says that they are armed, sends the burst."""
        order = self._context.order
        if order.burst is not None:
            self._guard("burst_sent", self._build)
        if order.tap is not None:
            self._guard("tap", self._open)
        if order.rule_trace_asked is not None:
            self._guard("rule_trace", self._trace)
        if self._threads:
            armed()
        if self._packets:
            self._guard("burst_sent", self._send)

    def end(self) -> None:
        """Waits for the deadlines of tap and trace."""
        for thread in self._threads:
            thread.join()

    def _build(self) -> None:
        from agent.wire import burst  # noqa: PLC0415 - loads scapy

        assert self._context.order.burst is not None
        self._packets = burst.build(self._context.order.burst)

    def _send(self) -> None:
        from agent.wire import burst  # noqa: PLC0415 - loads scapy

        assert self._context.order.burst is not None
        self.fields["burst_sent"] = burst.send(self._context.order.burst, self._packets)

    def _open(self) -> None:
        from agent.wire.tap import Tap  # noqa: PLC0415 - only where it is asked for

        assert self._context.order.tap is not None
        ports = [link.vxlan.port for link in self._context.links if link.vxlan is not None]
        tap = Tap(self._context.order.tap, ports)
        self._listen("tap", tap.count)

    def _trace(self) -> None:
        from agent.host.ruletrace.tracer import RuleTracer  # noqa: PLC0415 - only where it is asked for

        assert self._context.order.rule_trace_asked is not None
        tracer = RuleTracer(self._context.order.rule_trace_asked)
        tracer.arm()
        self._listen("rule_trace", tracer.collect)

    def _listen(self, subject: str, collect: Callable[[], object]) -> None:
        def run() -> None:
            self.fields[subject] = collect()

        thread = threading.Thread(target=self._guard, args=(subject, run), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guard(self, subject: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # one subject's failure is its own
            self.errors[subject] = f"{type(error).__name__}: {error}"
