"""What stands outside of a lab's cluster, in L-outside: web server (HTTP and TLS), registry-like endpoint, DNS server.

    python -m lab.outside --lab NAME

The egress targets. One process for HTTP :80, TLS :443 (certificate of the lab's CA for web.outside.test) and :5000, and
beside it unbound on :53 for the zone outside.test. Nothing here has a way out of the lab: the name server knows its own
zone and says NXDOMAIN to all else.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiohttp import web

from lab import pki
from lab.spec import Topology, load_topology

WEB_NAME: Final = "web.outside.test"
REGISTRY_NAME: Final = "registry.outside.test"
ZONE: Final = "outside.test"
# Short, so that a server that dies or comes back is noticed within seconds through the cluster's cache.
TTL_S: Final = 5

log = logging.getLogger("lab.outside")


def unbound_conf(topology: Topology, directory: Path) -> str:
    """Return the configuration of the outside's name server."""
    addresses = [("A", topology.outside_ipv4)]
    if topology.outside_ipv6:
        addresses.append(("AAAA", topology.outside_ipv6))
    names = [ZONE, WEB_NAME, REGISTRY_NAME, f"dns.{ZONE}"]
    records = [f'  local-data: "{name}. {TTL_S} {kind} {value}"' for name in names for kind, value in addresses]
    pointers = [f'  local-data-ptr: "{value} {TTL_S} {WEB_NAME}"' for _, value in addresses]
    lines = [
        "server:",
        *(f"  interface: {value}" for _, value in addresses),
        "  port: 53",
        '  username: ""',
        '  chroot: ""',
        f'  directory: "{directory}"',
        '  pidfile: ""',
        "  do-daemonize: no",
        "  use-syslog: no",
        "  access-control: 0.0.0.0/0 allow",
        "  access-control: ::/0 allow",
        "  msg-cache-size: 1m",
        "  rrset-cache-size: 1m",
        '  module-config: "iterator"',
        '  local-zone: "." static',
        f'  local-zone: "{ZONE}" static',
        f'  local-data: "{ZONE}. {TTL_S} SOA dns.{ZONE}. admin.{ZONE}. 1 3600 600 86400 {TTL_S}"',
        f'  local-data: "{ZONE}. {TTL_S} NS dns.{ZONE}."',
        *records,
        *pointers,
        "remote-control:",
        "  control-enable: no",
    ]
    return "\n".join(lines) + "\n"


async def _page(request: web.Request) -> web.Response:
    return web.Response(text=f"kubereach lab: outside, {request.method} {request.path}\n")


async def _bytes(request: web.Request) -> web.Response:
    return web.Response(body=b"x" * min(int(request.match_info["count"]), 16 * 1024 * 1024))


async def _registry(_request: web.Request) -> web.Response:
    return web.json_response({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})


def _web_application() -> web.Application:
    application = web.Application()
    application.router.add_route("GET", r"/bytes/{count:\d{1,9}}", _bytes)
    application.router.add_route("*", "/{path:.*}", _page)
    return application


def _registry_application() -> web.Application:
    application = web.Application()
    application.router.add_get("/v2/", _registry)
    return application


def _tls(topology: Topology) -> ssl.SSLContext:
    addresses = [topology.outside_ipv4] + ([topology.outside_ipv6] if topology.outside_ipv6 else [])
    pair = pki.issue(topology.directory / "pki", "outside", addresses, [WEB_NAME, REGISTRY_NAME])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    return context


async def serve(topology: Topology) -> int:
    """Serve until the name server ends, and return its exit code."""
    directory = topology.directory / "outside"
    directory.mkdir(parents=True, exist_ok=True)
    configuration = directory / "unbound.conf"
    configuration.write_text(unbound_conf(topology, directory))
    hosts = [topology.outside_ipv4] + ([topology.outside_ipv6] if topology.outside_ipv6 else [])
    pages = web.AppRunner(_web_application(), access_log=None, shutdown_timeout=1.0)
    registry = web.AppRunner(_registry_application(), access_log=None, shutdown_timeout=1.0)
    for runner in (pages, registry):
        await runner.setup()
    for host in hosts:
        await web.TCPSite(pages, host, 80, reuse_address=True).start()
        await web.TCPSite(pages, host, 443, ssl_context=_tls(topology), reuse_address=True).start()
        await web.TCPSite(registry, host, 5000, reuse_address=True).start()
    # dies with this process, so that the supervisor starts both anew
    argv = ["setpriv", "--pdeathsig", "KILL", "unbound", "-d", "-c", str(configuration)]
    unbound = await asyncio.create_subprocess_exec(*argv)
    log.info("serving on %s", ", ".join(hosts))
    try:
        return await unbound.wait()
    finally:
        for runner in (pages, registry):
            await runner.cleanup()


def main(arguments: Sequence[str]) -> int:
    """Run the outside of one lab; the caller has put this process into L-outside."""
    parser = argparse.ArgumentParser(prog="python -m lab.outside")
    parser.add_argument("--lab", required=True)
    topology = load_topology(parser.parse_args(arguments).lab)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return asyncio.run(serve(topology))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
