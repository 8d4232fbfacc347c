"""What each figure is held against: the project's targets, by the beginning of the figure's name. Pure data."""

from __future__ import annotations

from typing import Final, NamedTuple


class Target(NamedTuple):
    """The most that a figure may be, in the figure's unit."""

    bound: float

    def met(self, value: float) -> bool:
        """Whether the figure keeps to it."""
        return value <= self.bound

    def __str__(self) -> str:
        """As it stands in the table."""
        return f"≤ {self.bound:g}"


TARGETS: Final = {
    "agent RSS, 500 peers": Target(24),
    "agent CPU at 16 probes/s": Target(0.4),
    "agent CPU at 3 probes/s": Target(0.15),
    "agent CPU a probe": Target(0.25),
    "lab of 4 nodes: up, with agents": Target(20),
    "lab: agent RSS": Target(24),
    "lab, all faults: first sign, median": Target(1),
    "lab, all faults: named, median": Target(4),
    "lab, all faults: named, worst": Target(8),
    "lab, all faults: cleared, median": Target(3),
    "Kubernetes, all faults: first sign, median": Target(1),
    "Kubernetes, all faults: named, median": Target(4),
    "Kubernetes, all faults: named, worst": Target(8),
    "Kubernetes, all faults: cleared, median": Target(3),
}


def target(name: str) -> Target | None:
    """The target of a figure, if there is one."""
    return next((bound for begin, bound in TARGETS.items() if name.startswith(begin)), None)
