"""The API for people and their tools. Each handler reads the controller and answers JSON; none decides anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from controller.auth import PROBE, READ, bearer
from controller.diagnosis.asked import ProbeRequest
from controller.matrix import policy as policies
from controller.web.documents import ClusterDocument, Paths, node_document, path_document
from controller.web.metrics import render
from controller.web.node_facts import address_overlaps, node_facts
from controller.web.openapi import document as openapi_document
from controller.web.replies import BadRequestError, answer
from controller.web.services import SERVICES, Services
from controller.web.stream import KEEPALIVE
from model.clock import rfc3339
from model.words import IncidentState, MatrixKind

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Word = TypeVar("Word", bound=StrEnum)
Default = TypeVar("Default")

MAX_WAIT_S: Final = 120.0
MAX_PROBES: Final = 16
KEEPALIVE_S: Final = 10.0
YIELD_CELLS: Final = 5_000

_encoder = msgspec.json.Encoder()
_probe_request = msgspec.json.Decoder(ProbeRequest)


def allowed(path: str, handler: Handler) -> Handler:
    """The handler behind the question whether the caller may READ or PROBE."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        await request.app[SERVICES].auth.person(bearer(request.headers.get("Authorization", "")), path)
        return await handler(request)

    return guarded


def word(request: web.Request, name: str, kind: type[Word], default: Default) -> Word | Default:
    """A query parameter that must be one of a closed set of words. Raises BadRequestError."""
    text = request.query.get(name)
    if text is None or text == "":
        return default
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise BadRequestError(422, f"{name}: {text!r} is not known", f"one of {known}") from None


def seconds(request: web.Request, name: str) -> float:
    """A query parameter in seconds, 0 if it is not given. Raises BadRequestError."""
    text = request.query.get(name, "0")
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= MAX_WAIT_S:
        raise BadRequestError(422, f"{name}: {text!r} is no number of seconds in 0…{MAX_WAIT_S:g}")
    return found


async def livez(request: web.Request) -> web.StreamResponse:
    """Whether the loop turns."""
    alive = request.app[SERVICES].alive()
    return web.Response(text="ok" if alive else "the controller hangs", status=200 if alive else 503)


async def readyz(request: web.Request) -> web.StreamResponse:
    """Whether the cluster was read once; an API that fell silent later does not take the view away."""
    watch = request.app[SERVICES].watch
    if watch.store.synced:
        return web.Response(text="ok")
    reasons = [f"{kind}: {watch.errors.get(kind, 'not listed yet')}" for kind in watch.store.missing()]
    return web.Response(text="\n".join(reasons), status=503)


async def metrics(request: web.Request) -> web.StreamResponse:
    """Prometheus' text format."""
    text = render(request.app[SERVICES])
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def openapi(_: web.Request) -> web.StreamResponse:
    """This API, described."""
    return answer(openapi_document())


async def cluster(request: web.Request) -> web.StreamResponse:
    """Nodes and their agents."""
    services = request.app[SERVICES]
    state, plan, now = services.watch.snapshot(), services.matrix.plan, services.clock.wall()
    nodes = (
        node_document(node, state, plan, services.agents.get(name), now) for name, node in sorted(state.nodes.items())
    )
    found = ClusterDocument(
        at=rfc3339(now),
        synced=state.synced,
        stale_since=None if state.stale_since is None else rfc3339(state.stale_since),
        revision=state.revision,
        nodes=tuple(nodes),
        paths=len(services.matrix),
    )
    return answer(found)


async def matrix(request: web.Request) -> web.StreamResponse:
    """The matrix of one kind, encoded row by row, so that a big one does not keep agents waiting."""
    services = request.app[SERVICES]
    kind = word(request, "kind", MatrixKind, MatrixKind.NODE)
    body = await encode_matrix(services, kind)
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


async def encode_matrix(services: Services, kind: MatrixKind) -> bytes:
    """A `model.diagnosis.Matrix` as JSON."""
    plan, columns = services.matrix.plan, services.matrix.columns(kind)
    head = {"kind": kind.value, "at": rfc3339(services.clock.wall()), "rows": plan.nodes, "columns": columns}
    parts, done = [_encoder.encode(head)[:-1], b',"cells":['], 0
    first = True
    for row in services.matrix.rows(kind, ready_nodes(services)):
        if row:
            parts.append((b"" if first else b",") + _encoder.encode(row)[1:-1])
            first = False
        done += len(row)
        if done >= YIELD_CELLS:
            done = 0
            await asyncio.sleep(0)
    return b"".join((*parts, b"]}"))


def ready_nodes(services: Services) -> dict[str, bool | None]:
    """What Kubernetes says of each node."""
    return {name: node.ready for name, node in services.watch.snapshot().nodes.items()}


async def policy_matrix(request: web.Request) -> web.StreamResponse:
    """What policies say between namespaces or workloads, beside what was observed."""
    services = request.app[SERVICES]
    by = request.query.get("by") or "namespace"
    if by not in policies.BY:
        raise BadRequestError(422, f"by: {by!r} is not known", f"one of {', '.join(policies.BY)}")
    model, within = services.planner.policy, request.query.get("namespace", "")
    if model is None:
        raise BadRequestError(503, "policies have not been read yet", "try again in a few seconds")
    try:
        names, entries = await asyncio.to_thread(policies.expectations, model, by, within)
    except policies.TooManyError as error:
        raise BadRequestError(422, str(error), "add namespace=NAME") from None
    now = services.clock.wall()
    cluster, statuses = services.watch.snapshot(), services.matrix.statuses().values()
    return answer(policies.policy_matrix(names, entries, by, statuses, cluster, now, rfc3339(now)))


async def paths(request: web.Request) -> web.StreamResponse:
    """The paths of a cell."""
    services = request.app[SERVICES]
    kind = word(request, "kind", MatrixKind, MatrixKind.NODE)
    for name in ("source", "destination"):
        if not request.query.get(name):
            raise BadRequestError(422, f"{name}: is missing", "name a row and a column of the matrix")
    source, destination = request.query["source"], request.query["destination"]
    now = services.clock.wall()
    found = tuple(path_document(status, now) for status in services.matrix.of_cell(kind, source, destination))
    why = next(
        (
            cell.reason
            for cell in services.matrix.plan.unsampled
            if (cell.kind, cell.source, cell.destination) == (kind, source, destination)
        ),
        "",
    )
    return answer(Paths(found, "" if found else why))


async def incidents(request: web.Request) -> web.StreamResponse:
    """All incidents, or those of one state."""
    state = word(request, "state", IncidentState, None)
    return answer(request.app[SERVICES].book.list(state))


async def incident(request: web.Request) -> web.StreamResponse:
    """One incident."""
    name = request.match_info["id"]
    found = request.app[SERVICES].book.get(name)
    if found is None:
        raise BadRequestError(404, f"there is no incident {name!r}", "GET /api/v1/incidents lists them")
    return answer(found)


async def probe(request: web.Request) -> web.StreamResponse:
    """One probe on demand, with the reasons where it fails."""
    services = request.app[SERVICES]
    asked = _probe_request.decode(await request.read())
    if services.counts.probing >= MAX_PROBES:
        raise BadRequestError(429, f"{MAX_PROBES} probes are under way already", "try again in a few seconds")
    services.counts.probing += 1
    try:
        return answer(await services.on_demand.probe(asked))
    finally:
        services.counts.probing -= 1


async def sweep_begin(request: web.Request) -> web.StreamResponse:
    """A sweep now; `?wait=SECONDS` answers when it is whole, or when that time is over."""
    services = request.app[SERVICES]
    wait_s = seconds(request, "wait")
    await services.sweep.begin()
    return answer(await services.sweep.wait(wait_s))


async def sweep_state(request: web.Request) -> web.StreamResponse:
    """How far the sweep is; `?wait=SECONDS` as above."""
    return answer(await request.app[SERVICES].sweep.wait(seconds(request, "wait")))


async def events(request: web.Request) -> web.StreamResponse:
    """Server-Sent Events: `cells`, `incidents`, `agents`."""
    hub = request.app[SERVICES].hub
    reader = hub.join()
    if reader is None:
        raise BadRequestError(503, "too many open streams", "close another view")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    ended = asyncio.create_task(reader.ended.wait())
    try:
        await response.prepare(request)
        await response.write(KEEPALIVE)
        while not reader.ended.is_set():
            frame = asyncio.create_task(reader.frames.get())
            await asyncio.wait((frame, ended), timeout=KEEPALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if frame.done():
                await response.write(frame.result())
            else:
                frame.cancel()
                if not reader.ended.is_set():
                    await response.write(KEEPALIVE)
    except (ConnectionError, RuntimeError):
        return response
    finally:
        ended.cancel()
        hub.leave(reader)
    return response


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/livez", livez),
    ("GET", "/readyz", readyz),
    ("GET", "/openapi.json", openapi),
    ("GET", "/metrics", allowed(READ, metrics)),
    ("GET", "/api/v1/cluster", allowed(READ, cluster)),
    ("GET", "/api/v1/matrix", allowed(READ, matrix)),
    ("GET", "/api/v1/policy/matrix", allowed(READ, policy_matrix)),
    ("GET", "/api/v1/paths", allowed(READ, paths)),
    ("GET", "/api/v1/incidents", allowed(READ, incidents)),
    ("GET", "/api/v1/incidents/{id}", allowed(READ, incident)),
    ("GET", "/api/v1/nodes/{name}/facts", node_facts),
    ("GET", "/api/v1/overlaps", allowed(READ, address_overlaps)),
    ("GET", "/api/v1/events", allowed(READ, events)),
    ("GET", "/api/v1/sweep/state", allowed(READ, sweep_state)),
    ("POST", "/api/v1/sweep", allowed(PROBE, sweep_begin)),
    ("POST", "/api/v1/probe", allowed(PROBE, probe)),
)
