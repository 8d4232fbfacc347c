"""What names, labels, ports and addresses may look like. Source: k8s.io/apimachinery/pkg/util/validation."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from lab.embedded.apiserver.errors import Problem, invalid_value, required, unsupported

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = re.compile(_LABEL)
DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?!-))*[a-z0-9]|[a-z]")

PROTOCOLS = ("SCTP", "TCP", "UDP")
OPERATORS = ("DoesNotExist", "Exists", "In", "NotIn")


def object_name(kind: str, name: str) -> list[Problem]:
    """Tell what is wrong with the name of an object of a kind."""
    where = "metadata.name"
    if kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        bad = name in (".", "..") or "/" in name or "%" in name
        return [invalid_value(where, name, "may not be '.' or '..', or hold '/' or '%'")] if bad else []
    if kind == "Namespace":
        return dns_label(where, name)
    if kind == "Service":
        if len(name) > 63 or not DNS_1035.fullmatch(name):
            return [invalid_value(where, name, f"a DNS-1035 label must match '{DNS_1035.pattern}'")]
        return []
    if len(name) > 253 or not DNS_SUBDOMAIN.fullmatch(name):
        rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        return [invalid_value(where, name, f"{rule}, and must start and end with an alphanumeric character")]
    return []


def dns_label(where: str, name: str) -> list[Problem]:
    """Tell what is wrong with an RFC 1123 label."""
    if len(name) > 63 or not DNS_LABEL.fullmatch(name):
        rule = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
        return [invalid_value(where, name, f"{rule}, and must start and end with an alphanumeric character")]
    return []


def labels(where: str, values: Mapping[str, str] | None) -> list[Problem]:
    """Tell what is wrong with labels."""
    problems = label_keys(where, values)
    for value in (values or {}).values():
        if value and (len(value) > 63 or not _QUALIFIED.fullmatch(value)):
            detail = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
            problems.append(invalid_value(where, value, detail))
    return problems


def label_keys(where: str, values: Mapping[str, str] | None) -> list[Problem]:
    """Tell what is wrong with the keys of labels or annotations."""
    problems = []
    for key in values or {}:
        prefix, slash, name = key.rpartition("/")
        good = len(name) <= 63 and _QUALIFIED.fullmatch(name)
        if not good or (slash and not (DNS_SUBDOMAIN.fullmatch(prefix.lower()) and len(prefix) <= 253)):
            problems.append(invalid_value(where, key, "name part must be a qualified name"))
    return problems


def label_selector(where: str, selector: Mapping[str, Any] | None) -> list[Problem]:
    """Tell what is wrong with a LabelSelector."""
    selector = selector or {}
    problems = labels(f"{where}.matchLabels", selector.get("matchLabels"))
    for index, term in enumerate(selector.get("matchExpressions") or ()):
        field, operator = f"{where}.matchExpressions[{index}]", term.get("operator", "")
        if operator not in OPERATORS:
            problems.append(invalid_value(f"{field}.operator", operator, "not a valid selector operator"))
        elif operator in ("In", "NotIn") and not term.get("values"):
            detail = "must be specified when `operator` is 'In' or 'NotIn'"
            problems.append(required(f"{field}.values", detail))
        elif operator in ("Exists", "DoesNotExist") and term.get("values"):
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            problems.append(Problem(f"{field}.values", "FieldValueForbidden", f"Forbidden: {detail}"))
        problems += labels(f"{field}.key", {term.get("key", ""): ""})
    return problems


def port_number(where: str, number: object) -> list[Problem]:
    """Tell what is wrong with a port number."""
    if not isinstance(number, int) or not 1 <= number <= 65535:
        return [invalid_value(where, number, "must be between 1 and 65535, inclusive")]
    return []


def port_name(where: str, name: str) -> list[Problem]:
    """Tell what is wrong with the name of a port (IANA_SVC_NAME)."""
    if len(name) > 15:
        return [invalid_value(where, name, "must be no more than 15 characters")]
    if not _PORT_NAME.fullmatch(name):
        detail = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), one letter at least"
        return [invalid_value(where, name, detail)]
    return []


def port_or_name(where: str, value: object) -> list[Problem]:
    """Tell what is wrong with a number or name of a port."""
    return port_name(where, value) if isinstance(value, str) else port_number(where, value)


def protocol(where: str, value: object) -> list[Problem]:
    """Tell what is wrong with a transport protocol."""
    return [] if value in PROTOCOLS else [unsupported(where, value, PROTOCOLS)]


def address(where: str, value: str) -> list[Problem]:
    """Tell what is wrong with an IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return [invalid_value(where, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    return []


def cidr(where: str, value: str) -> list[Problem]:
    """Tell what is wrong with a range of addresses."""
    try:
        ipaddress.ip_network(value, strict=False)
        good = "/" in value
    except ValueError:
        good = False
    if not good:
        detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        return [invalid_value(where, value, detail)]
    return []
