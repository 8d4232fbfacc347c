"""`python -m lab.embedded.cluster --lab NAME --kubeconfig FILE`: runs until killed."""

from __future__ import annotations

import argparse
import asyncio
import logging

from lab.client import ApiClient
from lab.embedded.cluster.service import ClusterService
from lab.spec import load_topology


async def _serve(lab: str, kubeconfig: str) -> None:
    async with ApiClient.from_kubeconfig(kubeconfig) as client:
        await ClusterService(load_topology(lab), client).run(kubeconfig)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m lab.embedded.cluster")
    parser.add_argument("--lab", required=True)
    parser.add_argument("--kubeconfig", required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(arguments.lab, arguments.kubeconfig))


if __name__ == "__main__":
    main()
