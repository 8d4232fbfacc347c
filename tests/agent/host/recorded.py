"""What real nodes look like (../shared/recorded): loaded as the readers would have read it."""

from __future__ import annotations

import ipaddress
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.host.netfilter import read
from agent.host.netfilter.refs import Refs
from agent.host.netfilter.rules import Ruleset
from agent.host.netfilter.world import Host
from model.facts import Address, Link, Route, RouteAnswer, RouteQuery

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "recorded"
TABLES = {"local": 255, "main": 254, "default": 253}
NAMES = (
    "kube-proxy-iptables+calico-vxlan",
    "kube-proxy-iptables+flannel+kube-router",
    "kube-proxy-nftables+calico-nftables",
    "kube-proxy-nftables+flannel-dual",
)


class Recording:
    """One recorded node."""

    def __init__(self, name: str) -> None:
        self.name = name

    def text(self, suffix: str) -> str:
        """A recorded file; it fails where it is missing."""
        return (FOLDER / f"{self.name}.{suffix}").read_text()

    @cached_property
    def reading(self) -> read.Reading:
        """The rule set, from the recorded output of the programs."""
        printed = {
            "nft": self.text("nft.json").encode(),
            "ip": self.text("iptables").encode(),
            "ip6": self.text("ip6tables").encode(),
            "ipset": self.text("ipset").encode(),
        }
        return read.assemble(printed, {})

    @property
    def ruleset(self) -> Ruleset:
        """Its rule set."""
        return self.reading.ruleset

    @cached_property
    def refs(self) -> Refs:
        """Names of its rules."""
        return Refs(self.ruleset, lambda _family, _table: {})

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        """The recorded Kubernetes objects."""
        found: list[dict[str, Any]] = json.loads(self.text("objects.json"))["items"]
        return found

    def kind(self, kind: str) -> list[dict[str, Any]]:
        """Objects of one kind."""
        return [item for item in self.items if item["kind"] == kind]

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """The recorded routes."""
        found = []
        for one in json.loads(self.text("routes.json")):
            family = 6 if ":" in one["dst"] or ":" in one.get("gateway", "") or "pref" in one else 4
            prefix = {"default": "::/0" if family == 6 else "0.0.0.0/0"}.get(one["dst"], one["dst"])
            found.append(
                Route(
                    family=family,
                    destination=str(ipaddress.ip_network(prefix)),
                    type=one.get("type", "unicast"),
                    gateway=one.get("gateway", ""),
                    device=one.get("dev", ""),
                    table=TABLES[one.get("table", "main")],
                    metric=one.get("metric", 0),
                    source=one.get("prefsrc", ""),
                )
            )
        return tuple(found)

    @cached_property
    def host(self) -> Host:
        """The host's side, with a routing table computed here."""
        addresses = tuple(
            Address(device=one.device, address=one.destination.split("/")[0], prefix_length=32, family=one.family)
            for one in self.routes
            if one.type == "local" and one.table == 255 and one.destination.endswith(("/32", "/128"))
        )
        links = tuple(
            Link(index=one["ifindex"], name=one["ifname"], kind=one.get("linkinfo", {}).get("info_kind", ""))
            for one in json.loads(self.text("links.json"))
        )
        sysctls = {f"net.bridge.bridge-nf-call-{name}": "1" for name in ("iptables", "ip6tables")}
        return Host(routes=self.routes, addresses=addresses, links=links, sysctls=sysctls, ask=self.ask)

    def ask(self, query: RouteQuery) -> RouteAnswer:
        """Longest prefix in table local, then main: what the kernel would answer, forwarding being on."""
        address = ipaddress.ip_address(query.destination)
        for table in (255, 254):
            fitting = [
                (ipaddress.ip_network(route.destination).prefixlen, -route.metric, route)
                for route in self.routes
                if route.table == table
                and route.family == address.version
                and address in ipaddress.ip_network(route.destination)
            ]
            if fitting:
                best = max(fitting, key=lambda entry: entry[:2])[2]
                if best.type == "blackhole":
                    return RouteAnswer(query=query, errno=22)
                device = "lo" if best.type == "local" else best.device
                source = best.source or next(
                    (route.source for route in self.routes if route.device == device and route.source), ""
                )
                return RouteAnswer(query=query, type=best.type, device=device, gateway=best.gateway, source=source)
        return RouteAnswer(query=query, errno=101)
