"""Rewrites schema.json from Kubernetes' published swagger.json (v2): `… schema_refresh SWAGGER_FILE`.

Run by hand when the API grows. Takes what the kinds of the lab reach, and leaves descriptions out.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lab.embedded.apiserver.kinds import GROUPS, KINDS

EXTRA_KINDS = {("authentication.k8s.io", "TokenRequest"), ("autoscaling", "Scale"), ("", "Binding")}


def condense(swagger: dict[str, Any]) -> dict[str, Any]:
    """The definitions that the kinds of the lab reach, by name."""
    definitions = swagger["definitions"]
    wanted = {(kind.group, kind.name) for kind in KINDS} | EXTRA_KINDS
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


def main() -> None:
    """Write schema.json beside this file: one definition a line, so that differences can be read."""
    found = condense(json.loads(Path(sys.argv[1]).read_text()))
    groups = {
        gvk["group"] for d in found.values() for gvk in d.get("x-kubernetes-group-version-kind", ()) if len(d) > 1
    }
    missing = set(GROUPS) - groups
    if missing:
        raise SystemExit(f"no definitions of {sorted(missing)}")
    lines = (f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}" for name, value in found.items())
    Path(__file__).with_name("schema.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
