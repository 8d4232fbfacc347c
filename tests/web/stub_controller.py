"""The controller's API with canned documents: the counterpart of the client and of the page under test.

It speaks the API over real HTTP, checks the token, and lets a test change documents and send events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

STATIC = Path(__file__).parents[2] / "controller" / "web" / "static"
TOKEN = "let-me-in"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KINDS = ("node", "host", "pod", "service", "dns", "egress", "policy")
Document = dict[str, Any]


def node_names(count: int) -> list[str]:
    """node-a … node-d for a few, node-0001 … for many."""
    if count <= 26:
        return [f"node-{chr(ord('a') + at)}" for at in range(count)]
    return [f"node-{at:04}" for at in range(count)]


def cell(source: str, destination: str, state: str = "ok", verdict: str = "", **more: Any) -> Document:
    """A cell of a matrix, healthy unless told otherwise."""
    judged = verdict or {"ok": "healthy", "failing": "unexpected_block"}.get(state, "unknown")
    rtt = 0 if state in ("failing", "unsampled", "unknown") else 60 + sum(map(ord, source + destination)) % 90
    lost = 1.0 if state == "failing" else 0.0
    made = {"source": source, "destination": destination, "state": state, "verdict": judged, "loss": lost}
    return {**made, "rtt_us": rtt, "age_s": 0.8, "paths": 8, "failing": []} | more


def matrix(kind: str, rows: list[str], columns: list[str], cells: list[Document]) -> Document:
    """A matrix document; pairs without a cell of their own are healthy."""
    given = {(one["source"], one["destination"]): one for one in cells}
    whole = [given.get((row, column)) or cell(row, column) for row in rows for column in columns]
    return {"kind": kind, "at": "2026-11-21T11:40:00Z", "rows": rows, "columns": columns, "cells": whole}


def large_matrix(count: int) -> Document:
    """`count` nodes, each probing 20 others; one node's column fails, one row is stale."""
    names = node_names(count)
    cells = []
    for at, source in enumerate(names):
        for step in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 401, 449, 503, 557, 601, 701, 809):
            to = (at + step) % count
            state = "failing" if to == 417 % count else "stale" if at == 700 % count else "ok"
            cells.append(cell(source, names[to], state))
    return {"kind": "node", "at": "2026-11-21T11:40:00Z", "rows": names, "columns": names, "cells": cells}


def policy_matrix(by: str) -> Document:
    """What policies say between two groups: all ways one way, some ports the other, and one cell that was seen."""
    names = ["pay", "shop"] if by == "namespace" else ["pay/payments", "shop/cart", "shop/frontend"]
    one, other = names[0], names[-1]
    told = {(one, one): ("allowed", []), (other, one): ("partly", ["TCP 8443"])}
    cells = []
    for source in names:
        for destination in names:
            expected, ports = told.get((source, destination), ("denied", []))
            made = cell(source, destination, "unsampled") | {"expected": expected, "ports": ports, "age_s": None}
            cells.append(made)
    seen = {"state": "failing", "verdict": "blocked_as_intended", "age_s": 0.5}
    cells[1] |= seen
    return {"kind": "policy", "by": by, "at": "2026-11-21T11:40:00Z", "rows": names, "columns": names, "cells": cells}


INCIDENT: Document = {
    "id": "3f2a9c51d0e7",
    "state": "open",
    "opened_at": "2026-11-21T11:38:12Z",
    "resolved_at": None,
    "title": "node-b drops TCP 8443 in filter/FORWARD",
    "cells": [
        {"kind": "pod", "source": "node-a", "destination": "node-b"},
        {"kind": "node", "source": "node-a", "destination": "node-b"},
        {"kind": "service", "source": "node-a", "destination": "pay/payments:8443"},
    ],
    "cell_count": 3,
    "ruled_out": ["node.uplink_down", "cni.vtep_missing"],
    "missing_evidence": [],
    "first_sign_at": "2026-11-21T11:38:10Z",
    "named_at": "2026-11-21T11:38:12Z",
    "causes": [
        {
            "code": "node.firewall_drop",
            "confidence": 0.97,
            "object": {
                "kind": "iptables-rule",
                "node": "node-b",
                "name": "filter/FORWARD/3",
                "text": "-A FORWARD -p tcp -m tcp --dport 8443 -j DROP",
            },
            "summary": "Rule 3 of chain FORWARD on node-b drops TCP to port 8443; no component of the cluster made it.",
            "evidence": [
                {
                    "fact": "rule_counter",
                    "says": "its counter moved by exactly the three packets of the probe",
                    "node": "node-b",
                    "before": 11,
                    "after": 14,
                },
                {
                    "fact": "walk",
                    "says": "the packet's walk through node-b's rules ends in this rule",
                    "node": "node-b",
                },
            ],
            "fix": "iptables -D FORWARD 3",
            "suppresses": ["fabric.blocked"],
        }
    ],
}
RESOLVED: Document = {
    **INCIDENT,
    "id": "3b00aa11bb22",
    "state": "resolved",
    "title": "eth0 of node-c is down",
    "opened_at": "2026-11-21T10:02:00Z",
    "resolved_at": "2026-11-21T10:05:30Z",
    "cells": [{"kind": "node", "source": "node-a", "destination": "node-c"}],
    "cell_count": 14,
}
UNNAMED: Document = {
    **INCIDENT,
    "id": "77aa01020304",
    "title": "node-d does not reach node-c",
    "opened_at": "2026-11-21T11:39:00Z",
    "causes": [],
    "missing_evidence": ["node-d's agent is silent"],
}
PROBE: Document = {
    "probe": {
        "source": {"kind": "Pod", "namespace": "shop", "name": "frontend-0", "node": "node-a"},
        "destination": {"kind": "Service", "namespace": "pay", "name": "payments"},
        "protocol": "tcp",
        "port": 8443,
        "count": 3,
    },
    "outcome": "ok",
    "expectation": {"allowed": True, "because": ["NetworkPolicy pay/allow-shop"]},
    "verdict": "healthy",
    "causes": [],
    "hops": [],
    "attempts": [
        {"outcome": "ok", "rtt_us": rtt, "source_address": "10.244.1.7", "source_port": 40000 + rtt}
        for rtt in (81, 64, 1203)
    ],
    "ruled_out": [],
    "missing_evidence": [],
    "took_ms": 412,
}
BROKEN: Document = {
    **PROBE,
    "outcome": "timeout",
    "verdict": "unexpected_block",
    "causes": INCIDENT["causes"],
    "attempts": [{"outcome": "timeout", "source_address": "10.244.1.7", "source_port": 40001}] * 3,
    "hops": [
        {"node": "node-a", "device": "veth1a2b", "direction": "in", "packets": 3, "numbers": 3},
        {
            "node": "node-b",
            "device": "eth0",
            "direction": "in",
            "packets": 3,
            "numbers": 3,
            "at_us": 92,
            "outer": "10.77.1.11>10.77.2.12",
        },
        {"node": "node-b", "device": "cni0", "direction": "out", "packets": 3, "numbers": 3, "lost": 3},
    ],
    "trace": {
        "sent": 3,
        "answered": 0,
        "lost": 3,
        "stop": {
            "place": "node",
            "says": "left node-b through its bridge cni0 and reached no pod behind it",
            "packets": 3,
            "of": 3,
            "node": "node-b",
            "device": "cni0",
            "direction": "out",
        },
    },
}


class StubController:
    """State and routes. Tests change `nodes`, `matrices`, `incidents`, `answers`; `requests` is what was asked."""

    def __init__(self, count: int = 4) -> None:
        names = node_names(count)
        self.nodes = [
            {"name": name, "zone": f"zone-{at % 2 + 1}", "ready": True, "agent": {"state": "reporting"}}
            for at, name in enumerate(names)
        ]
        services = [
            "default/kubernetes:443",
            "kube-system/kube-dns:53",
            "ops/metrics:9090",
            "pay/ledger:5432",
            "pay/payments:8443",
            "shop/cart:80",
            "shop/catalogue-recommendations:8080",
            "shop/frontend:80",
        ]
        dns = ["kube-system/kube-dns", "kube-system/coredns-0", "kube-system/coredns-1"]
        columns = {"service": services, "dns": dns, "egress": ["https://registry.example.org/", "203.0.113.10:53"]}
        self.matrices = {kind: matrix(kind, names, columns.get(kind, names), []) for kind in KINDS}
        if count > 26:
            self.matrices = {kind: large_matrix(count) | {"kind": kind} for kind in KINDS}
        self.incidents: list[Document] = []
        self.answers: dict[str, tuple[int, Document]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.token = TOKEN
        self.streaming = True
        self.url = ""
        self._streams: dict[web.StreamResponse, asyncio.Event] = {}

    async def start(self) -> None:
        """Listens on a free port of loopback."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_static("/static", STATIC)
        app.router.add_route("*", "/api/v1/{rest:.*}", self._api)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Ends streams first: aiohttp would wait for them."""
        self.end_streams()
        await self._runner.cleanup()

    def end_streams(self) -> None:
        """Closes every event stream."""
        for ended in self._streams.values():
            ended.set()

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return len(self._streams)

    async def publish(self, event: str, data: Any) -> None:
        """Sends an event to every stream."""
        for stream in list(self._streams):
            with suppress(ConnectionError):
                await stream.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())

    async def set_cell(self, changed: Document, kind: str = "node", *, tell: bool = True) -> None:
        """Changes one cell of a matrix, and tells the streams."""
        cells = self.matrices[kind]["cells"]
        ends = (changed["source"], changed["destination"])
        self.matrices[kind]["cells"] = [one for one in cells if (one["source"], one["destination"]) != ends] + [changed]
        if tell:
            await self.publish("cells", [changed | {"kind": kind}])

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/api/") and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response(
                {"error": "wrong token", "hint": "kubereach lab status prints the right one"}, status=401
            )
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = POLICY
        return response

    async def _page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "index.html")

    async def _api(self, request: web.Request) -> web.StreamResponse:
        rest = request.match_info["rest"]
        body = await request.json() if request.can_read_body else None
        self.requests.append((f"{request.method} {request.path_qs}", body))
        if rest in self.answers:
            status, document = self.answers[rest]
            return web.json_response(document, status=status)
        match rest.split("/"):
            case ["cluster"]:
                return web.json_response({"nodes": self.nodes})
            case ["matrix"]:
                return web.json_response(self.matrices[request.query["kind"]])
            case ["policy", "matrix"]:
                return web.json_response(policy_matrix(request.query["by"]))
            case ["paths"]:
                return web.json_response({"paths": self._paths(request.query), "unsampled": ""})
            case ["incidents"]:
                wanted = request.query.get("state")
                return web.json_response([one for one in self.incidents if wanted in (None, one["state"])])
            case ["incidents", name]:
                return web.json_response(next(one for one in self.incidents if one["id"] == name))
            case ["events"]:
                return await self._stream(request)
        return web.json_response({"error": f"nothing is at {request.path}"}, status=404)

    def _paths(self, query: Mapping[str, str]) -> list[Document]:
        ends = (query["source"], query["destination"])
        cells = self.matrices[query["kind"]]["cells"]
        known = next(one for one in cells if (one["source"], one["destination"]) == ends)
        more = {
            "state": known["state"],
            "verdict": known["verdict"],
            "loss": known["loss"],
            "rtt_us": known["rtt_us"],
            "age_s": 0.4,
        }
        place = {"vantage": "host", "target": "Node node-b", "name": "", "over_tcp": False}
        place |= {"address": "10.244.2.5", "port": 8700, "outcome": "ok", "detail": ""}
        return [
            {"network": network, "method": method, "family": family} | place | more
            for network in ("host", "pod")
            for method in ("udp", "tcp")
            for family in (4, 6)
        ]

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if not self.streaming:
            return web.json_response({"error": "no stream now"}, status=503)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        ended = self._streams[response] = asyncio.Event()
        try:
            await ended.wait()
        finally:
            del self._streams[response]
        return response
