"""From an HTTP request to what it asks for, and from an answer to HTTP. Must not touch objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from lab.embedded.apiserver import protobuf, schema
from lab.embedded.apiserver.access import Action
from lab.embedded.apiserver.errors import Refusal, invalid
from lab.embedded.apiserver.kinds import BY_PATH, EVENTS, Kind, Object

_METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names; `namespace` is None for all of them, `name` is "" for a collection."""

    kind: Kind
    namespace: str | None
    name: str
    sub: str

    def action(self, method: str, *, watch: bool, selected: str = "") -> Action:
        """Return the action that RBAC decides on; `selected` is the name that a field selector asks for."""
        if method in ("GET", "HEAD"):
            verb = "get" if self.name else "watch" if watch else "list"
        elif method == "DELETE":
            verb = "delete" if self.name else "deletecollection"
        else:
            verb = _METHODS[method]
        kind = self.kind
        return Action(verb, kind.group, kind.plural, self.sub, self.namespace or "", self.name or selected)


def selected_name(query: Mapping[str, str]) -> str:
    """Return the name that a field selector narrows a collection to: a right to that one name is enough then."""
    parts = [part.split("=", 1) for part in query.get("fieldSelector", "").replace("==", "=").split(",")]
    return next((part[1] for part in parts if len(part) == 2 and part[0] == "metadata.name"), "")


def target_of(path: str) -> Target | None:
    """Return what a path names, None if it is no path of a resource."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, rest = "", parts[2:]
    elif len(parts) > 3 and parts[0] == "apis":
        group, rest = parts[1], parts[3:]
    else:
        return None
    namespace: str | None = None
    if len(rest) >= 3 and rest[0] == "namespaces" and (group, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 3 or not all(rest):
        return None
    kind = BY_PATH.get((group, rest[0]))
    name, sub = [*rest[1:], "", ""][:2]
    if kind is None or (sub and sub not in kind.subresources):
        return None
    if group and parts[2] != kind.version:
        return None
    if kind.namespaced:
        if namespace is None and name:
            return None
    elif namespace is not None:
        return None
    return Target(kind, namespace if kind.namespaced else "", name, sub)


async def body_of(request: web.Request) -> Any:
    """Return the body, JSON or YAML; 400 if it is neither, 413 if it is too big, 415 if something else."""
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal(413, f"Request entity too large: limit is {request.client_max_size}") from error
    content = request.content_type
    if "cbor" in content:
        raise Refusal(415, f"the body of the request was in an unknown format - {content}")
    try:
        if "protobuf" in content:
            return protobuf.decode(raw) if raw else None
        return msgspec.json.decode(raw) if raw else None
    except ValueError as error:  # msgspec.DecodeError is one
        if "yaml" not in content:
            raise Refusal(400, f"couldn't parse the body of the request: {error}") from error
    except RecursionError as error:
        raise Refusal(400, "the body of the request is nested too deeply") from error
    import yaml  # noqa: PLC0415 - server-side apply alone sends it

    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, RecursionError) as error:
        raise Refusal(400, f"couldn't parse the body of the request: {error}") from error


def decoded(kind: Kind, body: Any, mode: str) -> tuple[Object, list[str]]:
    """Return a body as an object of the kind, and warnings; refuse what cannot be one."""
    if not isinstance(body, dict):
        raise Refusal(400, f"the body is no {kind.name}: an object is expected")
    for name, wanted in (("apiVersion", kind.api_version), ("kind", kind.name)):
        given = body.get(name)
        same = wanted if kind.group != EVENTS else (wanted, "v1")
        if given and given not in same:
            raise Refusal(400, f"the {name} in the data ({given}) does not match the expected {name} ({wanted})")
    try:
        item, report = schema.decode(kind, body)
    except RecursionError as error:
        raise Refusal(400, "the body of the request is nested too deeply") from error
    handled = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}'
    if report.wrong:
        raise Refusal(400, f"{handled}: json: {'; '.join(report.wrong[:5])}")
    if report.unknown and mode == "Strict":
        listed = ", ".join(f'unknown field "{name}"' for name in report.unknown[:20])
        raise Refusal(400, f"{handled}: strict decoding error: {listed}")
    if report.missing:
        raise invalid(kind, str((item.get("metadata") or {}).get("name", "")), report.missing)
    item["metadata"] = item.get("metadata") or {}
    warnings = [f'unknown field "{name}"' for name in report.unknown] if mode != "Ignore" else []
    return item, warnings


def integer(query: Mapping[str, str], name: str) -> int | None:
    """Return a number of the query; 400 if it is none."""
    text = query.get(name)
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise Refusal(400, f'invalid {name} "{text}": a number is expected')
    return int(text)


def truth(query: Mapping[str, str], name: str) -> bool:
    """Return a truth value of the query."""
    return query.get(name, "").lower() in ("1", "true", "t")


def dry_run(query: Mapping[str, str]) -> bool:
    """Return whether nothing is to be kept."""
    value = query.get("dryRun", "")
    if value not in ("", "All"):
        raise Refusal(400, f'invalid dryRun "{value}": supported values: "All"')
    return bool(value)


def wants_table(request: web.Request) -> bool:
    """Return whether the client asks for a Table (kubectl get)."""
    first = request.headers.get("Accept", "").split(",")[0].replace(" ", "")
    return "as=Table" in first and "v=v1;" in f"{first};"


def json_response(value: Any, status: int = 200, warnings: list[str] | None = None) -> web.Response:
    """Answer with JSON, given as a value or as bytes."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    response = web.Response(body=body, status=status, content_type="application/json")
    for warning in (warnings or [])[:10]:
        text = warning.replace("\\", "\\\\").replace('"', '\\"')
        if text.isprintable():
            response.headers.add("Warning", f'299 - "{text}"')
    return response
