"""The agents' WebSocket: frames in, frames out, and whoever sends garbage is sent away, alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from controller.agent_link import AgentLink
from controller.auth import DeniedError, Identity, bearer, check_node
from controller.web.services import SERVICES, Services
from model.protocol import MAX_MESSAGE_BYTES, SUBPROTOCOL, FromAgent, Hello, ProtocolError, decode_from_agent

log = logging.getLogger(__name__)

HELLO_S: Final = 10.0
CLOSE_S: Final = 2.0
HEARTBEAT_S: Final = 5.0
MAX_NODE_NAME: Final = 253


class RefusedError(Exception):
    """The connection has to end: WebSocket close code (RFC 6455, 7.4.1) and reason."""

    def __init__(self, code: int, reason: str) -> None:
        """The reason is cut to what a close frame holds."""
        super().__init__(reason)
        self.code = code
        self.reason = reason.encode()[:120]


async def agent(request: web.Request) -> web.StreamResponse:
    """`GET /api/v1/agent`: one agent, for as long as it stays."""
    services = request.app[SERVICES]
    identity = await services.auth.agent(bearer(request.headers.get("Authorization", "")))
    socket = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,),
        max_msg_size=MAX_MESSAGE_BYTES,
        heartbeat=HEARTBEAT_S,
        timeout=CLOSE_S,
        compress=False,
    )
    await socket.prepare(request)
    try:
        link = await _greet(socket, services, identity)
        await _converse(socket, services, link)
    except RefusedError as refused:
        services.counts.garbage += 1
        log.warning("agent connection from %s closed: %s", request.remote, refused)
        await socket.close(code=refused.code, message=refused.reason)
    except TimeoutError:
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"say hello first")
    return socket


async def _greet(socket: web.WebSocketResponse, services: Services, identity: Identity) -> AgentLink:
    async with asyncio.timeout(HELLO_S):
        hello = await _receive(socket, services)
    if not isinstance(hello, Hello):
        raise RefusedError(WSCloseCode.POLICY_VIOLATION, "the first frame must be hello")
    if not hello.node or len(hello.node) > MAX_NODE_NAME or not hello.boot:
        raise RefusedError(WSCloseCode.POLICY_VIOLATION, "hello must name node and boot")
    try:
        check_node(identity, hello.node, services.watch.snapshot())
    except DeniedError as denied:
        raise RefusedError(WSCloseCode.POLICY_VIOLATION, denied.text) from None
    link = AgentLink(hello.node)
    services.agents.attach(hello, link)
    log.info("agent of %s connected%s", hello.node, f" through {hello.via}" if hello.via else "")
    return link


async def _converse(socket: web.WebSocketResponse, services: Services, link: AgentLink) -> None:
    writing = asyncio.create_task(_write(socket, link), name=f"to {link.node}")
    closing = asyncio.create_task(_close(socket, link), name=f"close {link.node}")
    try:
        while (message := await _receive(socket, services)) is not None:
            services.agents.receive(link, message)
    finally:
        services.agents.detach(link)
        link.close("the connection ended")
        for task in (writing, closing):
            task.cancel()
        await asyncio.gather(writing, closing, return_exceptions=True)


async def _receive(socket: web.WebSocketResponse, services: Services) -> FromAgent | None:
    """The next message; None at the end. Raises RefusedError."""
    frame = await socket.receive()
    if frame.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        return None
    services.counts.frames += 1
    try:
        return decode_from_agent(frame.data)
    except ProtocolError as error:
        raise RefusedError(WSCloseCode.INVALID_TEXT, str(error)) from None


async def _write(socket: web.WebSocketResponse, link: AgentLink) -> None:
    try:
        while True:
            await socket.send_str((await link.frames.get()).decode())
    except (ConnectionError, RuntimeError):
        link.close("the connection broke")


async def _close(socket: web.WebSocketResponse, link: AgentLink) -> None:
    await link.closed.wait()
    await socket.close(code=WSCloseCode.GOING_AWAY, message=link.closing.encode()[:120])
