"""The relay: passes bytes between a neighbour's agent and the controller, unread (they are TLS to the far end).

Must serve nobody but the nodes of the plan and named neighbours, and lead nowhere but to the controller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from agent.log import log
from agent.probers.lanes import same_address

MAX_CONNECTIONS: Final = 64
IDLE_S: Final = 30.0
CONNECT_S: Final = 2.0
_CHUNK: Final = 32768


class Relay:
    """Accepts on the node's addresses. Asked for each connection: where the controller is, and whom it may serve."""

    def __init__(self, controllers: Callable[[], Sequence[tuple[str, int]]], allowed: Callable[[str], bool]) -> None:
        self._controllers = controllers
        self._allowed = allowed
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many neighbours are being served."""
        return len(self._tasks)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection (callback of `asyncio.start_server`)."""
        peer = str(writer.get_extra_info("peername", ("",))[0]).partition("%")[0].removeprefix("::ffff:")
        task = asyncio.current_task()
        if task is None or not self._allowed(peer) or len(self._tasks) >= MAX_CONNECTIONS:
            log("warning", "relay refuses", peer=peer, connections=len(self._tasks))
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer, peer)
        except asyncio.CancelledError:
            # Only `close` cancels, and it waits for us; asyncio would log a cancelled callback as a fault.
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def close(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        far = await self._connect()
        if far is None:
            log("warning", "relay has no way to the controller itself", peer=peer)
            return
        far_reader, far_writer = far
        log("info", "relay serves", peer=peer)
        both = {
            asyncio.ensure_future(_pump(reader, far_writer)),
            asyncio.ensure_future(_pump(far_reader, writer)),
        }
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            far_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for host, port in self._controllers():
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(host, port, limit=_CHUNK)
            except (OSError, TimeoutError):
                continue
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side ends or nothing comes for IDLE_S; agents ping far more often than that."""
    try:
        while True:
            async with asyncio.timeout(IDLE_S):
                data = await reader.read(_CHUNK)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
    except (OSError, TimeoutError):
        return


def among(address: str, allowed: Sequence[str]) -> bool:
    """Whether an address is one of these, however IPv6 is written."""
    return any(same_address(address, one) for one in allowed if one)
