"""The two faces of an Event: core/v1 is kept, events.k8s.io/v1 is made from it and turned into it."""

from lab.embedded.apiserver.kinds import EVENTS, Kind, Object

# events.k8s.io name → core name; names that both have are the same field.
_RENAMED = {
    "regarding": "involvedObject",
    "note": "message",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
    "reportingController": "reportingComponent",
}
_BACK = {core: new for new, core in _RENAMED.items()}


def to_storage(kind: Kind, item: Object) -> Object:
    """Return the object as it is kept."""
    if kind.name != "Event":
        return item
    if kind.group == EVENTS:
        item = {_RENAMED.get(name, name): value for name, value in item.items()}
        item.update(apiVersion="v1", kind="Event")
    # Strict clients miss what Go always writes.
    item.setdefault("reportingComponent", "")
    item.setdefault("reportingInstance", "")
    item.setdefault("involvedObject", {})
    return item


def from_storage(kind: Kind, item: Object) -> Object:
    """Return the object as the kind shows it."""
    if kind.group != EVENTS:
        return item
    shown = {_BACK.get(name, name): value for name, value in item.items()}
    if not shown.get("eventTime"):
        shown["eventTime"] = item["metadata"]["creationTimestamp"].replace("Z", ".000000Z")
    shown.update(apiVersion=kind.api_version, kind="Event")
    return shown
