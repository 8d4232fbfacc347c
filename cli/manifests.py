"""Kubernetes manifests from files and directories, for commands that need no cluster.

Every error is one line with file and position. Reads only; a file of more than 32 MiB is refused before it is read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from controller.policy import (
    POLICY_KINDS,
    Namespace,
    Node,
    ObjectError,
    Pod,
    Policy,
    Service,
    expand_workload,
    parse_namespace,
    parse_node,
    parse_pod,
    parse_policy,
    parse_service,
)
from controller.policy.objects import Owner
from controller.policy.parse import Field, controller_of, name_of, namespace_of, read_object, walk_list
from controller.policy.workloads import WORKLOADS

FILE_LIMIT = 32 * 1024 * 1024
_SUFFIXES = {".yaml", ".yml", ".json"}
_CLUSTER_WIDE = {"Namespace", "Node", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"}
_DEPTH = 500
_INDENTED = re.compile(rf"^[ \-?:]{{{_DEPTH}}}", re.MULTILINE)
_NOT_OBJECTS = {"kustomization.yaml", "kustomization.yml"}
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Path_ = tuple[str | int, ...]


class ManifestError(ValueError):
    """Input that cannot be taken; the message is one line with file and position."""


class _Loader(_BASE):  # type: ignore[misc]
    """The safe loader, which moreover refuses a key that stands twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


@dataclass(slots=True)
class Manifests:
    """What the files hold, and the workload of each pod."""

    namespaces: list[Namespace] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    ingresses: list[Mapping[str, Any]] = field(default_factory=list)
    owners: dict[tuple[str, Owner], Owner] = field(default_factory=dict)

    def owner_of(self, pod: Pod) -> Owner:
        """Give the outermost workload of a pod that the files know."""
        owner = pod.owner or Owner("Pod", pod.name)
        for _ in range(4):
            owner = self.owners.get((pod.namespace, owner), owner)
        return owner

    @property
    def service_addresses(self) -> frozenset[str]:
        """Give every address of a Service."""
        return frozenset(address for service in self.services for address in service.addresses)


@dataclass(frozen=True, slots=True)
class _Document:
    """An object, where it came from, and its YAML nodes for positions."""

    file: str
    raw: Any
    node: yaml.Node | None
    path: Path_

    def at(self, path: Path_) -> str:
        line, column = _position(self.node, (*self.path, *path))
        return f"{self.file}:{line}:{column}"


def read_manifests(paths: list[str]) -> Manifests:
    """Read files, directories (with what is below them) and `-` for standard input.

    Raises:
        ManifestError: a file cannot be read, is no YAML or JSON, or holds what Kubernetes would refuse.

    """
    found = Manifests()
    workloads: dict[tuple[str, Owner], _Document] = {}
    seen: dict[tuple[str, str, str], tuple[str, Any]] = {}
    for name in _files(paths):
        for document in _documents(name):
            _take(document, found, workloads, seen)
    if not seen:
        raise ManifestError(f"{', '.join(paths)}: no Kubernetes object found")
    _expand(found, workloads)
    return found


def _files(paths: list[str]) -> Iterator[str]:
    for text in paths:
        path = Path(text)
        if text == "-" or path.is_file():
            yield text
        elif path.is_dir():
            yield from sorted(
                str(inner)
                for inner in path.rglob("*")
                if inner.suffix in _SUFFIXES and inner.is_file() and inner.name not in _NOT_OBJECTS
            )
        else:
            raise ManifestError(f"{text}:1:1: no such file or directory")


def _content(name: str) -> str:
    if name == "-":
        octets = sys.stdin.buffer.read(FILE_LIMIT + 1)
    else:
        try:
            with Path(name).open("rb") as stream:
                octets = stream.read(FILE_LIMIT + 1)
        except OSError as error:
            raise ManifestError(f"{name}:1:1: {error.strerror}") from None
    if len(octets) > FILE_LIMIT:
        raise ManifestError(f"{name}:1:1: file is larger than {FILE_LIMIT // 2**20} MiB, which is more than is read")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        column = error.start - (octets.rfind(b"\n", 0, error.start) + 1) + 1
        raise ManifestError(f"{name}:{line}:{column}: is no UTF-8 text") from None


def _documents(name: str) -> Iterator[_Document]:
    text = _content(name)
    try:
        pairs = _json(text) if name.endswith(".json") else _yaml(text)
        for raw, node in pairs:
            if raw is None:
                continue
            try:
                for item, path in walk_list(raw):
                    yield _Document(name, item, node, path)
            except ObjectError as error:
                raise ManifestError(f"{_Document(name, raw, node, ()).at(error.path)}: {error}") from None
    except json.JSONDecodeError as error:
        raise ManifestError(f"{name}:{error.lineno}:{error.colno}: is no JSON: {error.msg}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ManifestError(f"{name}:{line}:{column}: is no YAML: {_one_line(error.problem)}") from None
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, 1
        raise ManifestError(f"{name}:{line}:{column}: is no YAML: {_one_line(error.reason)}") from None
    except (ValueError, TypeError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{name}:1:1: is no YAML: {_one_line(str(error))}") from None
    except RecursionError:
        raise ManifestError(f"{name}:1:1: is nested too deeply") from None


def _one_line(text: str | None) -> str:
    return " ".join((text or "cannot be read").split())


def _json(text: str) -> Iterator[tuple[Any, yaml.Node | None]]:
    raw = json.loads(text)
    # Composed only to know positions; JSON is YAML but for tabs between its parts.
    try:
        node = yaml.compose(text.replace("\t", " "), Loader=_Loader)
    except yaml.YAMLError:
        node = None
    yield raw, node


def _refuse_depth(text: str) -> None:
    """Refuse deep nesting: the composer of libyaml's binding recurses without a limit and would end the process."""
    if text.count("[") + text.count("{") <= _DEPTH and not _INDENTED.search(text):
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH:
                mark = cast("yaml.Mark", event.start_mark)
                raise yaml.composer.ComposerError(None, None, "nested too deeply", mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _yaml(text: str) -> Iterator[tuple[Any, yaml.Node | None]]:
    _refuse_depth(text)
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield loader.construct_document(node), node
    finally:
        loader.dispose()


def _position(node: yaml.Node | None, path: Path_) -> tuple[int, int]:
    """Give line and column of a field, or of the innermost part of its path that is there."""
    mark = node.start_mark if node is not None else None
    for part in path:
        inner = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    inner, mark = value, key.start_mark
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inner = node.value[part]
            mark = inner.start_mark
        if inner is None:
            break
        node = inner
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _take(
    document: _Document,
    found: Manifests,
    workloads: dict[tuple[str, Owner], _Document],
    seen: dict[tuple[str, str, str], tuple[str, Any]],
) -> None:
    try:
        raw = read_object(document.raw)
        kind = raw.value["kind"]
        namespace = "" if kind in _CLUSTER_WIDE else namespace_of(raw)
        key = (kind, namespace, name_of(raw))
        earlier = seen.get(key)
        if earlier is not None and not (kind == "Namespace" and earlier[1] == document.raw):
            raw.get("metadata").get("name").fail(f"the same {kind} stands already at {earlier[0]}")
        seen[key] = (document.at(("metadata", "name")), document.raw)
        if earlier is None:
            _sort(kind, raw, document, found, workloads)
    except ObjectError as error:
        raise ManifestError(f"{document.at(error.path)}: {error}") from None


def _sort(
    kind: str,
    raw: Field,
    document: _Document,
    found: Manifests,
    workloads: dict[tuple[str, Owner], _Document],
) -> None:
    if kind in POLICY_KINDS:
        found.policies.append(parse_policy(document.raw))
    elif kind == "Namespace":
        found.namespaces.append(parse_namespace(document.raw))
    elif kind == "Pod":
        found.pods.append(parse_pod(document.raw))
    elif kind == "Node":
        found.nodes.append(parse_node(document.raw))
    elif kind == "Service":
        found.services.append(parse_service(document.raw))
    elif kind == "Ingress":
        found.ingresses.append(document.raw)
    elif kind in WORKLOADS:
        own = (namespace_of(raw), Owner(kind, name_of(raw)))
        workloads[own] = document
        above = controller_of(raw.get("metadata"))
        if above is not None:
            found.owners[own] = above


def _expand(found: Manifests, workloads: dict[tuple[str, Owner], _Document]) -> None:
    """Add the pods of workloads, but for those whose pods, or whose owner, are in the files."""
    owners = {key: above for key, above in found.owners.items() if (key[0], above) in workloads}
    found.owners = owners
    covered: set[tuple[str, Owner]] = set()
    for pod in found.pods:
        owner = pod.owner
        while owner is not None and (pod.namespace, owner) not in covered:
            covered.add((pod.namespace, owner))
            owner = owners.get((pod.namespace, owner))
    names = {(pod.namespace, pod.name) for pod in found.pods}
    for key, document in workloads.items():
        try:
            pods = expand_workload(document.raw)
        except ObjectError as error:
            raise ManifestError(f"{document.at(error.path)}: {error}") from None
        if key in covered or key in owners:
            continue
        for pod in pods:
            own = pod
            if (pod.namespace, pod.name) in names:
                own = Pod(**{**_fields(pod), "name": f"{key[1].kind.lower()}-{pod.name}"})
            names.add((own.namespace, own.name))
            found.pods.append(own)


def _fields(pod: Pod) -> dict[str, Any]:
    return {name: getattr(pod, name) for name in pod.__struct_fields__}
