"""The resolv.conf that holds in a network namespace.

A network namespace has none of its own: it is a file in the mount namespace of a process that lives there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.netns import OWN, inhabitants
from model.facts import Resolver

_OWN_FILE: Final = Path("/etc/resolv.conf")
_MAX_BYTES: Final = 16384


class NoResolverError(Exception):
    """No process of the namespace has a resolv.conf; the text says so."""


def parse(text: str) -> Resolver:
    """resolv.conf(5): the last of `search` and `domain` holds, options add up."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        word, *rest = line.split("#", 1)[0].split(";", 1)[0].split() or [""]
        if word == "nameserver" and rest:
            nameservers.append(rest[0])
        elif word in {"search", "domain"}:
            search = tuple(rest)
        elif word == "options":
            options += rest
    return Resolver(nameservers=tuple(nameservers), search=search, options=tuple(options))


def read(namespace: str) -> Resolver:
    """What the oldest process there that has one sees, at most 16 KiB of it. Never the host's for a pod's.

    Raises NoResolverError.
    """
    files = [Path(f"/proc/{process}/root/etc/resolv.conf") for process in inhabitants(namespace)]
    for file in (*files, *([_OWN_FILE] if namespace == OWN else [])):
        try:
            with file.open(encoding="utf-8", errors="replace") as handle:
                return parse(handle.read(_MAX_BYTES))
        except OSError:
            continue
    raise NoResolverError("no process of this network namespace has an /etc/resolv.conf")


def or_empty(namespace: str) -> Resolver:
    """The same for who asks names: a resolver without servers where there is none."""
    try:
        return read(namespace)
    except NoResolverError:
        return Resolver()
