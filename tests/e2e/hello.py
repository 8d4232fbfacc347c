"""Says hello to the controller on this network namespace's loopback as a node's agent; prints what comes back.

python -m tests.e2e.hello NODE, with the token on standard input.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp

from model.ports import CONTROLLER_PLAIN_PORT
from model.protocol import SUBPROTOCOL, Hello, encode

DEADLINE_S = 10.0


async def main(node: str, token: str) -> str:
    """Why the connection was closed, or the first message."""
    url = f"http://127.0.0.1:{CONTROLLER_PLAIN_PORT}/api/v1/agent"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        asyncio.timeout(DEADLINE_S),
        aiohttp.ClientSession(trust_env=False) as session,
        session.ws_connect(url, headers=headers, protocols=(SUBPROTOCOL,)) as socket,
    ):
        await socket.send_str(
            encode(Hello(node=node, boot="e2e", version="0", at_ms=time.time_ns() // 1_000_000)).decode()
        )
        said = await socket.receive()
        return str(said.extra or said.data)


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], sys.stdin.read().strip())))
