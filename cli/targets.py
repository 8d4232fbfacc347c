"""Targets as people write them: read here, so that a mistake is named before anything is sent.

It must not ask the cluster: whether a well-formed name exists is the controller's to say. Standard library alone.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

FORMS = "node/NAME, pod/NAMESPACE/NAME (or NAMESPACE/NAME), svc/NAMESPACE/NAME[:PORT], IP[:PORT], dns/NAME or a URL"
PROTOCOLS = ("tcp", "udp", "sctp", "icmp", "http", "dns")

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NAMESPACE = re.compile(_LABEL)
_DNS_NAME = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_]([-A-Za-z0-9_]{0,62})(\.[A-Za-z0-9_][-A-Za-z0-9_]{0,62})*\.?")
_SERVICE_PORT = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_PREFIXES = {"nodes": "node", "pods": "pod", "service": "svc", "services": "svc", "no": "node", "po": "pod"}


class TargetError(ValueError):
    """A target that cannot be read; the text is one line that names the input and the way out."""


class TargetKind(StrEnum):
    """What a target is."""

    NODE = "node"
    POD = "pod"
    SERVICE = "svc"
    ADDRESS = "address"
    NAME = "dns"
    URL = "url"


@dataclass(frozen=True, slots=True)
class Target:
    """A target that is well-formed. `text` is the one spelling that the controller's API takes.

    `port` is 0 where none was written, or where a Service's port was written by its name.
    """

    kind: TargetKind
    text: str
    port: int = 0
    family: int = 0


def parse_port(text: str, within: str = "") -> int:
    """A port number. Raises TargetError naming `within`, the whole input that it stands in."""
    place = f" in '{within}'" if within else ""
    if not (text.isascii() and text.isdigit()):
        raise TargetError(f"'{text}'{place} is no port; write a number from 1 to 65535")
    number = int(text)
    if not 1 <= number <= 65535:
        raise TargetError(f"port {text}{place} is out of range; ports go from 1 to 65535")
    return number


def parse_target(text: str) -> Target:
    """A or B of `kubereach probe A B`. Raises TargetError."""
    text = text.strip()
    if not text:
        raise TargetError(f"an empty target; write {FORMS}")
    if "://" in text:
        return _url(text)
    if "/" in text and not text.startswith("["):
        return _named(text)
    return _address(text)


def parse_source(text: str) -> Target:
    """A: where a probe can start, which is a node or a pod. Raises TargetError."""
    target = parse_target(text)
    if target.kind not in (TargetKind.NODE, TargetKind.POD):
        raise TargetError(f"a probe cannot start from '{text}'; name a node (node/NAME) or a pod (pod/NAMESPACE/NAME)")
    return target


def _url(text: str) -> Target:
    try:
        parts = urlsplit(text)
        port = parts.port or 0
    except ValueError as error:
        raise TargetError(f"'{text}' is no URL ({error}); write for example https://example.org:8443/path") from None
    if parts.scheme not in ("http", "https"):
        raise TargetError(f"'{text}' has scheme '{parts.scheme}'; http:// and https:// can be probed")
    if not parts.hostname or re.search(r"\s", text):
        raise TargetError(f"'{text}' names no host; write for example https://example.org:8443/path")
    if parts.netloc.endswith(":0"):
        parse_port("0", text)
    return Target(TargetKind.URL, text, port)


def _named(text: str) -> Target:
    first, _, rest = text.partition("/")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        pass
    else:
        raise TargetError(f"'{text}' is a range; name one address, for example {network.network_address + 1}")
    kind = _PREFIXES.get(first, first) if "/" in rest else first
    if first == "service" or (first in ("nodes", "no") and "/" not in rest):
        kind = _PREFIXES[first]
    match kind:
        case "node":
            return Target(TargetKind.NODE, f"node/{_name(rest, 'node name', text, 'node/NAME')}")
        case "pod":
            return _pod(rest, text)
        case "svc":
            return _service(rest, text)
        case "dns":
            if not _DNS_NAME.fullmatch(rest):
                raise TargetError(f"'{rest}' in '{text}' is no DNS name; write for example dns/kubernetes.default.svc")
            return Target(TargetKind.NAME, text)
        case _ if rest.count("/") == 0 and rest:
            return _pod(text, text)
        case _:
            raise TargetError(f"'{text}' is no target; write {FORMS}")


def _pod(rest: str, text: str) -> Target:
    namespace, name = _namespaced(rest, text, "pod/NAMESPACE/NAME")
    if ":" in name:
        raise TargetError(f"'{text}' has a port in a pod's name; write pod/{namespace}/{name.split(':')[0]} and --port")
    return Target(TargetKind.POD, f"pod/{namespace}/{_name(name, 'pod name', text, 'pod/NAMESPACE/NAME')}")


def _service(rest: str, text: str) -> Target:
    form = "svc/NAMESPACE/NAME[:PORT]"
    namespace, name = _namespaced(rest, text, form)
    name, colon, port = name.partition(":")
    _name(name, "Service name", text, form)
    if not colon:
        return Target(TargetKind.SERVICE, f"svc/{namespace}/{name}")
    if port.isdigit() or not _SERVICE_PORT.fullmatch(port):
        return Target(TargetKind.SERVICE, f"svc/{namespace}/{name}:{port}", parse_port(port, text))
    return Target(TargetKind.SERVICE, f"svc/{namespace}/{name}:{port}")


def _namespaced(rest: str, text: str, form: str) -> tuple[str, str]:
    namespace, slash, name = rest.partition("/")
    if not slash or not name or "/" in name:
        raise TargetError(f"'{text}' wants a namespace and a name; write {form}")
    if not _NAMESPACE.fullmatch(namespace):
        raise TargetError(f"'{namespace}' in '{text}' is no namespace (small letters, digits, '-'); write {form}")
    return namespace, name


def _name(name: str, what: str, text: str, form: str) -> str:
    if not _SUBDOMAIN.fullmatch(name):
        raise TargetError(f"'{name}' in '{text}' is no {what} (small letters, digits, '-', '.'); write {form}")
    return name


def _address(text: str) -> Target:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise TargetError(f"'{text}' is no address; write an IPv6 address with a port as [fd00::1]:8443")
        port = tail[1:]
        if tail == ":":
            raise TargetError(f"'{text}' ends before its port; write for example [{host}]:8443")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise TargetError(_not_an_address(text, host)) from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise TargetError(f"'{text}' has a zone; link-local addresses cannot be probed, name a global one")
    number = parse_port(port, text) if port or (":" in text and text.count(":") == 1) else 0
    shown = f"[{address}]" if address.version == 6 and number else str(address)
    return Target(TargetKind.ADDRESS, f"{shown}:{number}" if number else shown, number, address.version)


def _not_an_address(text: str, host: str) -> str:
    if re.fullmatch(r"[\d.]+", host):
        return f"'{text}' is a malformed IPv4 address; write four numbers from 0 to 255, for example 10.96.0.10:53"
    if host.count(":") > 1 or text.startswith("["):
        return f"'{text}' is a malformed IPv6 address; write for example fd96::a or [fd96::a]:53"
    if _SUBDOMAIN.fullmatch(host):
        return (
            f"'{text}' is no target by itself; write node/{host}, pod/NAMESPACE/{host}, dns/{host} or https://{host}/"
        )
    return f"'{text}' is no target; write {FORMS}"
