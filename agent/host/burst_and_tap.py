"""Runs an order's tap and burst beside its other subjects: the tap first, so that it misses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from agent.host.context import Context


class Capture:
    """A tap that counts in a thread of its own, and a burst that is ready to be sent."""

    def __init__(self, context: Context) -> None:
        self.fields: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self._context = context
        self._thread: threading.Thread | None = None
        self._packets: list[bytes] = []

    def begin(self, armed: Callable[[], None]) -> None:
        """Builds the burst, opens the tap, says that it is armed, sends the burst."""
        order = self._context.order
        if order.burst is not None:
            self._guard("burst_sent", self._build)
        if order.tap is not None:
            self._guard("tap", self._open)
            if self._thread is not None:
                armed()
        if self._packets:
            self._guard("burst_sent", self._send)

    def end(self) -> None:
        """Waits for the tap's deadline."""
        if self._thread is not None:
            self._thread.join()

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
        self._thread = threading.Thread(target=self._guard, args=("tap", lambda: self._count(tap)), daemon=True)
        self._thread.start()

    def _count(self, tap: Any) -> None:
        self.fields["tap"] = tap.count()

    def _guard(self, subject: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # one subject's failure is its own
            self.errors[subject] = f"{type(error).__name__}: {error}"
