"""One question of `kubereach policy why`: names as people write them → peers → the model's decision."""

from __future__ import annotations

from ipaddress import ip_address

from msgspec import Struct

from cli.manifests import Manifests
from controller.policy import (
    AddressRef,
    Decision,
    NodeRef,
    PeerRef,
    PodRef,
    PolicyModel,
    Service,
    UnknownPeerError,
    resolve_service,
)

LAST_PORT = 65535


class QuestionError(ValueError):
    """A question that cannot be asked; the message is one line."""


class Answer(Struct, frozen=True):
    """A decision for each destination that the question means: one, or the backends of a Service."""

    source: str
    destination: str
    protocol: str
    parts: tuple[tuple[str, int, Decision], ...]

    @property
    def allowed(self) -> bool | None:
        """Whether all parts are allowed; denied if one is."""
        verdicts = {decision.allowed for _, _, decision in self.parts}
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True


class Asked(Struct, frozen=True):
    """The question as it was written. `protocol` is TCP, UDP, SCTP or ICMP."""

    source: str
    destination: str
    protocol: str
    port: int | None
    family: int | None


def ask(model: PolicyModel, manifests: Manifests, asked: Asked) -> Answer:
    """Answer the question.

    Raises:
        QuestionError: a peer is not in the manifests, or the port is missing or out of range.

    """
    protocol = asked.protocol
    first = _peer(asked.source, manifests)
    name, written = _split_port(asked.destination)
    port = written if asked.port is None else asked.port
    if port is not None and not 1 <= port <= LAST_PORT:
        raise QuestionError(f"port {port} is not between 1 and {LAST_PORT}")
    targets: list[tuple[str, PeerRef, int]]
    if name.startswith(("svc/", "service/")):
        service = _service(name, manifests)
        targets = [
            (f"pod/{backend.namespace}/{backend.name}", PodRef(backend.namespace, backend.name), backend.port)
            for backend in resolve_service(service, manifests.pods, port, protocol)
        ]
        if not targets:
            raise QuestionError(_no_backend(service, port, protocol))
    else:
        if port is None and protocol != "ICMP":
            raise QuestionError("which port? Give --port")
        targets = [(name, _peer(name, manifests), port or 0)]
    try:
        parts = tuple(
            (text, number, model.decide(first, peer, protocol, number, asked.family)) for text, peer, number in targets
        )
    except UnknownPeerError as error:
        raise QuestionError(str(error)) from None
    return Answer(asked.source, asked.destination, protocol, parts)


def _no_backend(service: Service, port: int | None, protocol: str) -> str:
    name = f"Service {service.namespace}/{service.name}"
    if port is not None and (port, protocol) not in {(entry.port, entry.protocol) for entry in service.ports}:
        offered = ", ".join(f"{entry.protocol} {entry.port}" for entry in service.ports) or "none"
        return f"{name} has no port {protocol} {port}; its ports: {offered}"
    return f"{name} has no backend in these manifests"


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        inner, _, rest = text[1:].partition("]")
        return inner, _number(rest[1:]) if rest.startswith(":") else None
    if text.count(":") == 1:
        name, _, rest = text.partition(":")
        return name, _number(rest)
    return text, None


def _number(text: str) -> int:
    if not text.isdecimal():
        raise QuestionError(f"{text!r} is no port")
    return int(text)


def _service(text: str, manifests: Manifests) -> Service:
    parts = text.split("/")
    for service in manifests.services:
        if parts[1:] == [service.namespace, service.name]:
            return service
    raise QuestionError(f"{text}: no such Service in these manifests")


def _peer(text: str, manifests: Manifests) -> PeerRef:
    try:
        return AddressRef(str(ip_address(text)))
    except ValueError:
        parts = text.split("/")
    if parts[0] == "node" and len(parts) == 2:
        return NodeRef(parts[1])
    if len(parts) not in {2, 3} or not all(parts):
        raise QuestionError(f"{text!r} is no peer: NS/NAME, KIND/NS/NAME, node/NAME or an address")
    kind, namespace, name = (parts[0].lower(), *parts[1:]) if len(parts) == 3 else ("", *parts)
    inside = [pod for pod in manifests.pods if pod.namespace == namespace]
    if kind in {"", "pod"} and any(pod.name == name for pod in inside):
        return PodRef(namespace, name)
    for pod in inside:
        owner = manifests.owner_of(pod)
        if owner.name == name and kind in {"", owner.kind.lower()}:
            return PodRef(namespace, pod.name)
    raise QuestionError(f"{text}: no such pod or workload in these manifests")
