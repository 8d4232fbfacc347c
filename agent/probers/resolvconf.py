"""The resolv.conf that holds in a namespace: that of a process which lives there."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.netns import OWN, process_in
from model.facts import Resolver

_MAX_BYTES: Final = 16384


def parse(text: str) -> Resolver:
    """Read resolv.conf(5); the last of several search lines holds."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if not words:
            continue
        if words[0] == "nameserver" and len(words) > 1:
            nameservers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options.extend(words[1:])
    return Resolver(nameservers=tuple(nameservers), search=search, options=tuple(options))


def path_in(namespace: str) -> str:
    """Path of resolv.conf as a process in the namespace sees it; the host's own where no process is found."""
    if namespace != OWN:
        parts = namespace.split("/")
        pid = parts[2] if namespace.startswith("/proc/") and len(parts) > 2 else process_in(namespace)
        if pid and pid != "self" and Path(f"/proc/{pid}/root/etc/resolv.conf").exists():
            return f"/proc/{pid}/root/etc/resolv.conf"
    return "/etc/resolv.conf"


def read(path: str) -> Resolver:
    """Read a resolv.conf, at most 16 KiB of it; an absent one names no servers."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as handle:
            return parse(handle.read(_MAX_BYTES))
    except OSError:
        return Resolver()
