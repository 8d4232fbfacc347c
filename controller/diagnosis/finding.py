"""A cause that was found, with the paths that it explains."""

from __future__ import annotations

from dataclasses import dataclass

from controller.diagnosis.scope import Scope
from model.diagnosis import Cause


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause and its scope.

    `intended` marks what is true but nobody's fault (a Service whose Deployment was scaled to nothing): it answers a
    question on demand and opens no incident.
    """

    cause: Cause
    scope: Scope
    intended: bool = False
    ruled_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
