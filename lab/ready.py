"""When a lab counts as up: its pods are ready, every node has reported, the first sweep is whole.

Only asks; must not change anything.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from lab.client import Object

ASK_EVERY_S: Final = 0.1
ASK_TIMEOUT_S: Final = 3.0


def pods_not_ready(pods: list[Object]) -> list[str]:
    """Return namespace/name of each pod whose Ready condition is not True; a lab without pods is not ready."""
    if not pods:
        return ["no pod yet"]
    waiting = []
    for pod in pods:
        conditions = (pod.get("status") or {}).get("conditions") or []
        if not any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
            waiting.append(f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}")
    return waiting


async def wait_ready(url: str, token: str, timeout_s: float) -> None:
    """Return once the controller is ready and its first sweep is whole; TimeoutError after `timeout_s`."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        while not await _whole(session, base):
            await asyncio.sleep(ASK_EVERY_S)


async def _whole(session: aiohttp.ClientSession, base: str) -> bool:
    try:
        async with session.get(f"{base}/readyz") as response:
            if response.status != 200:
                return False
        async with session.get(f"{base}/api/v1/sweep/state") as response:
            return response.status == 200 and bool((await response.json()).get("whole"))
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
