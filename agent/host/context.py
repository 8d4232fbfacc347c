"""What every reader of facts is given: where to look, and the things that several of them share.

Made after the namespace was entered; readers fetch from it and never change it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from agent.host import addresses, links, routes
from agent.host.netlink import Netlink
from model.facts import Address, FactsOrder, Link, Route

if TYPE_CHECKING:
    from agent.host.firewall import Firewall


class Context:
    """One reading of one namespace. `netns` is its path, "" for the caller's own."""

    def __init__(self, order: FactsOrder, *, netns: str, cni_conf_dir: str, cni_bin_dir: str) -> None:
        self.order = order
        self.netns = netns
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
    def firewall(self) -> Firewall:
        """Netfilter, for walks and droppers."""
        from agent.host.firewall import Firewall  # noqa: PLC0415 - only where it is asked for

        return Firewall(self)

    @cached_property
    def device_names(self) -> dict[int, str]:
        """Names of devices by index."""
        return {link.index: link.name for link in self.links}
