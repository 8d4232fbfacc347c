"""What a controller of the lab wants written: create, delete, patch. Values alone; the service writes them."""

from __future__ import annotations

from dataclasses import dataclass

from lab.client import Object


@dataclass(frozen=True, slots=True)
class Create:
    """Make this object."""

    key: str
    body: Object


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove this object."""

    key: str
    item: Object


@dataclass(frozen=True, slots=True)
class Patch:
    """Merge into this object (`sub` "" or "status")."""

    key: str
    item: Object
    body: Object
    sub: str = ""


Change = Create | Delete | Patch
