"""Files → Kubernetes objects as they stand there, each with its place, so that every error can name file and position.

Reads YAML and JSON, also several documents in a file; knows nothing of what objects mean. A file of more than 32 MiB is
refused before it is parsed, as is what would take its reader's time or memory: deep nesting, merges without end.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml

from controller.policy import ObjectError
from controller.policy.parse import walk_list

FILE_LIMIT = 32 * 1024 * 1024
_SUFFIXES = {".yaml", ".yml", ".json"}
_DEPTH = 500
_MERGED = 10_000
_INDENTED = re.compile(rf"^[ \-?:]{{{_DEPTH}}}", re.MULTILINE)
_NOT_OBJECTS = {"kustomization.yaml", "kustomization.yml"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Place = tuple[str | int, ...]


class ManifestError(ValueError):
    """Input that cannot be taken; the message is one line with file and position."""


class _Loader(_BASE):  # type: ignore[misc]
    """The safe loader, which moreover refuses a key that stands twice in a mapping, and merges that grow and grow."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _refuse_twice(node)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MERGED:
            raise yaml.constructor.ConstructorError(None, None, f"merges more than {_MERGED} keys", node.start_mark)


def _refuse_twice(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
            seen.add(key.value)


@dataclass(frozen=True, slots=True)
class Document:
    """An object, where it came from, and its YAML nodes for positions."""

    file: str
    raw: Any
    node: yaml.Node | None
    path: Place

    def at(self, path: Place = ()) -> str:
        """Give "FILE:LINE:COLUMN" of a field, or of the innermost part of its path that is there."""
        line, column = _position(self.node, (*self.path, *path))
        return f"{self.file}:{line}:{column}"


def documents(paths: list[str]) -> Iterator[Document]:
    """Give the objects of files, of directories (with what is below them) and of `-`, standard input.

    Raises:
        ManifestError: a file cannot be read, or is no YAML or JSON.

    """
    for name in _files(paths):
        yield from _inside(name)


def _files(paths: list[str]) -> Iterator[str]:
    for text in paths:
        path = Path(text)
        if text != "-" and path.is_dir():
            yield from sorted(
                str(inner)
                for inner in path.rglob("*")
                if inner.suffix in _SUFFIXES and inner.is_file() and inner.name not in _NOT_OBJECTS
            )
        elif text == "-" or path.exists():
            yield text
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
    if octets.startswith(_UTF16):
        raise ManifestError(f"{name}:1:1: is UTF-16 text; save it as UTF-8")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        column = error.start - (octets.rfind(b"\n", 0, error.start) + 1) + 1
        raise ManifestError(f"{name}:{line}:{column}: is no UTF-8 text") from None


def _inside(name: str) -> Iterator[Document]:
    text = _content(name)
    kind = "JSON" if name.endswith(".json") or _is_json(text) else "YAML"
    try:
        for raw, node in _json(text) if kind == "JSON" else _yaml(text):
            if raw is None:
                continue
            try:
                for item, path in walk_list(raw):
                    yield Document(name, item, node, path)
            except ObjectError as error:
                raise ManifestError(f"{Document(name, raw, node, ()).at(error.path)}: {error}") from None
    except json.JSONDecodeError as error:
        raise ManifestError(f"{name}:{error.lineno}:{error.colno}: is no JSON: {error.msg}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        why = f"{_one_line(error.problem)}{_of_template(text, line)}"
        raise ManifestError(f"{name}:{line}:{column}: is no {kind}: {why}") from None
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, 1
        raise ManifestError(f"{name}:{line}:{column}: is no YAML: {_one_line(error.reason)}") from None
    except (ValueError, TypeError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{name}:1:1: is no {kind}: {_one_line(str(error))}") from None
    except RecursionError:
        raise ManifestError(f"{name}:1:1: is nested too deeply") from None


def _one_line(text: str | None) -> str:
    return " ".join((text or "cannot be read").split())


def _of_template(text: str, line: int) -> str:
    near = text.splitlines()[max(0, line - 2) : line]
    return " (a template? Render it first: helm template)" if any("{{" in one for one in near) else ""


def _is_json(text: str) -> bool:
    """Whether a text of unknown form is JSON, which from kubectl comes as one object after the other."""
    decoder, at = json.JSONDecoder(), _blank(text, 0)
    while at < len(text) and text[at] == "{":
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return False
        at = _blank(text, end)
        if at == len(text):
            return True
    return False


def _json(text: str) -> Iterator[tuple[Any, yaml.Node | None]]:
    """Give the values that stand in the text one after the other."""
    decoder = json.JSONDecoder(parse_constant=_no_number)
    start = _blank(text, 0)
    while start < len(text) or not text.strip():
        raw, end = decoder.raw_decode(text, start)
        # Composed only to know positions; JSON is YAML but for tabs between its parts.
        lines = text.count("\n", 0, start)
        ahead = "\n" * lines + " " * (start - text.rfind("\n", 0, start) - 1)
        try:
            node = yaml.compose(ahead + text[start:end].replace("\t", " "), Loader=_Loader)
        except yaml.YAMLError:
            node = None
        _refuse_twice_below(node)
        yield raw, node
        start = _blank(text, end)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no value")


def _blank(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _refuse_twice_below(node: yaml.Node | None) -> None:
    ahead = [node]
    while ahead:
        one = ahead.pop()
        if isinstance(one, yaml.MappingNode):
            _refuse_twice(one)
            ahead += [value for _, value in one.value]
        elif isinstance(one, yaml.SequenceNode):
            ahead += one.value


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


def _position(node: yaml.Node | None, path: Place) -> tuple[int, int]:
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
