"""Kubernetes manifests from files and directories, for commands that need no cluster.

Every error is one line with file and position. Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cli.documents import Document, ManifestError, documents
from cli.manifest_checks import check_names, check_policy
from controller.policy import (
    POLICY_KINDS,
    Namespace,
    Node,
    ObjectError,
    Pod,
    Policy,
    Service,
    expand_workload,
    parse_namespace,
    parse_node,
    parse_pod,
    parse_policy,
    parse_service,
)
from controller.policy.objects import Owner
from controller.policy.parse import Field, controller_of, name_of, namespace_of, read_object
from controller.policy.workloads import WORKLOADS

_CLUSTER_WIDE = {"Namespace", "Node", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"}
_READ = {*POLICY_KINDS, *WORKLOADS, "Namespace", "Node", "Pod", "Service", "Ingress"}
_NETWORKING, _ADMIN = "networking.k8s.io/v1", "policy.networking.k8s.io"


@dataclass(slots=True)
class Manifests:
    """What the files hold, and the workload of each pod. `notes`: lines for whoever asked, on what was left out."""

    namespaces: list[Namespace] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    ingresses: list[Document] = field(default_factory=list)
    owners: dict[tuple[str, Owner], Owner] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def owner_of(self, pod: Pod) -> Owner:
        """Give the outermost workload of a pod that the files know."""
        owner = pod.owner or Owner("Pod", pod.name)
        for _ in range(4):
            owner = self.owners.get((pod.namespace, owner), owner)
        return owner

    @property
    def service_addresses(self) -> frozenset[str]:
        """Give every address of a Service."""
        return frozenset(address for service in self.services for address in service.addresses)


def read_manifests(paths: list[str]) -> Manifests:
    """Read files, directories (with what is below them) and `-` for standard input.

    Raises:
        ManifestError: a file cannot be read, is no YAML or JSON, or holds what Kubernetes would refuse.

    """
    found = Manifests()
    workloads: dict[tuple[str, Owner], Document] = {}
    seen: dict[tuple[str, ...], tuple[str, Any]] = {}
    for document in documents(paths):
        _take(document, found, workloads, seen)
    if not seen:
        raise ManifestError(f"{', '.join(paths)}: no Kubernetes object found")
    _expand(found, workloads)
    return found


def _take(
    document: Document,
    found: Manifests,
    workloads: dict[tuple[str, Owner], Document],
    seen: dict[tuple[str, ...], tuple[str, Any]],
) -> None:
    try:
        raw = read_object(document.raw)
        kind, group = raw.value["kind"], _group(raw.value["apiVersion"])
        namespace = "" if kind in _CLUSTER_WIDE else namespace_of(raw)
        key = (group, kind, namespace, name_of(raw))
        earlier = seen.get(key)
        if earlier is not None and not (kind == "Namespace" and earlier[1] == document.raw):
            raw.get("metadata").get("name").fail(f"the same {kind} stands already at {earlier[0]}")
        seen[key] = (document.at(("metadata", "name")), document.raw)
        if earlier is None and not _is_foreign(kind, group, document, found):
            if kind in _READ:
                check_names(raw)
            _sort(kind, raw, document, found, workloads)
    except ObjectError as error:
        raise ManifestError(f"{document.at(error.path)}: {error}") from None


def _group(version: str) -> str:
    return version.partition("/")[0] if "/" in version else ""


def _is_foreign(kind: str, group: str, document: Document, found: Manifests) -> bool:
    """Whether the object is of somebody else's API, whatever its kind is called. Of a policy that is worth a note."""
    own = _ADMIN if kind in POLICY_KINDS and kind != "NetworkPolicy" else ""
    foreign = group != own if own else "." in group and not group.endswith(".k8s.io")
    if foreign and kind.endswith("NetworkPolicy"):
        version = document.raw["apiVersion"]
        found.notes.append(f"{document.at()}: {kind} of {version} is not understood, and left out of all answers")
    return foreign


def _sort(
    kind: str,
    raw: Field,
    document: Document,
    found: Manifests,
    workloads: dict[tuple[str, Owner], Document],
) -> None:
    if kind in POLICY_KINDS:
        version = document.raw["apiVersion"]
        if kind == "NetworkPolicy" and version != _NETWORKING:
            raw.get("apiVersion").fail(f"{version} has no NetworkPolicy (any more); write {_NETWORKING}")
        check_policy(raw)
        found.policies.append(parse_policy(document.raw))
    elif kind == "Namespace":
        found.namespaces.append(parse_namespace(document.raw))
    elif kind == "Pod":
        found.pods.append(parse_pod(document.raw))
    elif kind == "Node":
        found.nodes.append(parse_node(document.raw))
    elif kind == "Service":
        found.services.append(parse_service(document.raw))
    elif kind == "Ingress":
        found.ingresses.append(document)
    elif kind in WORKLOADS:
        own = (namespace_of(raw), Owner(kind, name_of(raw)))
        workloads[own] = document
        above = controller_of(raw.get("metadata"))
        if above is not None:
            found.owners[own] = above


def _expand(found: Manifests, workloads: dict[tuple[str, Owner], Document]) -> None:
    """Add the pods of workloads, but for those whose pods, or whose owner, are in the files."""
    owners = {key: above for key, above in found.owners.items() if (key[0], above) in workloads}
    found.owners = owners
    covered: set[tuple[str, Owner]] = set()
    for pod in found.pods:
        owner = pod.owner
        while owner is not None and (pod.namespace, owner) not in covered:
            covered.add((pod.namespace, owner))
            owner = owners.get((pod.namespace, owner))
    names = {(pod.namespace, pod.name) for pod in found.pods}
    for key, document in workloads.items():
        try:
            pods = expand_workload(document.raw)
        except ObjectError as error:
            raise ManifestError(f"{document.at(error.path)}: {error}") from None
        if key in covered or key in owners:
            continue
        for pod in pods:
            own = pod
            if (pod.namespace, pod.name) in names:
                own = Pod(**{**_fields(pod), "name": f"{key[1].kind.lower()}-{pod.name}"})
            names.add((own.namespace, own.name))
            found.pods.append(own)


def _fields(pod: Pod) -> dict[str, Any]:
    return {name: getattr(pod, name) for name in pod.__struct_fields__}
