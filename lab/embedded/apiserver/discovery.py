"""What the server says of itself: versions, groups, resources, and the OpenAPI documents that kubectl reads.

Pure: made from the table of kinds and the schema. Sources: apidiscovery.k8s.io/v2, OpenAPI 3.0.
"""

import copy
from functools import cache
from typing import Any

from lab.embedded.apiserver import schema
from lab.embedded.apiserver.kinds import ALL_VERBS, GROUPS, Kind, Object, kinds_of

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


def groups() -> Object:
    """Answer /apis."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [group(name) for name in GROUPS if name],
    }


def group(name: str) -> Object:
    """Answer /apis/GROUP."""
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": [version],
        "preferredVersion": version,
    }


def resources(name: str) -> Object:
    """Answer /api/v1 or /apis/GROUP/v1."""
    listed = []
    for kind in kinds_of(name):
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
            owner, version, sub_kind, verbs = _sub(kind, sub)
            listed.append(
                {
                    "name": f"{kind.plural}/{sub}",
                    "singularName": "",
                    "namespaced": kind.namespaced,
                    "kind": sub_kind,
                    "group": owner,
                    "version": version,
                    "verbs": list(verbs),
                }
            )
    group_version = f"{name}/v1" if name else "v1"
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": listed,
    }


def aggregated(names: tuple[str, ...], version: str) -> Object:
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
                        "version": "v1",
                        "freshness": "Current",
                        "resources": [_discovered(kind) for kind in kinds_of(name)],
                    }
                ],
            }
            for name in names
        ],
    }


def _discovered(kind: Kind) -> Object:
    found: Object = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": "v1", "kind": kind.name},
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
    return _SUB_KINDS.get(sub, (kind.group, "v1", kind.name, ("get", "patch", "update")))


def openapi_index() -> Object:
    """Answer /openapi/v3."""
    paths = {_document_path(name): {"serverRelativeURL": f"/openapi/v3/{_document_path(name)}"} for name in GROUPS}
    return {"paths": paths}


@cache
def openapi_document(path: str) -> Object | None:
    """Answer /openapi/v3/PATH; None if there is no such document."""
    name = next((name for name in GROUPS if _document_path(name) == path), None)
    if name is None:
        return None
    paths: Object = {}
    kept: dict[str, Any] = {}
    for kind in kinds_of(name):
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


def _document_path(name: str) -> str:
    return f"apis/{name}/v1" if name else "api/v1"


_QUERY = ("dryRun", "fieldManager", "fieldValidation", "force", "pretty")
_PATCHES = ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")


def _operation(kind: Kind, verb: str) -> Object:
    content = [f"application/{name}" for name in _PATCHES] if verb == "patch" else ["application/json"]
    body = {"$ref": f"#/components/schemas/{_reference_of(kind)}"}
    operation: Object = {
        "parameters": [{"name": n, "in": "query", "schema": {"type": "string"}} for n in _QUERY],
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": body}}}},
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.name, "version": "v1"},
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
