"""Starts the API server: `python -m lab.embedded.apiserver --listen ADDRESS:PORT --store FILE …`.

Prints nothing unless something is wrong; ends whole at SIGTERM and SIGINT.
"""

import argparse
import asyncio
import logging
import signal
import sqlite3
import ssl
import sys
from pathlib import Path

from aiohttp import web

from lab.embedded.apiserver.access import Tokens, read_tokens
from lab.embedded.apiserver.app import Api
from lab.embedded.apiserver.bootstrap import bootstrap
from lab.embedded.apiserver.registry import Registry
from lab.embedded.apiserver.store import Store

SHUTDOWN_S = 0.2


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab.embedded.apiserver", description=__doc__)
    parser.add_argument("--listen", action="append", required=True, metavar="ADDRESS:PORT", type=_endpoint)
    for name in ("--store", "--ca-cert", "--ca-key", "--tls-cert", "--tls-key", "--tokens"):
        parser.add_argument(name, required=True, metavar="FILE", type=Path)
    parser.add_argument("--family", choices=("4", "dual"), default="4")
    parser.add_argument("--advertise", default="10.77.1.10", metavar="ADDRESS")
    return parser.parse_args(argv)


def _endpoint(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT")
    return address.strip("[]"), int(port)


async def _serve(options: argparse.Namespace) -> None:
    store = Store(options.store)
    dual = options.family == "dual"
    families = ("IPv4", "IPv6") if dual else ("IPv4",)
    registry = Registry(store, families, options.ca_cert.read_text())
    bootstrap(registry, options.advertise, families)
    tokens = Tokens(store, read_tokens(options.tokens), options.ca_key.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.tls_cert, options.tls_key)
    runner = web.AppRunner(
        Api(registry, tokens).application(),
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        handler_cancellation=True,
        handle_signals=False,
    )
    await runner.setup()
    try:
        for address, port in options.listen:
            await web.TCPSite(runner, address, port, ssl_context=context, reuse_address=True).start()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()
    finally:
        await runner.cleanup()
        store.close()


def main() -> int:
    """Run until told to stop; 1 where it cannot start, 2 for wrong arguments."""
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s apiserver: %(message)s", stream=sys.stderr)
    options = _arguments(sys.argv[1:])
    try:
        asyncio.run(_serve(options))
    except (OSError, ValueError, sqlite3.Error) as error:
        print(f"lab.embedded.apiserver: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
