"""What `kubectl apply` refuses although an evaluator could read over it: misspelled fields, selectors and names.

Only for manifests: what an API server holds went through this, or through that of a later version with more fields.
Source: field validation `Strict`; kubernetes/apimachinery/pkg/util/validation; the definitions of network-policy-api.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from controller.policy.parse import Field

# A mapping of known fields; a list for a list of such; None for what is not looked into.
Fields = Mapping[str, Any]
Shape = Fields | list[Any] | None

_SELECTOR: Fields = {"matchLabels": None, "matchExpressions": [{"key": None, "operator": None, "values": None}]}
_NETWORK_PEER: Fields = {
    "podSelector": _SELECTOR,
    "namespaceSelector": _SELECTOR,
    "ipBlock": {"cidr": None, "except": None},
}
_NETWORK_PORT: Fields = {"protocol": None, "port": None, "endPort": None}
# The selectors of namespaces up to v0.1.1 lie one level deeper, and there are relative ones.
_WRAPPED = {"namespaceSelector": _SELECTOR, "sameLabels": None, "notSameLabels": None}
_SPACES: Fields = {**_SELECTOR, **_WRAPPED}
_PODS: Fields = {"namespaceSelector": _SELECTOR, "podSelector": _SELECTOR, "namespaces": _SPACES}
_FROM: Fields = {"namespaces": _SPACES, "pods": _PODS}
_TO: Fields = {**_FROM, "nodes": _SELECTOR, "networks": None, "domainNames": None}
_RANGE: Fields = {"start": None, "end": None}
_ADMIN_PORT: Fields = {
    "portNumber": {"protocol": None, "port": None},
    "portRange": {"protocol": None, **_RANGE},
    "namedPort": None,
}
_AT: Fields = {"destinationPort": {"number": None, "range": _RANGE}}
_PROTOCOL: Fields = {"tcp": _AT, "udp": _AT, "sctp": _AT, "destinationNamedPort": None}


def _admin(filters: Fields, **more: Shape) -> Fields:
    rule = {"name": None, "action": None, **filters}
    ingress, egress = {**rule, "from": [_FROM]}, {**rule, "to": [_TO]}
    return {"subject": {"namespaces": _SELECTOR, "pods": _PODS}, "ingress": [ingress], "egress": [egress], **more}


_SPECS: dict[str, Fields] = {
    "NetworkPolicy": {
        "podSelector": _SELECTOR,
        "policyTypes": None,
        "ingress": [{"from": [_NETWORK_PEER], "ports": [_NETWORK_PORT]}],
        "egress": [{"to": [_NETWORK_PEER], "ports": [_NETWORK_PORT]}],
    },
    "AdminNetworkPolicy": _admin({"ports": [_ADMIN_PORT]}, priority=None),
    "BaselineAdminNetworkPolicy": _admin({"ports": [_ADMIN_PORT]}),
    "ClusterNetworkPolicy": _admin({"protocols": [_PROTOCOL]}, priority=None, tier=None),
}
# Wider than a DNS subdomain, which the API wants for most kinds: manifests that circulate have '_'.
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.:]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_LENGTH, _PREFIX_LENGTH = 63, 253


def check_names(raw: Field) -> None:
    """Refuse a name or a namespace that no API server would take.

    Raises:
        ObjectError: at the field.

    """
    metadata = raw.get("metadata")
    for field, what in ((metadata.get("name"), "name"), (metadata.get("namespace"), "namespace")):
        text = field.text()
        if text and (not _NAME.fullmatch(text) or (what == "namespace" and "." in text)):
            field.fail(f"{text!r} is no {what}: letters, digits and '-', a letter or digit at both ends")


def check_policy(raw: Field) -> None:
    """Refuse what the API server would refuse in a policy, beyond what its reader does.

    Raises:
        ObjectError: at the field.

    """
    shape = _SPECS[raw.value["kind"]]
    _check_shape(raw, {"apiVersion": None, "kind": None, "metadata": None, "status": None, "spec": shape})


def _check_shape(field: Field, shape: Shape) -> None:
    if isinstance(shape, list):
        for item in field.items():
            _check_shape(item, shape[0])
    elif shape is not None:
        for name in field.mapping():
            if name not in shape:
                near = get_close_matches(str(name), shape, 1)
                field.get(name).fail(f"unknown field{f'; did you mean {near[0]}?' if near else ''}")
            _check_shape(field.get(name), shape[name])
        if shape is _SELECTOR:
            _check_selector(field)


def _check_selector(field: Field) -> None:
    _check_labels(field.get("matchLabels"))
    for item in field.get("matchExpressions").items():
        _check_key(item.get("key"), item.get("key").text())
        for value in item.get("values").items():
            _check_value(value)


def _check_labels(field: Field) -> None:
    for key in field.mapping():
        _check_key(field.get(key), str(key))
        _check_value(field.get(key))


def _check_key(field: Field, key: str) -> None:
    prefix, _, name = key.rpartition("/")
    if key and (not _LABEL_KEY.fullmatch(key) or len(name) > _LABEL_LENGTH or len(prefix) > _PREFIX_LENGTH):
        field.fail(f"{key!r} is no key of a label")


def _check_value(field: Field) -> None:
    text = field.text()
    if len(text) > _LABEL_LENGTH or not _LABEL_VALUE.fullmatch(text):
        field.fail(f"{text[:70]!r} is no value of a label: at most {_LABEL_LENGTH} letters, digits, '-', '_' and '.'")
