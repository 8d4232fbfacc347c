"""The cluster's DNS: which records Services and pods have (pure), and how unbound is told of them.

Records follow the Kubernetes DNS specification 1.1.0 as CoreDNS serves it. unbound holds the zone cluster.local as
local data; changes go over its control socket (protocol UBCT1 without TLS) and are visible at once. Names outside go to
the upstream in the lab's outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from lab.client import Object
from lab.embedded.cluster import objects
from lab.embedded.cluster.endpoints import SERVICE_LABEL
from lab.spec import CLUSTER_DOMAIN, Topology

TTL_S: Final = 5
CONTROL_TIMEOUT_S: Final = 5.0
SOA_DATA: Final = f"ns.dns.{CLUSTER_DOMAIN}. hostmaster.{CLUSTER_DOMAIN}. 1 7200 1800 86400 {TTL_S}"
# The whole of what a server must know: name → lines "TTL IN TYPE DATA". A CNAME stands alone.
Records = dict[str, frozenset[str]]


def _dashed(address: str) -> str:
    return ip_address(address).compressed.replace(".", "-").replace(":", "-")


def _add(records: dict[str, set[str]], name: str, kind: str, data: str) -> None:
    records.setdefault(name, set()).add(f"{TTL_S} IN {kind} {data}")


def _address(records: dict[str, set[str]], name: str, address: str) -> None:
    _add(records, name, "AAAA" if ":" in address else "A", address)


def _pointer(records: dict[str, set[str]], address: str, name: str) -> None:
    _add(records, ip_address(address).reverse_pointer + ".", "PTR", name)


def compute_records(services: Iterable[Object], slices: Iterable[Object], pods: Iterable[Object]) -> Records:
    """Return every record of the cluster: A, AAAA, SRV, PTR, CNAME."""
    records: dict[str, set[str]] = {}
    by_service: dict[tuple[str, str], list[Object]] = {}
    for item in slices:
        owner = objects.labels(item).get(SERVICE_LABEL)
        if owner:
            by_service.setdefault((objects.namespace(item), owner), []).append(item)
    _add(records, f"dns-version.{CLUSTER_DOMAIN}.", "TXT", '"1.1.0"')
    for service in services:
        key = (objects.namespace(service), objects.name(service))
        base = f"{key[1]}.{key[0]}.svc.{CLUSTER_DOMAIN}."
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            _add(records, base, "CNAME", spec["externalName"].rstrip(".") + ".")
        elif spec.get("clusterIP") == "None":
            for item in by_service.get(key, []):
                _headless(records, base, item)
        else:
            addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
            for address in filter(None, addresses):
                _address(records, base, address)
                _pointer(records, address, base)
            for port in spec.get("ports") or []:
                _service_port(records, base, base, port, int(port["port"]))
    for pod in pods:
        for entry in (pod.get("status") or {}).get("podIPs") or []:
            name = f"{_dashed(entry['ip'])}.{objects.namespace(pod)}.pod.{CLUSTER_DOMAIN}."
            if not pod["spec"].get("hostNetwork"):
                _address(records, name, entry["ip"])
    return {name: frozenset(lines) for name, lines in records.items()}


def _service_port(records: dict[str, set[str]], base: str, target: str, port: Object, number: int) -> None:
    if port.get("name"):
        protocol = (port.get("protocol") or "TCP").lower()
        _add(records, f"_{port['name']}._{protocol}.{base}", "SRV", f"0 100 {number} {target}")


def _headless(records: dict[str, set[str]], base: str, item: Object) -> None:
    for endpoint in item.get("endpoints") or []:
        if not (endpoint.get("conditions") or {}).get("ready", True):
            continue
        for address in endpoint["addresses"]:
            target = f"{endpoint.get('hostname') or _dashed(address)}.{base}"
            _address(records, base, address)
            _address(records, target, address)
            _pointer(records, address, target)
            for port in item.get("ports") or []:
                _service_port(records, base, target, port, int(port["port"]))


def changes(before: Records, after: Records) -> list[tuple[str, str]]:
    """Return control commands, each (command, lines of data), that lead from one set of records to the other.

    Names that only gained lines are added to; unbound can remove a name only whole, so others are written anew.
    """
    removed: list[str] = []
    gone_zones: list[str] = []
    zones: list[str] = []
    added: list[str] = []
    for name in before.keys() | after.keys():
        old, new = before.get(name, frozenset()), after.get(name, frozenset())
        if old == new:
            continue
        if old - new:
            (gone_zones if _alias(old) else removed).append(name)
            old = frozenset()
        if _alias(new):
            zones.append(f"{name} redirect")
        added += [f"{name} {line}" for line in sorted(new - old)]
    commands = [
        ("local_zones_remove", gone_zones),
        ("local_datas_remove", removed),
        ("local_zones", zones),
        ("local_datas", added),
    ]
    return [(command, "\n".join(sorted(lines)) + "\n") for command, lines in commands if lines]


def _alias(lines: frozenset[str]) -> bool:
    # unbound follows a CNAME of its own data only in a zone of type redirect, one name wide
    return any(" CNAME " in line for line in lines)


async def control(socket_path: Path, command: str, data: str = "") -> str:
    """Send one command to unbound's control socket and return its answer; OSError or TimeoutError if it is away."""
    async with asyncio.timeout(CONTROL_TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
        try:
            # bulk commands read lines until one that holds the single byte 4
            tail = f"{data}\x04\n" if data else ""
            writer.write(f"UBCT1 {command}\n{tail}".encode())
            await writer.drain()
            answer = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
    if answer.startswith("error"):
        raise OSError(f"unbound refused {command}: {answer.strip()[:300]}")
    return answer


def unbound_conf(topology: Topology, directory: Path, control_socket: Path) -> str:
    """Return the configuration of one replica: the cluster's zone is its own, all else goes upstream.

    Caches are kept for seconds only, so that a fault of the upstream shows and its end shows too.
    """
    upstream = [topology.outside_ipv4]
    lines = [
        "server:",
        "  interface: 0.0.0.0",
        *(["  interface: ::0"] if topology.spec.dual else []),
        "  port: 53",
        f"  do-ip6: {'yes' if topology.spec.dual else 'no'}",
        "  access-control: 0.0.0.0/0 allow",
        "  access-control: ::/0 allow",
        '  username: ""',
        '  chroot: ""',
        f'  directory: "{directory}"',
        '  pidfile: ""',
        "  do-daemonize: no",
        "  use-syslog: no",
        "  verbosity: 1",
        "  num-threads: 1",
        "  msg-cache-size: 1m",
        "  rrset-cache-size: 1m",
        "  cache-max-ttl: 5",
        "  cache-max-negative-ttl: 1",
        "  infra-host-ttl: 2",
        "  infra-keep-probing: yes",
        '  module-config: "iterator"',
        "  root-hints: /dev/null",
        "  do-not-query-localhost: no",
        f'  local-zone: "{CLUSTER_DOMAIN}." static',
        f'  local-data: "{CLUSTER_DOMAIN}. {TTL_S} IN SOA {SOA_DATA}"',
        '  local-zone: "test." nodefault',
        "remote-control:",
        "  control-enable: yes",
        f'  control-interface: "{control_socket}"',
        "  control-use-cert: no",
        "forward-zone:",
        '  name: "."',
        *(f"  forward-addr: {address}" for address in upstream),
    ]
    return "\n".join(lines) + "\n"


class Server:
    """One replica's view of the records; `push` brings it up to date, whole after a start."""

    def __init__(self, control_socket: Path) -> None:
        """Nothing is known to be there."""
        self.control_socket = control_socket
        self._known: Records | None = None
        self._lock = asyncio.Lock()

    @property
    def synced(self) -> bool:
        """Whether the server has had all records once since its start."""
        return self._known is not None

    def forget(self) -> None:
        """Take the server for empty: its process was started anew."""
        self._known = None

    async def push(self, records: Mapping[str, frozenset[str]]) -> None:
        """Make the server hold exactly `records`; OSError or TimeoutError where it cannot be reached."""
        async with self._lock:
            wanted = dict(records)
            known = self._known if self._known is not None else await self._present()
            for command, data in changes(known, wanted):
                await control(self.control_socket, command, data)
            self._known = wanted

    async def _present(self) -> Records:
        """Names that a server holds already (this service was started anew, the server was not); lines unknown."""
        listed = await control(self.control_socket, "list_local_data")
        present = {}
        for line in listed.splitlines():
            name, _, data = line.partition("\t")
            if name.endswith(f".{CLUSTER_DOMAIN}.") or (
                name.endswith(".arpa.") and data.endswith(f".{CLUSTER_DOMAIN}.")
            ):
                present[name] = frozenset({data.replace("\t", " ")})
        return present
