"""What the server says of itself: versions, groups, resources, and the OpenAPI documents that kubectl reads.

Pure: made from the table of kinds and the schema. Sources: apidiscovery.k8s.io/v2, OpenAPI 3.0.
"""

import copy
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from lab.embedded.apiserver import schema
from lab.embedded.apiserver.kinds import ALL_VERBS, Kind, Object

VERSION = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.4-kubereach-lab",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-04-22T16:03:20Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}

# Subresources whose kind is another than their resource's: group, version, kind, verbs.
_SUB_KINDS = {
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
}


def core_versions() -> Object:
    """Answer /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def groups(kinds: Iterable[Kind]) -> Object:
    """Answer /apis, where these kinds are served."""
    every = tuple(kinds)
    names = dict.fromkeys(kind.group for kind in every if kind.group)
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(name, every) for name in names]}


def group(name: str, kinds: Iterable[Kind]) -> Object | None:
    """Answer /apis/GROUP; None if no kind of it is served."""
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in _versions(name, kinds)]
    if not versions:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": versions[0]}


def _versions(name: str, kinds: Iterable[Kind]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind.version for kind in kinds if kind.group == name))


def resources(name: str, version: str, kinds: Iterable[Kind]) -> Object | None:
    """Answer /api/v1 or /apis/GROUP/VERSION; None if no kind of it is served."""
    listed = []
    for kind in _of(name, version, kinds):
        listed.append(
            {
                "name": kind.plural,
                "singularName": kind.name.lower(),
                "namespaced": kind.namespaced,
                "kind": kind.name,
                "verbs": _verbs(kind),
                **({"shortNames": list(kind.short)} if kind.short else {}),
                **({"categories": list(kind.categories)} if kind.categories else {}),
            }
        )
        for sub in kind.subresources:
            owner, sub_version, sub_kind, verbs = _sub(kind, sub)
            listed.append(
                {
                    "name": f"{kind.plural}/{sub}",
                    "singularName": "",
                    "namespaced": kind.namespaced,
                    "kind": sub_kind,
                    "group": owner,
                    "version": sub_version,
                    "verbs": list(verbs),
                }
            )
    if not listed:
        return None
    group_version = f"{name}/{version}" if name else version
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": listed,
    }


def _of(name: str, version: str, kinds: Iterable[Kind]) -> list[Kind]:
    return [kind for kind in kinds if (kind.group, kind.version) == (name, version)]


def aggregated(names: Iterable[str], version: str, kinds: tuple[Kind, ...]) -> Object:
    """Answer /api or /apis for clients that want all at once (apidiscovery.k8s.io)."""
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": name} if name else {},
                "versions": [
                    {
                        "version": served,
                        "freshness": "Current",
                        "resources": [_discovered(kind) for kind in _of(name, served, kinds)],
                    }
                    for served in _versions(name, kinds)
                ],
            }
            for name in names
        ],
    }


def _discovered(kind: Kind) -> Object:
    found: Object = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.name},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.name.lower(),
        "verbs": _verbs(kind),
    }
    if kind.short:
        found["shortNames"] = list(kind.short)
    if kind.categories:
        found["categories"] = list(kind.categories)
    subs = []
    for sub in kind.subresources:
        owner, version, name, verbs = _sub(kind, sub)
        subs.append(
            {
                "subresource": sub,
                "responseKind": {"group": owner, "version": version, "kind": name},
                "verbs": list(verbs),
            }
        )
    return found | ({"subresources": subs} if subs else {})


def _verbs(kind: Kind) -> list[str]:
    return list(ALL_VERBS) if kind.stored else ["create"]


def _sub(kind: Kind, sub: str) -> tuple[str, str, str, tuple[str, ...]]:
    return _SUB_KINDS.get(sub, (kind.group, kind.version, kind.name, ("get", "patch", "update")))


def openapi_index(kinds: Iterable[Kind]) -> Object:
    """Answer /openapi/v3."""
    documents = dict.fromkeys(_document_path(kind) for kind in kinds)
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in documents}}


@lru_cache(maxsize=64)
def openapi_document(path: str, kinds: tuple[Kind, ...]) -> Object | None:
    """Answer /openapi/v3/PATH; None if there is no such document."""
    inside = [kind for kind in kinds if _document_path(kind) == path]
    if not inside:
        return None
    paths: Object = {}
    kept: dict[str, Any] = {}
    for kind in inside:
        for scope in ("", "/namespaces/{namespace}")[: 1 + kind.namespaced]:
            base = f"/{path}{scope}/{kind.plural}"
            paths[base] = {"post": _operation(kind, "post")}
            paths[f"{base}/{{name}}"] = {verb: _operation(kind, verb) for verb in ("get", "put", "patch", "delete")}
        _collect(_reference_of(kind), kept)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": kept},
    }


def _document_path(kind: Kind) -> str:
    return f"apis/{kind.group}/{kind.version}" if kind.group else "api/v1"


_QUERY = ("dryRun", "fieldManager", "fieldValidation", "force", "pretty")
_PATCHES = ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")


def _operation(kind: Kind, verb: str) -> Object:
    content = [f"application/{name}" for name in _PATCHES] if verb == "patch" else ["application/json"]
    body = {"$ref": f"#/components/schemas/{_reference_of(kind)}"}
    operation: Object = {
        "parameters": [{"name": n, "in": "query", "schema": {"type": "string"}} for n in _QUERY],
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": body}}}},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.name, "version": kind.version},
    }
    if verb in ("post", "put", "patch"):
        operation["requestBody"] = {"content": {name: {"schema": body} for name in content}}
    return operation


def _reference_of(kind: Kind) -> str:
    wanted = schema.definition_of(kind.group, kind.name)
    return next(name for name, definition in schema.definitions().items() if definition is wanted)


def _collect(name: str, kept: dict[str, Any]) -> None:
    if name in kept:
        return
    kept[name] = {}
    kept[name] = _rewritten(copy.deepcopy(schema.definitions()[name]), kept)


def _rewritten(node: Any, kept: dict[str, Any]) -> Any:
    """Turn Swagger's references into OpenAPI's, and fetch what they lead to."""
    if isinstance(node, list):
        return [_rewritten(item, kept) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: _rewritten(value, kept) for key, value in node.items() if key != "$ref"}
    if isinstance(node.get("$ref"), str):
        name = node["$ref"].rpartition("/")[2]
        _collect(name, kept)
        result["$ref"] = f"#/components/schemas/{name}"
    return result
