"""A cause that was found, with the paths that it explains."""

from __future__ import annotations

from dataclasses import dataclass

from controller.diagnosis.scope import Scope
from model.diagnosis import Cause


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause and its scope.

    `intended` marks what is true but nobody's fault (a Service whose Deployment was scaled to nothing): it answers a
    question on demand and opens no incident. `standing`: it shows in Kubernetes' objects and not in paths, and lasts
    until the sign there is gone.
    """

    cause: Cause
    scope: Scope
    intended: bool = False
    standing: bool = False
    ruled_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
