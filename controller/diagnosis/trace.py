"""A trace as the controller holds it: the burst that was sent, and what each agent saw of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.probes import Vantage
from model.trace import Traced

if TYPE_CHECKING:
    from controller.diagnosis.case import Flow


@dataclass(frozen=True, slots=True)
class Trace:
    """A burst and what the agents saw of it. `watched` are the namespaces by node, as the agents number them.

    `deaf` says of a node why it could not watch.
    """

    flow: Flow
    count: int
    watched: Mapping[str, tuple[Vantage, ...]]
    told: Mapping[str, Traced] = field(default_factory=dict)
    deaf: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Traced | None:
        """What the sender saw; None if nothing was sent."""
        return self.told.get(self.flow.source.node)
