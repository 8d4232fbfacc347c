"""The life of a lab service that keeps nodes' kernels in step with API objects: its arguments, its watches, its loop.

What is written for which objects is the service's own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from lab.client import ApiClient, Object
from lab.reflector import Reflector
from lab.spec import Topology, load_topology

DEBOUNCE_S = 0.05
RETRY_S = 2.0

# Takes the objects of each resource, in the order asked for; True if every node could be brought to them.
Sync = Callable[[list[list[Object]]], Awaitable[bool]]


async def follow(kubeconfig: Path, resources: Sequence[str], make: Callable[[], Sync]) -> None:
    """Call what `make` gives with all objects: at first, at each change, and again where a node failed. Never ends."""
    changed = asyncio.Event()
    async with ApiClient.from_kubeconfig(kubeconfig) as client, asyncio.TaskGroup() as tasks:
        reflectors = [Reflector(client, key, changed=changed) for key in resources]
        for reflector in reflectors:
            tasks.create_task(reflector.run())
        for reflector in reflectors:
            await reflector.synced.wait()
        sync = make()
        complete = False
        while True:
            try:
                async with asyncio.timeout(None if complete else RETRY_S):
                    await changed.wait()
            except TimeoutError:
                pass
            # one change seldom comes alone
            await asyncio.sleep(DEBOUNCE_S)
            changed.clear()
            complete = await sync([list(reflector.objects.values()) for reflector in reflectors])


def serve(program: str, description: str | None, run: Callable[[Topology, Path], Awaitable[None]]) -> None:
    """Read `--lab` and `--kubeconfig`, and run until killed."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--lab", required=True, help="name of the lab")
    parser.add_argument("--kubeconfig", type=Path, help="default: the lab's own")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    topology = load_topology(arguments.lab)

    async def main() -> None:
        await run(topology, arguments.kubeconfig or topology.directory / "kubeconfig")

    asyncio.run(main())
