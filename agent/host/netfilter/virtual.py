"""IPVS in the walk: which virtual service takes a packet, and what becomes of it at each real server. Pure.

IPVS stands in two hooks, behind the filter tables: LOCAL_IN just before source NAT, LOCAL_OUT just behind destination
NAT. What it takes is sent again from the beginning of LOCAL_OUT, to the server. Sources: ip_vs_core.c (ip_vs_ops4,
ip_vs_leave), ip_vs_ctl.c (ip_vs_service_find), ip_vs_xmit.c (ip_vs_nat_send_or_cont).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from agent.host.netfilter.packet import WITH_PORTS, Seen, number
from model.facts import RouteAnswer, RouteQuery
from model.netfilter import RuleRef
from model.tables import IpvsServer, IpvsService

# Between which priorities of base chains IPVS stands in a hook.
PLACES: Final = {"input": 98, "output": -99}
PROXY_DEVICE: Final = "kube-ipvs0"
OTHERS: Final = {"route", "tunnel", "bypass"}


class Sent(NamedTuple):
    """A packet that IPVS has taken: what it is now, and whether it stays on this host (`local`).

    `rejected`: there is no server to send it to. `unsure` says why nobody can tell where it goes.
    """

    packet: Seen
    rule: RuleRef
    detail: str
    local: bool = False
    rejected: bool = False
    unsure: str = ""


def find(services: Iterable[IpvsService], packet: Seen) -> IpvsService | None:
    """The service that takes the packet, as the kernel looks for it: by mark, by address and port, by address alone."""
    if packet.protocol not in WITH_PORTS:
        return None
    wanted = [one for one in services if one.family == packet.family]
    by_mark = next((one for one in wanted if one.mark and one.mark == packet.mark), None)
    if by_mark is not None:
        return by_mark
    at = [
        one
        for one in wanted
        if not one.mark and one.protocol == packet.protocol and number(one.address) == packet.destination
    ]
    exact = next((one for one in at if one.port == packet.destination_port), None)
    return exact or next((one for one in at if one.port == 0), None)


def send(
    service: IpvsService, packet: Seen, ask: Callable[[RouteQuery], RouteAnswer], *, owner: str, tracked: bool
) -> list[Sent]:
    """What may become of the packet: one for each server that takes connections. `tracked`: net.ipv4.vs.conntrack."""
    rule = reference(service, owner)
    able = [server for server in service.servers if server.weight > 0]
    if packet.state != "new":
        # A known connection stays with its server, also with one that takes no new ones.
        able = list(service.servers)
    if not able:
        return [Sent(packet, rule, "no server takes connections", rejected=True)]
    return [_sent(server, packet, ask, rule, tracked=tracked) for server in able]


def _sent(
    server: IpvsServer, packet: Seen, ask: Callable[[RouteQuery], RouteAnswer], rule: RuleRef, *, tracked: bool
) -> Sent:
    detail = f"to {_spelled(server.address, server.port)} ({server.forwarding}, weight {server.weight})"
    if server.forwarding == "local":
        return Sent(packet, rule, detail, local=True)
    if server.forwarding in OTHERS or (":" in server.address) != (packet.family == 6):
        return Sent(packet, rule, detail, unsure=f"IPVS forwards by {server.forwarding} to {server.address}")
    answer = ask(RouteQuery(destination=server.address))
    if answer.errno:
        return Sent(packet, rule, detail, unsure=f"IPVS has no route to its server {server.address}")
    changed = packet._replace(
        destination=number(server.address),
        destination_port=server.port or packet.destination_port,
        outgoing=answer.device,
        dnat=True,
        state=packet.state if tracked else "untracked",
    )
    return Sent(changed, rule, detail, local=answer.type == "local")


def reference(service: IpvsService, owner: str) -> RuleRef:
    """The service as a rule that decides. Its backend is ipvs, and ipvsadm's options name it."""
    if service.mark:
        name = f"-f {service.mark}"
    else:
        option = {"tcp": "-t", "udp": "-u"}.get(service.protocol, f"--{service.protocol}-service")
        name = f"{option} {_spelled(service.address, service.port)}"
    at = f"mark {service.mark}" if service.mark else f"{_spelled(service.address, service.port)}/{service.protocol}"
    return RuleRef(
        backend="ipvs",
        family=service.family,
        table="",
        chain="",
        position=0,
        text=f"-A {name} -s {service.scheduler}",
        packets=service.packets_in,
        bytes=service.bytes_in,
        owner=owner,
        target=f"IPVS service {at}",
    )


def _spelled(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
