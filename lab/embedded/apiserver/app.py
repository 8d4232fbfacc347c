"""The HTTP face: who asks is told apart, what is asked is allowed or not, and the registry does it."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from lab.embedded.apiserver import discovery, schema
from lab.embedded.apiserver.access import Action, Tokens, User, decide, implied_groups
from lab.embedded.apiserver.custom import is_served, served_kinds
from lab.embedded.apiserver.errors import Refusal, not_found
from lab.embedded.apiserver.events import from_storage
from lab.embedded.apiserver.kinds import Kind, Object, storage_key
from lab.embedded.apiserver.registry import DeleteOptions, Registry
from lab.embedded.apiserver.requests import (
    Target,
    body_of,
    decoded,
    dry_run,
    integer,
    json_response,
    selected_name,
    target_of,
    truth,
    wants_table,
)
from lab.embedded.apiserver.reviews import request_token, review
from lab.embedded.apiserver.tables import table
from lab.embedded.apiserver.watching import list_objects, selection, watch_objects

BODY_LIMIT_BYTES = 3 * 1024 * 1024
OPEN_PATHS = ("/livez", "/readyz", "/healthz", "/version")
_SCALE = ("autoscaling", "Scale")

log = logging.getLogger(__name__)


class Api:
    """One server's handlers."""

    def __init__(self, registry: Registry, tokens: Tokens) -> None:
        self._registry = registry
        self._store = registry.store
        self._tokens = tokens

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request; whatever happens, with a Status at worst."""
        try:
            return await self._answer(request)
        except Refusal as refusal:
            return json_response(refusal.status(), refusal.code)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            broken = Refusal(500, "an error on the server has prevented the request from succeeding")
            return json_response(broken.status(), 500)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path in OPEN_PATHS or path.startswith(("/livez/", "/readyz/", "/healthz/")):
            return json_response(discovery.VERSION) if path == "/version" else web.Response(text="ok")
        user = self._user(request)
        target = target_of(request.path)
        if request.method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            raise Refusal(405, "the server does not allow this method on the requested resource")
        if target is None:
            verb = {"GET": "get", "HEAD": "get"}.get(request.method, request.method.lower())
            self._allow(user, Action(verb, path=request.path))
            return self._about(request, path)
        watch, selected = truth(request.query, "watch"), selected_name(request.query)
        self._allow(user, target.action(request.method, watch=watch, selected=selected))
        if not is_served(target.kind, self._store):
            raise Refusal(404, "the server could not find the requested resource")
        if not target.kind.stored:
            return await self._review(request, target, user)
        if target.sub and target.sub != "status":
            return await self._subresource(request, target)
        return await self._methods[request.method](self, request, target)

    def _user(self, request: web.Request) -> User:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        found = self._tokens.user_of(token.strip()) if scheme.lower() == "bearer" else ""
        if isinstance(found, str):
            raise Refusal(401, "Unauthorized")
        return self._impersonated(request, found[0])

    def _impersonated(self, request: web.Request, user: User) -> User:
        """Return whom the client acts as (kubectl --as), if it may."""
        name, groups = request.headers.get("Impersonate-User"), request.headers.getall("Impersonate-Group", [])
        if name is None:
            if groups:
                raise Refusal(400, "Impersonate-Group without Impersonate-User")
            return user
        self._allow(user, Action("impersonate", "", "users", name=name))
        for group in groups:
            self._allow(user, Action("impersonate", "", "groups", name=group))
        return User(name, "", (*groups, *implied_groups(name)))

    def _allow(self, user: User, action: Action) -> None:
        allowed, _ = decide(self._store, user, action)
        if not allowed:
            qualified = f"{action.resource}.{action.group}" if action.group else action.resource
            subject = f'{qualified} "{action.name}" is forbidden' if action.resource else "forbidden"
            if action.resource and not action.name:
                subject = f"{qualified} is forbidden"
            raise Refusal(403, f'{subject}: User "{user.name}" {action}')

    def _about(self, request: web.Request, path: str) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            raise Refusal(404, "the server could not find the requested resource")
        accept = request.headers.get("Accept", "")
        if path in ("/api", "/apis") and "as=APIGroupDiscoveryList" in accept:
            version = "v2" if "v=v2;" in accept.replace(" ", "") else "v2beta1"
            kinds = served_kinds(self._store)
            groups = ("",) if path == "/api" else tuple(dict.fromkeys(kind.group for kind in kinds if kind.group))
            response = json_response(discovery.aggregated(groups, version, kinds))
            form = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            response.headers["Content-Type"] = form
            return response
        answer = _document(path, served_kinds(self._store))
        if answer is None:
            raise Refusal(404, "the server could not find the requested resource")
        return json_response(answer)

    async def _get(self, request: web.Request, target: Target) -> web.StreamResponse:
        kind = target.kind
        watch = truth(request.query, "watch")
        if target.name and not watch:
            entry = self._registry.entry(kind, target.namespace or "", target.name)
            return self._shown(request, target, from_storage(kind, entry.item))
        chosen = selection(kind, target.namespace, target.name, request)
        if watch:
            return await watch_objects(request, chosen, self._store)
        return list_objects(request, chosen, self._store)

    def _shown(
        self, request: web.Request, target: Target, item: Object, status: int = 200, warnings: Any = None
    ) -> web.Response:
        if wants_table(request):
            include = request.query.get("includeObject", "Metadata")
            item = table(target.kind, [item], str(self._store.version), include=include)
        return json_response(item, status, warnings)

    async def _post(self, request: web.Request, target: Target) -> web.StreamResponse:
        if target.name or target.namespace is None:
            raise Refusal(405, "the server does not allow this method on the requested resource")
        mode = request.query.get("fieldValidation", "Warn")
        item, warnings = decoded(target.kind, await body_of(request), mode)
        created = self._registry.create(target.kind, target.namespace, item, dry_run=dry_run(request.query))
        return self._shown(request, target, created, 201, warnings)

    async def _put(self, request: web.Request, target: Target) -> web.StreamResponse:
        if not target.name:
            raise Refusal(405, "the server does not allow this method on the requested resource")
        mode = request.query.get("fieldValidation", "Warn")
        item, warnings = decoded(target.kind, await body_of(request), mode)
        key, dry = (target.namespace or "", target.name), dry_run(request.query)
        if self._store.get(storage_key(target.kind), key) is None and target.kind.name in ("Lease", "Event"):
            item["metadata"]["name"] = target.name  # kinds that Kubernetes lets a PUT create
            created = self._registry.create(target.kind, key[0], item, dry_run=dry)
            return self._shown(request, target, created, 201, warnings)
        updated = self._registry.update(target.kind, key, item, target.sub, dry_run=dry)
        return self._shown(request, target, updated, 200, warnings)

    async def _patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        if not target.name:
            raise Refusal(405, "the server does not allow this method on the requested resource")
        kind, patch, query = target.kind, await body_of(request), request.query
        key, dry = (target.namespace or "", target.name), dry_run(query)
        mode = query.get("fieldValidation", "Warn")
        entry = self._store.get(storage_key(kind), key)
        if entry is None:
            if "apply-patch" not in request.content_type or target.sub:
                raise not_found(kind, target.name)
            item, warnings = decoded(kind, patch, mode)
            item["metadata"]["name"] = item["metadata"].get("name") or target.name
            created = self._registry.create(kind, key[0], item, dry_run=dry)
            return self._shown(request, target, created, 201, warnings)
        old = from_storage(kind, entry.fresh())
        new = self._registry.patched(kind, old, request.content_type, patch)
        item, warnings = decoded(kind, new, mode)
        updated = self._registry.update(kind, key, item, target.sub, dry_run=dry)
        return self._shown(request, target, updated, 200, warnings)

    async def _delete(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = _delete_options(request, await body_of(request))
        kind = target.kind
        if target.name:
            name, namespace = target.name, target.namespace or ""
            uid = self._registry.entry(kind, namespace, name).item["metadata"]["uid"]
            left = self._registry.delete(kind, namespace, name, options)
            return json_response(left if left is not None else _success(target, uid))
        if kind.namespaced and target.namespace is None:
            raise Refusal(405, "the server does not allow this method on the requested resource")
        chosen = selection(kind, target.namespace, "", request)
        for entry in list(chosen.entries(self._store)):
            metadata = entry.item["metadata"]
            key = (metadata.get("namespace") or "", metadata["name"])
            if self._store.get(storage_key(kind), key) is not None:
                self._registry.delete(kind, *key, options)
        return json_response(_success(target, ""))

    async def _subresource(self, request: web.Request, target: Target) -> web.StreamResponse:
        kind, name, sub = target.kind, target.name, target.sub
        key = (target.namespace or "", name)
        entry = self._registry.entry(kind, *key)
        method = request.method
        if sub == "scale" and method in ("GET", "HEAD"):
            return json_response(_scale(entry.item))
        body = await body_of(request)
        if sub == "scale" and method in ("PUT", "PATCH"):
            item = _scaled(self._registry, target, request.content_type, body, entry.fresh(), method=method)
            return json_response(_scale(self._registry.update(kind, key, item, dry_run=dry_run(request.query))))
        if not isinstance(body, dict):
            raise Refusal(400, "an object is expected")
        if sub == "token" and method == "POST":
            definition = schema.definition_of("authentication.k8s.io", "TokenRequest")
            asked, report = schema.decode_as(definition, body)
            if report.wrong:
                raise Refusal(400, "; ".join(report.wrong))
            return json_response(request_token(entry.item, asked, self._store, self._tokens), 201)
        if sub == "binding" and method == "POST":
            item = entry.fresh()
            if item["spec"].get("nodeName"):
                raise Refusal(409, f"pod {name} is already assigned to a node")
            item["spec"]["nodeName"] = (body.get("target") or {}).get("name") or ""
            self._registry.update(kind, key, item)
            return json_response(_success(target, entry.item["metadata"]["uid"]), 201)
        if sub == "eviction" and method == "POST":
            options = _delete_options(request, body.get("deleteOptions"))
            self._registry.delete(kind, *key, options)
            return json_response(_success(target, entry.item["metadata"]["uid"]), 201)
        if sub == "finalize" and method == "PUT":
            return json_response(entry.item)
        raise Refusal(405, "the server does not allow this method on the requested resource")

    async def _review(self, request: web.Request, target: Target, user: User) -> web.Response:
        if request.method != "POST" or target.name:
            raise Refusal(405, "the server does not allow this method on the requested resource")
        item, _ = decoded(target.kind, await body_of(request), "Ignore")
        where = target.namespace or ""
        answer = review(target.kind, where, item, user, store=self._store, tokens=self._tokens)
        return json_response(answer, 201)

    _methods: dict[str, Callable[["Api", web.Request, Target], Awaitable[web.StreamResponse]]] = {  # noqa: RUF012
        "GET": _get,
        "HEAD": _get,
        "POST": _post,
        "PUT": _put,
        "PATCH": _patch,
        "DELETE": _delete,
    }


def _document(path: str, kinds: tuple[Kind, ...]) -> Object | None:
    parts = path.strip("/").split("/")
    if path in ("/api", "/apis"):
        return discovery.core_versions() if path == "/api" else discovery.groups(kinds)
    if path == "/api/v1":
        return discovery.resources("", "v1", kinds)
    if path == "/openapi/v3":
        return discovery.openapi_index(kinds)
    if parts[:2] == ["openapi", "v3"]:
        return discovery.openapi_document("/".join(parts[2:]), kinds)
    if parts[0] == "apis" and len(parts) == 2:
        return discovery.group(parts[1], kinds)
    if parts[0] == "apis" and len(parts) == 3:
        return discovery.resources(parts[1], parts[2], kinds)
    if path == "":
        return {"paths": ["/api", "/apis", "/livez", "/openapi/v3", "/readyz", "/version"]}
    return None


def _delete_options(request: web.Request, body: Any) -> DeleteOptions:
    body = body if isinstance(body, dict) else {}
    query = request.query
    grace_s = body.get("gracePeriodSeconds", integer(query, "gracePeriodSeconds"))
    if grace_s is not None and (not isinstance(grace_s, int) or grace_s < 0):
        raise Refusal(400, f"invalid gracePeriodSeconds {grace_s!r}")
    before = body.get("preconditions") or {}
    policy = body.get("propagationPolicy") or query.get("propagationPolicy")
    return DeleteOptions(
        grace_period_s=grace_s,
        orphan=policy == "Orphan" or body.get("orphanDependents") is True,
        uid=before.get("uid"),
        version=before.get("resourceVersion"),
        dry_run=dry_run(query) or bool(body.get("dryRun")),
    )


def _success(target: Target, uid: str) -> Object:
    kind = target.kind
    details = {"name": target.name, "group": kind.group, "kind": kind.plural, "uid": uid}
    details = {name: value for name, value in details.items() if value}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _scale(item: Object) -> Object:
    metadata, selector = item["metadata"], (item["spec"].get("selector") or {}).get("matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in kept},
        "spec": {"replicas": item["spec"].get("replicas", 1)},
        "status": {
            "replicas": (item.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(selector.items())),
        },
    }


def _scaled(registry: Registry, target: Target, content: str, body: Any, item: Object, *, method: str) -> Object:
    scale = body if method == "PUT" else registry.patched(target.kind, _scale(item), content, body)
    asked, report = schema.decode_as(schema.definition_of(*_SCALE), scale)
    if report.wrong:
        raise Refusal(400, "; ".join(report.wrong))
    version = (asked.get("metadata") or {}).get("resourceVersion")
    item["metadata"]["resourceVersion"] = version or item["metadata"]["resourceVersion"]
    item["spec"]["replicas"] = (asked.get("spec") or {}).get("replicas", 0)
    return item
