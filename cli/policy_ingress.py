"""What an ingress controller may reach by the Ingress objects of manifests.

Manifests seldom say where the controller runs, so it counts as a pod without labels in a namespace of its own: what
it reaches, any pod of the cluster reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cli.documents import ManifestError
from cli.manifests import Manifests
from controller.policy import ObjectError, Pod, PodRef, PolicyModel, Service, resolve_service
from controller.policy.objects import ServicePort
from controller.policy.parse import Field, namespace_of, read_object

_NAMESPACE = "ingress-controller.invalid"  # no namespace of a cluster may hold a dot


def ingress_rows(manifests: Manifests, model: PolicyModel) -> list[dict[str, Any]]:
    """Give the rows of the contract, with `{"kind": "IngressController"}` for source.

    Raises:
        ManifestError: an Ingress is not as Kubernetes takes it.

    """
    if not manifests.ingresses:
        return []
    controller = Pod(_NAMESPACE, "controller")
    asked = model.replace(pods=[*manifests.pods, controller])
    found: dict[tuple[str, str, int], list[str]] = {}
    services = {(service.namespace, service.name): service for service in manifests.services}
    for document in manifests.ingresses:
        try:
            wanted = list(_backends(document.raw, services))
        except ObjectError as error:
            raise ManifestError(f"{document.at(error.path)}: {error}") from None
        for label, service, entry in wanted:
            for backend in resolve_service(service, manifests.pods, entry.port):
                key = (backend.namespace, backend.name, backend.port)
                answer = asked.decide(PodRef(_NAMESPACE, "controller"), PodRef(*key[:2]), "TCP", backend.port)
                if answer.allowed:
                    reasons = found.setdefault(key, [])
                    reasons.extend(text for text in (label, *answer.because) if text not in reasons)
    return [
        {
            "source": {"kind": "IngressController"},
            "destination": {"kind": "Pod", "namespace": namespace, "name": name},
            "protocol": "TCP",
            "ports": [[port, port]],
            "because": reasons,
        }
        for (namespace, name, port), reasons in sorted(found.items())
    ]


def _backends(
    raw: Mapping[str, Any], services: Mapping[tuple[str, str], Service]
) -> Iterator[tuple[str, Service, ServicePort]]:
    field = read_object(raw)
    namespace, spec = namespace_of(field), field.get("spec")
    entries = [spec.get("defaultBackend")]
    for rule in spec.get("rules").items():
        entries += [path.get("backend") for path in rule.get("http").get("paths").items()]
    for entry in entries:
        target = entry.get("service")
        service = services.get((namespace, target.get("name").text()))
        if service is None:
            continue
        for port in service.ports:
            if port.protocol == "TCP" and _meant(target.get("port"), port):
                yield f"Ingress {namespace}/{raw['metadata']['name']}", service, port


def _meant(written: Field, port: ServicePort) -> bool:
    return written.get("number").value == port.port or (bool(port.name) and written.get("name").value == port.name)
