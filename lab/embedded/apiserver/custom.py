"""Kinds that a cluster serves only while somebody has defined them: the policies of SIG Network.

As in a real cluster, an object of them is refused with 404 until a CustomResourceDefinition is there, and goes with
it. Their fields are kept as they come; what they mean is no business of the API. No other definition is taken, since
nothing here could serve what it defines.
"""

from lab.embedded.apiserver.errors import Problem, unsupported
from lab.embedded.apiserver.kinds import BY_NAME, DEFINITIONS, KINDS, Kind, Object
from lab.embedded.apiserver.store import Store


def is_served(kind: Kind, store: Store) -> bool:
    """Whether requests for the kind are answered now."""
    if not kind.custom:
        return True
    defined = store.get(DEFINITIONS, ("", kind.qualified))
    return defined is not None and kind.version in _versions(defined.item)


def served_kinds(store: Store) -> tuple[Kind, ...]:
    """Every kind that is served now, in the order of the table."""
    return tuple(kind for kind in KINDS if is_served(kind, store))


def definition_problems(item: Object) -> list[Problem]:
    """What is wrong with a definition."""
    name = item["metadata"]["name"]
    kind = BY_NAME.get(name)
    if kind is None:
        return [unsupported("metadata.name", name, tuple(BY_NAME))]
    if kind.version not in _versions(item):
        return [unsupported("spec.versions", ", ".join(_versions(item)), (kind.version,))]
    return []


def defined_kind(item: Object) -> Kind:
    """The kind that a definition stands for."""
    return BY_NAME[item["metadata"]["name"]]


def definition_status(since: str) -> Object:
    """What a definition's status says as soon as it is there: `kubectl wait --for condition=established` returns."""
    conditions = [
        {"type": name, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since}
        for name, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    return {"conditions": conditions}


def _versions(item: Object) -> list[str]:
    spec = item.get("spec")
    versions = spec.get("versions") if isinstance(spec, dict) else None
    listed = versions if isinstance(versions, list) else []
    return [str(entry.get("name")) for entry in listed if isinstance(entry, dict) and entry.get("served")]
