"""One connection of an agent, as those see it who send: a bounded queue of frames, and whether it has to close."""

from __future__ import annotations

import asyncio
from typing import Final

from model.protocol import FromController, encode

LINK_QUEUE: Final = 256


class AgentLink:
    """One connection of an agent: frames to send, in order, and whether it has to close and why."""

    def __init__(self, node: str) -> None:
        """An open link with nothing to send."""
        self.node = node
        self.closing = ""
        self.frames: asyncio.Queue[bytes] = asyncio.Queue(LINK_QUEUE)
        self.closed = asyncio.Event()

    def send(self, message: FromController) -> bool:
        """Queues a message. False, and the link closes, if the agent does not take them."""
        if self.closed.is_set():
            return False
        try:
            self.frames.put_nowait(encode(message))
        except asyncio.QueueFull:
            self.close("the agent does not read")
            return False
        return True

    def close(self, reason: str) -> None:
        """Asks whoever holds the socket to close it."""
        if not self.closed.is_set():
            self.closing = reason
            self.closed.set()
