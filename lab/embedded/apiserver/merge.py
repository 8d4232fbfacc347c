"""The ways to patch an object: RFC 6902, RFC 7396, Kubernetes' strategic merge, and a simple server-side apply.

Pure: nothing given is changed, a new value is returned. Merge keys come from the schema.
Raises PatchError for a patch that cannot be applied, which is the client's fault.
"""

import copy
from typing import Any

from lab.embedded.apiserver.schema import Definition, resolve


class PatchError(ValueError):
    """The patch does not fit the object."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902."""
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise PatchError("a JSON patch is a list of operations")
    document = copy.deepcopy(target)
    for operation in operations:
        document = _operate(document, operation)
    return document


def _operate(document: Any, operation: dict[str, Any]) -> Any:
    try:
        action, path = operation["op"], _pointer(operation["path"])
        if action in ("add", "replace", "test"):
            value = operation["value"]
        elif action in ("move", "copy"):
            value = copy.deepcopy(_look_up(document, _pointer(operation["from"])))
        elif action == "remove":
            value = None
        else:
            raise PatchError(f"unknown operation {action!r}")
    except (KeyError, TypeError, AttributeError) as error:
        raise PatchError(f"operation {operation} lacks {error}") from error
    if action == "test":
        if _look_up(document, path) != value:
            raise PatchError(f"testing value {operation['path']} failed")
        return document
    if action == "move":
        document = _change(document, _pointer(operation["from"]), "remove", None)
    return _change(document, path, "add" if action in ("move", "copy") else action, value)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise PatchError(f"path {text!r} does not begin with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _look_up(document: Any, path: list[str]) -> Any:
    for part in path:
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise PatchError(f"path /{'/'.join(path)} does not exist") from error
    return document


def _change(document: Any, path: list[str], action: str, value: Any) -> Any:
    if not path:
        return value
    parent, last = _look_up(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        _change_list(parent, last, action, value)
    elif isinstance(parent, dict):
        if action != "add" and last not in parent:
            raise PatchError(f"path /{'/'.join(path)} does not exist")
        if action == "remove":
            del parent[last]
        else:
            parent[last] = value
    else:
        raise PatchError(f"path /{'/'.join(path)} leads into a scalar")
    return document


def _change_list(parent: list[Any], last: str, action: str, value: Any) -> None:
    if action == "add" and last == "-":
        parent.append(value)
        return
    if not last.isdecimal() or int(last) >= len(parent) + (action == "add"):
        raise PatchError(f"no list index {last!r}")
    if action == "add":
        parent.insert(int(last), value)
    elif action == "remove":
        del parent[int(last)]
    else:
        parent[int(last)] = value


def strategic_merge(definition: Definition, target: Any, patch: Any) -> Any:
    """Kubernetes' own: lists with a merge key are merged by it, and directives say what else to do."""
    if not isinstance(patch, dict):
        raise PatchError("a strategic merge patch is an object")
    return _strategic(definition, target, patch)


def _strategic(node: Definition, target: Any, patch: dict[str, Any]) -> Any:
    definition = resolve(node)
    directive = patch.get("$patch")
    fields = {name: value for name, value in patch.items() if not name.startswith("$")}
    if directive == "delete":
        return {}
    if directive == "replace":
        return fields
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {name: value for name, value in result.items() if name in patch["$retainKeys"]}
    properties, values = definition.get("properties"), definition.get("additionalProperties", {})
    for name, value in fields.items():
        child = values if properties is None else properties.get(name, {})
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = _strategic(child, result.get(name), value)
        elif isinstance(value, list) and "merge" in child.get("x-kubernetes-patch-strategy", "").split(","):
            result[name] = _strategic_list(child, result.get(name) or [], value)
        else:
            result[name] = value
    _list_directives(definition, result, patch)
    return result


def _strategic_list(node: Definition, target: list[Any], patch: list[Any]) -> list[Any]:
    key = node.get("x-kubernetes-patch-merge-key")
    if key is None:
        return [*target, *(value for value in patch if value not in target)]
    if any(not isinstance(item, dict) for item in patch):
        raise PatchError(f"a list merged by {key} holds objects only")
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    result = list(target)
    for item in patch:
        if key not in item:
            raise PatchError(f"map: {item} does not contain declared merge key: {key}")
        at = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [old for old in result if old.get(key) != item[key]]
        elif at is None:
            result.append(_strategic(node["items"], {}, item))
        else:
            result[at] = _strategic(node["items"], result[at], item)
    return result


def _list_directives(definition: Definition, result: dict[str, Any], patch: dict[str, Any]) -> None:
    for directive, values in patch.items():
        action, _, name = directive.partition("/")
        if name not in result or not isinstance(result[name], list):
            continue
        if action == "$deleteFromPrimitiveList":
            result[name] = [value for value in result[name] if value not in values]
        elif action == "$setElementOrder":
            key = (definition.get("properties") or {}).get(name, {}).get("x-kubernetes-patch-merge-key")
            order = [value.get(key) if isinstance(value, dict) else value for value in values]
            result[name] = _ordered(result[name], key, order)


def _ordered(items: list[Any], key: str | None, order: list[Any]) -> list[Any]:
    """The listed ones take the order given; the others stay at their places."""

    def name(item: Any) -> Any:
        return item.get(key) if isinstance(item, dict) and key else item

    listed = iter(sorted((i for i in items if name(i) in order), key=lambda item: order.index(name(item))))
    return [next(listed) if name(item) in order else item for item in items]


def apply_merge(node: Definition, target: Any, config: Any) -> Any:
    """Server-side apply without ownership: what the configuration says is set, the rest stays."""
    definition = resolve(node)
    if isinstance(config, dict):
        if not isinstance(target, dict) or definition.get("x-kubernetes-map-type") == "atomic":
            return config
        properties, values = definition.get("properties"), definition.get("additionalProperties", {})
        result = dict(target)
        for name, value in config.items():
            child = values if properties is None else properties.get(name, {})
            result[name] = apply_merge(child, target.get(name), value)
        return result
    if isinstance(config, list) and isinstance(target, list):
        return _apply_list(node, target, config)
    return config


def _apply_list(node: Definition, target: list[Any], config: list[Any]) -> list[Any]:
    form = node.get("x-kubernetes-list-type")
    if form == "set":
        return [*target, *(value for value in config if value not in target)]
    if form != "map":
        return config
    keys = node["x-kubernetes-list-map-keys"]
    defaults = {"protocol": "TCP"}

    def identity(item: Any) -> tuple[Any, ...]:
        return tuple(item.get(key, defaults.get(key)) for key in keys)

    result = list(target)
    for item in config:
        if not isinstance(item, dict):
            raise PatchError(f"a list keyed by {', '.join(keys)} holds objects only")
        at = next((i for i, old in enumerate(result) if identity(old) == identity(item)), None)
        if at is None:
            result.append(item)
        else:
            result[at] = apply_merge(node["items"], result[at], item)
    return result
