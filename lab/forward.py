"""A loopback port of this machine that leads to a port in another namespace: bytes are passed on and not looked at."""

from __future__ import annotations

import asyncio
import logging
import socket

from lab import netns

CONNECT_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()


async def open_forward(namespace: str, address: str, port: int) -> asyncio.Server:
    """Listen on a free port of 127.0.0.1 and lead every connection to address:port in `namespace` (IPv4)."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        far_writer = None
        try:
            sock = netns.socket_in(namespace, socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.sock_connect(sock, (address, port))
            except BaseException:
                sock.close()
                raise
            far_reader, far_writer = await asyncio.open_connection(sock=sock)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, far_writer))
                group.create_task(_pass_on(far_reader, writer))
        except (OSError, TimeoutError, netns.NetnsError) as error:
            log.debug("%s:%d in %s: %s", address, port, namespace, error)
        finally:
            for one in (writer, far_writer):
                if one is not None:
                    one.close()

    return await asyncio.start_server(accept, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    """Return the loopback port of a forward."""
    return int(server.sockets[0].getsockname()[1])
