"""What a host's network manager does when its uplink comes back: addresses and routes via eth0 are put back.

The kernel drops the routes through a link that goes down. Acts on the transition from "not running" to "running" of
eth0 alone and heals nothing else: what a user takes away by hand stays away.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab import netns
from lab.spec import NodeSpec, Topology
from lab.topology import ip_batch, restore_batch

RTMGRP_LINK: Final = 1
RTM_NEWLINK: Final = 16
IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40

log = logging.getLogger(__name__)


def link_states(messages: Iterable[Any]) -> list[tuple[str, bool]]:
    """Return (device, up and running) of each RTM_NEWLINK among pyroute2's messages (rtnetlink(7))."""
    return [
        (str(message.get_attr("IFLA_IFNAME")), bool(message["flags"] & IFF_UP and message["flags"] & IFF_RUNNING))
        for message in messages
        if message["header"].get("type") == RTM_NEWLINK
    ]


async def keep_uplink(topology: Topology, node: NodeSpec) -> None:
    """Watch one node's eth0 until cancelled, and put its addresses and routes back after it was down."""
    # pyroute2 makes a namespace that is not there; ours must be.
    if not netns.exists(node.netns):
        raise netns.NetnsError(f"no network namespace {node.netns}")
    running = True
    async with AsyncIPRoute(netns=node.netns) as events:
        await events.bind(groups=RTMGRP_LINK)
        while True:
            try:
                messages = [message async for message in events.get()]
            except (OSError, NetlinkError) as error:  # they came faster than they were read: the next tells the state
                log.warning("%s: link events were lost: %s", node.name, error)
                continue
            for device, now in link_states(messages):
                if device != "eth0":
                    continue
                if now and not running:
                    await ip_batch(node.netns, restore_batch(topology, node), force=True)
                    log.info("%s: eth0 is up again; its addresses and routes were put back", node.name)
                running = now
