"""`GET /api/v1/nodes/{name}/facts`: a node's network, asked now or as it was read last, and what changed there."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.agents import OrderError
from controller.auth import PROBE, READ, bearer
from controller.cluster.pools import POOLS
from controller.cluster.state import ClusterState
from controller.diagnosis.flows import vantage_of
from controller.facts.overlaps import Overlap, overlaps
from controller.web.replies import BadRequestError, answer
from controller.web.services import SERVICES, Services
from model.clock import rfc3339
from model.facts import Facts, FactsOrder
from model.probes import Vantage
from model.tables import ConntrackQuery

ENTRIES: Final = "conntrack_entries"
SUBJECTS: Final = (
    "links", "addresses", "routes", "rules", "neighbours", "fdb", "sysctls", "sockets", "resolver", "cni", "ipvs",
    "conntrack", ENTRIES, "counters",
)  # fmt: skip
TIMEOUT_S: Final = 10.0
MOST_AT_ONCE: Final = 8
YES: Final = {"1": True, "true": True, "": False, "0": False, "false": False}


class SubjectDocument(msgspec.Struct, frozen=True, kw_only=True):
    """When a subject was read last, a short name for what it said, and how many entries it had."""

    at: str
    digest: str
    entries: int


class ChangeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A change, as the kernel told it. `what`: new, gone or changed."""

    at: str
    subject: str
    name: str
    what: str
    says: str


class FactsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a node, or of a pod on it.

    `facts` has the subjects that were asked for, `at` when they were read (of several, the oldest), `fresh` whether
    that was now. `subjects` are those that are kept. `errors` says of each subject why it cannot be read.
    """

    node: str
    pod: str
    at: str | None
    fresh: bool
    facts: dict[str, Any]
    errors: dict[str, str]
    subjects: dict[str, SubjectDocument]
    changes: tuple[ChangeDocument, ...]


async def node_facts(request: web.Request) -> web.StreamResponse:
    """What is kept, for who may READ; asked now, for who may PROBE, since it starts a process on the node."""
    services = request.app[SERVICES]
    name, query = request.match_info["name"], request.query
    subjects = tuple(word for text in query.getall("subject", []) for word in text.split(",") if word)
    if unknown := [word for word in subjects if word not in SUBJECTS]:
        raise BadRequestError(422, f"subject: {unknown[0]!r} is not known", f"one of {', '.join(SUBJECTS)}")
    now = YES.get(query.get("now", "").lower())
    if now is None:
        raise BadRequestError(422, f"now: {query['now']!r} is neither true nor false")
    token = bearer(request.headers.get("Authorization", ""))
    await services.auth.person(token, PROBE if now or query.get("pod") else READ)
    if name not in services.watch.snapshot().nodes and services.agents.get(name) is None:
        raise BadRequestError(404, f"there is no node {name!r}", "GET /api/v1/cluster lists them")
    if now or query.get("pod"):
        return answer(await _asked(services, name, subjects, query.get("pod", ""), query.get("where", "")))
    return answer(_kept(services, name, subjects))


class OverlapsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Address ranges that are claimed twice.

    `missing`: nodes whose links and routes are not known; `unread`: kinds of pools that may not be read, and why.
    """

    at: str
    overlaps: tuple[Overlap, ...]
    missing: tuple[str, ...]
    unread: dict[str, str] = {}


async def address_overlaps(request: web.Request) -> web.StreamResponse:
    """Overlaps across the cluster, from Kubernetes' objects and from what is kept of each node."""
    services = request.app[SERVICES]
    state = services.watch.snapshot()
    kept = {name: services.facts.latest(name) for name in state.nodes}

    def find() -> tuple[Overlap, ...]:
        wanted = ("links", "addresses", "routes")
        return overlaps(state, {n: {s: k[s].value() for s in wanted if s in k} for n, k in kept.items() if k})

    found = await asyncio.to_thread(find)
    missing = tuple(name for name, its in kept.items() if not its)
    unread = {kind: why for kind, why in services.watch.errors.items() if kind in POOLS}
    return answer(OverlapsDocument(at=rfc3339(services.clock.wall()), overlaps=found, missing=missing, unread=unread))


def _kept(services: Services, name: str, subjects: tuple[str, ...], why: str = "") -> FactsDocument:
    latest = services.facts.latest(name)
    values = {subject: kept.value() for subject, kept in latest.items()}
    errors = dict(services.facts.errors(name))
    errors |= {one: why or "it is not kept; ask for it now" for one in subjects if one not in latest}
    if why:
        errors["agent"] = why
    told = [latest[subject].at_s for subject in subjects if subject in latest]
    return FactsDocument(
        node=name,
        pod="",
        at=rfc3339(min(told)) if told else None,
        fresh=False,
        facts={subject: values[subject] for subject in subjects if subject in values},
        errors=errors,
        subjects={
            subject: SubjectDocument(at=rfc3339(kept.at_s), digest=kept.digest, entries=len(values[subject] or ()))
            for subject, kept in latest.items()
        },
        changes=tuple(
            ChangeDocument(
                at=rfc3339(noted.at_s),
                subject=noted.change.subject,
                name=noted.change.name,
                what=noted.change.what,
                says=noted.change.says,
            )
            for noted in services.facts.journal.of(name)
        ),
    )


async def _asked(services: Services, name: str, subjects: tuple[str, ...], pod: str, where: str) -> FactsDocument:
    if services.counts.reading >= MOST_AT_ONCE:
        raise BadRequestError(429, f"{MOST_AT_ONCE} nodes are asked for facts already", "try again in a few seconds")
    wanted = subjects or tuple(subject for subject in SUBJECTS if subject != ENTRIES)
    order = FactsOrder(
        vantage=_vantage(services.watch.snapshot(), name, pod),
        subjects=tuple(subject for subject in wanted if subject != ENTRIES),
        conntrack_asked=(_query(where),) if ENTRIES in wanted else (),
    )
    services.counts.reading += 1
    try:
        found = await services.agents.facts(name, order, TIMEOUT_S)
    finally:
        services.counts.reading -= 1
    kept = _kept(services, name, wanted if isinstance(found, OrderError) and not pod else (), str(found))
    if isinstance(found, OrderError):
        return kept if not pod else msgspec.structs.replace(kept, pod=pod, errors={"agent": str(found)})
    return msgspec.structs.replace(
        kept,
        pod=pod,
        at=rfc3339(services.clock.wall()),
        fresh=True,
        facts=_values(found, wanted),
        errors=found.errors,
    )


def _values(found: Facts, wanted: tuple[str, ...]) -> dict[str, Any]:
    values = {subject: getattr(found, subject) for subject in wanted}
    return {subject: value for subject, value in values.items() if value is not None}


def _vantage(cluster: ClusterState, node: str, pod: str) -> Vantage:
    if not pod:
        return Vantage()
    namespace, _, name = pod.rpartition("/")
    for one in cluster.pods.values():
        if (one.namespace, one.name) == (namespace, name):
            if one.node != node:
                raise BadRequestError(422, f"pod: {pod} is on {one.node or 'no node'}, not on {node}")
            return vantage_of(one)
    raise BadRequestError(404, f"there is no pod {pod!r}", "write NAMESPACE/NAME")


def _query(where: str) -> ConntrackQuery:
    words = [word.partition("=") for word in where.split(",") if word]
    hint = f"write NAME=VALUE with {', '.join(QUERY_FIELDS)}"
    if unknown := [name for name, _, _ in words if name not in QUERY_FIELDS]:
        raise BadRequestError(422, f"where: {unknown[0]!r} is not known", hint)
    try:
        return msgspec.convert({name: value for name, _, value in words}, ConntrackQuery, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequestError(422, f"where: {error}", hint) from None


QUERY_FIELDS: Final = ConntrackQuery.__struct_fields__
