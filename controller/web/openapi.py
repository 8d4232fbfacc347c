"""The API described in OpenAPI 3.1, from the very types that are encoded and decoded. Pure."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from controller.diagnosis.asked import ProbeRequest
from controller.matrix.policy import BY, PolicyMatrix
from controller.sweep import SweepState
from controller.web.documents import ClusterDocument, Error, Paths
from controller.web.node_facts import SUBJECTS, FactsDocument, OverlapsDocument
from model.diagnosis import Incident, Matrix, ProbeReport
from model.words import IncidentState, MatrixKind

TYPES = (
    ClusterDocument,
    Error,
    FactsDocument,
    Incident,
    Matrix,
    OverlapsDocument,
    Paths,
    PolicyMatrix,
    ProbeReport,
    ProbeRequest,
    SweepState,
)
VERSION = "1"
KINDS = [kind.value for kind in MatrixKind]
STATES = [state.value for state in IncidentState]


def _parameter(name: str, text: str, schema: dict[str, Any], *, where: str = "query", required: bool = False) -> Any:
    return {"name": name, "in": where, "description": text, "required": required or where == "path", "schema": schema}


_KIND = _parameter("kind", "which matrix", {"type": "string", "enum": KINDS, "default": "node"})
_WAIT = _parameter("wait", "seconds to wait until it is whole", {"type": "number", "minimum": 0, "maximum": 120})
_TEXT = {"type": "string"}

# Method, path, what it is, what it answers (None: text), parameters, body.
OPERATIONS: tuple[tuple[str, str, str, Any, tuple[Any, ...], Any], ...] = (
    ("get", "/livez", "whether the controller's loop turns", None, (), None),
    ("get", "/readyz", "whether the cluster was read once", None, (), None),
    ("get", "/metrics", "Prometheus metrics", None, (), None),
    ("get", "/api/v1/cluster", "nodes and their agents", ClusterDocument, (), None),
    ("get", "/api/v1/matrix", "the matrix of one kind", Matrix, (_KIND,), None),
    (
        "get",
        "/api/v1/policy/matrix",
        "what policies say between namespaces or workloads, beside what was observed",
        PolicyMatrix,
        (
            _parameter("by", "what rows and columns are", {"type": "string", "enum": [*BY], "default": "namespace"}),
            _parameter("namespace", "those of one namespace alone", _TEXT),
        ),
        None,
    ),
    (
        "get",
        "/api/v1/paths",
        "the paths of a cell",
        Paths,
        (
            _parameter("source", "row", _TEXT, required=True),
            _parameter("destination", "column", _TEXT, required=True),
            _KIND,
        ),
        None,
    ),
    (
        "get",
        "/api/v1/incidents",
        "incidents",
        list[Incident],
        (_parameter("state", "of one state alone", {"type": "string", "enum": STATES}),),
        None,
    ),
    (
        "get",
        "/api/v1/incidents/{id}",
        "one incident",
        Incident,
        (_parameter("id", "its id", _TEXT, where="path"),),
        None,
    ),
    (
        "get",
        "/api/v1/nodes/{name}/facts",
        "what a node's network looks like, and what changed there lately",
        FactsDocument,
        (
            _parameter("name", "the node", _TEXT, where="path"),
            _parameter(
                "subject", "what of it, several with commas in between", {"type": "string", "enum": [*SUBJECTS]}
            ),
            _parameter("now", "ask the node instead of telling what was read last", {"type": "boolean"}),
            _parameter("pod", "NAMESPACE/NAME: of this pod's network namespace, now", _TEXT),
            _parameter("where", "which conntrack_entries: NAME=VALUE, with commas in between", _TEXT),
        ),
        None,
    ),
    ("get", "/api/v1/overlaps", "address ranges that are claimed twice, and by whom", OverlapsDocument, (), None),
    ("post", "/api/v1/probe", "one probe now, and why it fails", ProbeReport, (), ProbeRequest),
    ("post", "/api/v1/sweep", "one pass over everything, now", SweepState, (_WAIT,), None),
    ("get", "/api/v1/sweep/state", "how far the sweep is", SweepState, (_WAIT,), None),
    ("get", "/api/v1/events", "Server-Sent Events: cells, incidents, agents", None, (), None),
    ("get", "/api/v1/agent", "the agents' WebSocket", None, (), None),
)


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    _, components = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for method, path, text, answer, parameters, body in OPERATIONS:
        paths.setdefault(path, {})[method] = _operation(text, answer, parameters, body)
    return {
        "openapi": "3.1.0",
        "info": {"title": "kubereach", "version": VERSION, "description": "What cannot reach what, and why."},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(text: str, answer: Any, parameters: tuple[Any, ...], body: Any) -> dict[str, Any]:
    content = {"text/plain": {"schema": _TEXT}} if answer is None else {"application/json": {"schema": _schema(answer)}}
    error = {"description": "refused", "content": {"application/json": {"schema": _schema(Error)}}}
    found: dict[str, Any] = {
        "summary": text,
        "responses": {"200": {"description": text, "content": content}, "default": error},
    }
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema(body)}}}
    return found


def _schema(kind: Any) -> Any:
    (schema,), _ = msgspec.json.schema_components((kind,), ref_template="#/components/schemas/{name}")
    return schema
