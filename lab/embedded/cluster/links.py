"""What a host's network manager does when its uplink comes back: addresses and routes via eth0 are put back.

The kernel drops the routes through a link that goes down. Acts on the transition from "not running" to "running" of
eth0 alone and heals nothing else: what a user takes away by hand stays away.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Final

from lab import netns
from lab.spec import NodeSpec, Topology
from lab.topology import ip_batch, restore_batch

RTMGRP_LINK: Final = 1
RTM_NEWLINK: Final = 16
IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
IFLA_IFNAME: Final = 3
NETLINK_ROUTE: Final = 0

log = logging.getLogger(__name__)


def link_states(data: bytes) -> list[tuple[str, bool]]:
    """Return (device, up and running) of each RTM_NEWLINK in a netlink datagram (rtnetlink(7))."""
    states = []
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            break
        if kind == RTM_NEWLINK:
            flags = struct.unpack_from("=I", data, offset + 24)[0]
            name = _name(data[offset + 32 : offset + length])
            states.append((name, bool(flags & IFF_UP and flags & IFF_RUNNING)))
        offset += (length + 3) & ~3
    return states


def _name(attributes: bytes) -> str:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if length < 4:
            break
        if kind == IFLA_IFNAME:
            return attributes[offset + 4 : offset + length].rstrip(b"\0").decode()
        offset += (length + 3) & ~3
    return ""


async def keep_uplink(topology: Topology, node: NodeSpec) -> None:
    """Watch one node's eth0 until cancelled, and put its addresses and routes back after it was down."""
    loop = asyncio.get_running_loop()
    sock = netns.socket_in(node.netns, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    sock.bind((0, RTMGRP_LINK))
    sock.setblocking(False)
    running = True
    try:
        while True:
            try:
                data = await loop.sock_recv(sock, 65536)
            except OSError as error:  # events came faster than they were read: the state is in the next one
                log.warning("%s: link events were lost: %s", node.name, error)
                continue
            for device, now in link_states(data):
                if device != "eth0":
                    continue
                if now and not running:
                    await ip_batch(node.netns, restore_batch(topology, node), force=True)
                    log.info("%s: eth0 is up again; its addresses and routes were put back", node.name)
                running = now
    finally:
        sock.close()
