"""A short name for what a subject says, so that it travels only when it says something else.

What moves all the time by itself (counters, ages) is left out of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from model.facts import Link

COUNTERS: Final = {name: 0 for name in Link.__struct_fields__ if name.startswith(("rx_", "tx_"))}
MOVING_SYSCTLS: Final = {"net.netfilter.nf_conntrack_count"}


def digest(subject: str, value: Any) -> str:
    """Sixteen hexadecimal digits; equal for values that say the same."""
    still = _STILL.get(subject)
    data = msgspec.json.encode(still(value) if still else value, order="deterministic")
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _links(links: tuple[Link, ...]) -> list[Link]:
    return [msgspec.structs.replace(link, **COUNTERS) for link in links]


def _sysctls(sysctls: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in sysctls.items() if name not in MOVING_SYSCTLS}


_STILL: Final[dict[str, Callable[[Any], Any]]] = {"links": _links, "sysctls": _sysctls}
