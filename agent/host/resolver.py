"""The resolv.conf that processes of this network namespace see.

A network namespace has none of its own: it is a file in the mount namespace of a process. The oldest process that
lives in the network namespace is asked, since younger ones may be visitors (`nsenter`, this one).
"""

from __future__ import annotations

import os
from pathlib import Path

from model.facts import Resolver


class NobodyThereError(Exception):
    """No process in the namespace has a resolv.conf."""


def read(proc_root: Path) -> Resolver:
    """The resolv.conf of the oldest process in the caller's own network namespace. Raises NobodyThereError."""
    wanted = Path("/proc/thread-self/ns/net").stat()
    for _, process in sorted(_inhabitants(proc_root, (wanted.st_dev, wanted.st_ino))):
        try:
            text = (process / "root/etc/resolv.conf").read_text(errors="replace")
        except OSError:
            continue
        return parse(text)
    raise NobodyThereError("no process of this network namespace has an /etc/resolv.conf")


def parse(text: str) -> Resolver:
    """resolv.conf(5): the last of `search` and `domain` counts, options add up."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        word, *rest = line.split("#")[0].split(";")[0].split() or [""]
        if word == "nameserver" and rest:
            nameservers.append(rest[0])
        elif word in {"search", "domain"}:
            search = tuple(rest)
        elif word == "options":
            options += rest
    return Resolver(nameservers=tuple(nameservers), search=search, options=tuple(options))


def _inhabitants(proc_root: Path, wanted: tuple[int, int]) -> list[tuple[int, Path]]:
    found = []
    for process in proc_root.iterdir():
        if not process.name.isdigit() or (process.name == str(os.getpid()) and proc_root == Path("/proc")):
            continue
        try:
            its = (process / "ns/net").stat()
            if (its.st_dev, its.st_ino) == wanted:
                started = int((process / "stat").read_text().rpartition(")")[2].split()[19])
                found.append((started, process))
        except (OSError, ValueError, IndexError):
            continue
    return found
