"""A WebSocket to the controller over TLS: wsproto does the protocol, asyncio's streams carry it.

Knows nothing of messages. The certificate is verified against the controller's CA and name or address, also
where the connection leads through a neighbour: that one passes on bytes that it cannot read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError as WebSocketError

from model.protocol import MAX_MESSAGE_BYTES, SUBPROTOCOL

PATH: Final = "/api/v1/agent"
_TCP_USER_TIMEOUT: Final = 18
_USER_TIMEOUT_MS: Final = 3000
_CHUNK: Final = 65536
MAX_UNSENT_BYTES: Final = 4 * 1024 * 1024


class StreamError(RuntimeError):
    """The connection cannot be had or has ended; the text says why."""


class RefusedError(StreamError):
    """The controller does not let us in; `status` is that of its HTTP answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the controller refuses with status {status}")
        self.status = status


class Stream:
    """An open WebSocket. `heard` is when something last came, on the loop's clock."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        self.on_pong: Callable[[bytes], None] = lambda _payload: None

    @classmethod
    async def open(
        cls,
        target: tuple[str, int],
        controller: tuple[str, int],
        server_name: str,
        tls: ssl.SSLContext,
        token: str,
        timeout_s: float,
    ) -> Stream:
        """Connect to `target` (the controller, or a relay) and shake hands with `controller`, all within `timeout_s`.

        `server_name` is what its certificate must be valid for.
        Raises RefusedError or StreamError.
        """
        try:
            async with asyncio.timeout(timeout_s):
                # Handshake and shutdown have deadlines of their own, which must not outlast ours.
                reader, writer = await asyncio.open_connection(
                    target[0],
                    target[1],
                    ssl=tls,
                    server_hostname=server_name,
                    ssl_handshake_timeout=timeout_s,
                    ssl_shutdown_timeout=0.5,
                )
                stream = cls(reader, writer)
                try:
                    await stream._upgrade(controller, token)
                except BaseException:
                    stream.abort()
                    raise
                return stream
        except TimeoutError:
            raise StreamError(f"no connection within {timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise StreamError(f"certificate not valid: {error.verify_message}") from None
        except OSError as error:
            raise StreamError(error.strerror or str(error) or type(error).__name__) from None

    async def _upgrade(self, controller: tuple[str, int], token: str) -> None:
        sock = self._writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        host, port = controller
        request = Request(
            host=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            target=PATH,
            subprotocols=[SUBPROTOCOL],
            extra_headers=[(b"Authorization", b"Bearer " + token.encode("ascii", "replace"))],
        )
        self._writer.write(self._ws.send(request))
        while True:
            await self._read()
            for event in self._ws.events():
                if isinstance(event, AcceptConnection):
                    if event.subprotocol != SUBPROTOCOL:
                        raise StreamError("the far end speaks another protocol")
                    return
                if isinstance(event, RejectConnection):
                    raise RefusedError(event.status_code)

    async def _read(self) -> None:
        try:
            data = await self._reader.read(_CHUNK)
        except (OSError, ssl.SSLError) as error:
            raise StreamError(str(error) or type(error).__name__) from None
        if not data:
            raise StreamError("the far end has closed the connection")
        self.heard = self._loop.time()
        try:
            self._ws.receive_data(data)
        except WebSocketError as error:
            raise StreamError(f"no WebSocket: {error}") from None

    async def receive(self, take: Callable[[bytes], None]) -> None:
        """Hand over every whole message as it comes, until the connection ends: raises StreamError then.

        Has no deadline of its own: whoever calls watches `heard`.
        """
        message = bytearray()
        while True:
            try:
                for event in self._ws.events():
                    if isinstance(event, TextMessage | BytesMessage):
                        data = event.data
                        message += data.encode() if isinstance(data, str) else data
                        if len(message) > MAX_MESSAGE_BYTES:
                            raise StreamError("a message is larger than the protocol allows")
                        if event.message_finished:
                            whole, message = bytes(message), bytearray()
                            take(whole)
                    elif isinstance(event, Ping):
                        self._write(event.response())
                    elif isinstance(event, Pong):
                        self.on_pong(bytes(event.payload))
                    elif isinstance(event, CloseConnection):
                        raise StreamError(f"the controller has closed: {event.code} {event.reason or ''}".rstrip())
            except WebSocketError as error:
                raise StreamError(f"no WebSocket: {error}") from None
            await self._read()

    def send(self, message: bytes) -> None:
        """Queue one text message. Raises StreamError where the connection has ended or its queue is full."""
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise StreamError("the controller takes nothing any more")
        self._write(TextMessage(data=message.decode()))

    @property
    def congested(self) -> bool:
        """Whether earlier messages still wait to be sent."""
        return self._writer.transport.get_write_buffer_size() > _CHUNK

    def ping(self, payload: bytes = b"") -> None:
        """Ask for a sign of life; `on_pong` gets the payload back. Raises StreamError."""
        self._write(Ping(payload=payload))

    def _write(self, event: TextMessage | Ping | Pong | CloseConnection) -> None:
        try:
            self._writer.write(self._ws.send(event))
        except (WebSocketError, OSError, RuntimeError) as error:
            raise StreamError(str(error) or type(error).__name__) from None

    async def close(self, timeout_s: float = 0.5) -> None:
        """Say goodbye and close, within `timeout_s`."""
        try:
            self._write(CloseConnection(code=1000))
            async with asyncio.timeout(timeout_s):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        except (StreamError, OSError, TimeoutError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()
