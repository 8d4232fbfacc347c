"""Rewrites schema.json and protobuf.json: `… schema_refresh SWAGGER_JSON GENERATED_PROTO…`.

Run by hand when the API grows, with Kubernetes' published swagger.json (v2) and the generated.proto files of
kubernetes/api and kubernetes/apimachinery. Takes what the kinds of the lab reach, and leaves descriptions out.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.embedded.apiserver.kinds import DEFINITIONS, KINDS, Kind

EXTRA_KINDS = {("authentication.k8s.io", "TokenRequest"), ("autoscaling", "Scale"), ("", "Binding")}


def _is_open(kind: Kind) -> bool:
    """Whether the fields of the kind are not looked at, so that no definition is needed."""
    return kind.custom or kind.key == DEFINITIONS


def condense(swagger: dict[str, Any]) -> dict[str, Any]:
    """The definitions that the kinds of the lab reach, by name."""
    definitions = swagger["definitions"]
    wanted = {(kind.group, kind.name) for kind in KINDS if not _is_open(kind)} | EXTRA_KINDS
    kept: dict[str, Any] = {}
    ahead = [
        name
        for name, definition in definitions.items()
        for gvk in definition.get("x-kubernetes-group-version-kind", ())
        if gvk["version"] == "v1" and (gvk["group"], gvk["kind"]) in wanted and name.startswith("io.k8s.api.")
    ]
    while ahead:
        name = ahead.pop()
        if name not in kept:
            kept[name] = _bare(definitions[name])
            ahead += _references(kept[name])
    return dict(sorted(kept.items()))


def _bare(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _bare(value) for key, value in node.items() if not (key == "description" and isinstance(value, str))
        }
    return [_bare(item) for item in node] if isinstance(node, list) else node


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"].rpartition("/")[2]] if isinstance(node.get("$ref"), str) else []
        return own + [name for value in node.values() for name in _references(value)]
    return [name for item in node for name in _references(item)] if isinstance(node, list) else []


_MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(optional|repeated|map<string, ([\w.]+)>)\s+(?:([\w.]+)\s+)?(\w+) = (\d+);", re.MULTILINE)
_ROOTS = ("k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions", "k8s.io.api.policy.v1.Eviction")


def messages(protos: list[str], kept: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The messages behind the definitions: number → "form type name", form one of one, many, map, inline."""
    every: dict[str, dict[str, str]] = {}
    for text in protos:
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
        if package is None:
            raise SystemExit("a file without package is no generated.proto")
        for name, body in _MESSAGE.findall(text):
            full = f"{package[1]}.{name}"
            known = kept.get(full.replace("k8s.io.", "io.k8s.", 1), {}).get("properties")
            every[full] = dict(_fields(body, package[1], known))
    ahead = [name.replace("io.k8s.", "k8s.io.", 1) for name in kept] + list(_ROOTS)
    found: dict[str, dict[str, str]] = {}
    while ahead:
        name = ahead.pop()
        if name in every and name not in found:
            found[name] = every[name]
            ahead += [field.split()[1] for field in found[name].values()]
    return dict(sorted(found.items()))


def _fields(body: str, package: str, known: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    for label, mapped, plain, name, number in _FIELD.findall(body):
        kind = (mapped or plain).removeprefix(".")
        if kind[0].isupper():
            kind = f"{package}.{kind}"
        form = "map" if mapped else "many" if label == "repeated" else "one"
        # Go embeds some structs: what JSON does not know by name lies in the object itself.
        if form == "one" and "." in kind and known is not None and name not in known:
            form = "inline"
        yield number, f"{form} {kind} {name}"


def main() -> None:
    """Write both files beside this one: one definition a line, so that differences can be read."""
    found = condense(json.loads(Path(sys.argv[1]).read_text()))
    groups = {
        gvk["group"] for d in found.values() for gvk in d.get("x-kubernetes-group-version-kind", ()) if len(d) > 1
    }
    missing = {kind.group for kind in KINDS if not _is_open(kind)} - groups
    if missing:
        raise SystemExit(f"no definitions of {sorted(missing)}")
    _write("schema.json", found)
    _write("protobuf.json", messages([Path(path).read_text() for path in sys.argv[2:]], found))


def _write(name: str, found: dict[str, Any]) -> None:
    lines = (f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in found.items())
    Path(__file__).with_name(name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
