"""What every reader of facts is given: where to look, and the things that several of them share.

Made after the namespace was entered; readers fetch from it and never change it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from agent.host import addresses, links, routes
from agent.host.netlink import Netlink
from model.facts import Address, FactsOrder, Link, Route

COMMAND_DEADLINE_S = 20.0


class ReadError(Exception):
    """A subject could not be read; the text says why in one line ("nft: command not found")."""


class Context:
    """One reading of one namespace. `netns` is its path, "" for the caller's own."""

    def __init__(self, order: FactsOrder, *, netns: str, proc_root: str, cni_conf_dir: str, cni_bin_dir: str) -> None:
        self.order = order
        self.netns = netns
        self.proc_root = Path(proc_root)
        self.cni_conf_dir = Path(cni_conf_dir)
        self.cni_bin_dirs = tuple(Path(one) for one in cni_bin_dir.split(":") if one)

    @cached_property
    def netlink(self) -> Netlink:
        """The socket for all readers of this process."""
        return Netlink()

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """All devices."""
        return links.read(self.netlink)

    @cached_property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses."""
        return addresses.read(self.netlink, self.device_names)

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """All routes of all tables."""
        return routes.read(self.netlink, self.device_names)

    @cached_property
    def device_names(self) -> dict[int, str]:
        """Names of devices by index."""
        return {link.index: link.name for link in self.links}

    def run(self, command: Sequence[str]) -> str:
        """The output of a program of the host. Raises ReadError if it is missing, fails or misses its deadline."""
        try:
            done = subprocess.run(command, capture_output=True, timeout=COMMAND_DEADLINE_S, check=False)
        except FileNotFoundError:
            raise ReadError(f"{command[0]}: command not found") from None
        except subprocess.TimeoutExpired:
            raise ReadError(f"{command[0]}: no answer within {COMMAND_DEADLINE_S:.0f} s") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ReadError(f"{' '.join(command)}: {said[-1] if said else f'exit {done.returncode}'}")
        return done.stdout.decode(errors="replace")
