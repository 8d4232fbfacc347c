"""The one table of resource kinds: discovery, paths, storage and printing all follow it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource kind, served in one version. A custom one is served while its CustomResourceDefinition is there."""

    group: str
    name: str
    plural: str
    short: tuple[str, ...] = ()
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    # Kinds that are answered and never kept: reviews.
    stored: bool = True
    version: str = "v1"
    custom: bool = False

    @property
    def api_version(self) -> str:
        """The apiVersion that objects of the kind carry."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """The name in storage and in RBAC: "pods", "apps/deployments"."""
        return f"{self.group}/{self.plural}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """The name in messages: "pods", "deployments.apps"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        """Whether the status is written through a subresource of its own."""
        return "status" in self.subresources


DISCOVERY = "discovery.k8s.io"
NETWORKING = "networking.k8s.io"
RBAC = "rbac.authorization.k8s.io"
AUTHENTICATION = "authentication.k8s.io"
AUTHORIZATION = "authorization.k8s.io"
EVENTS = "events.k8s.io"
EXTENSIONS = "apiextensions.k8s.io"
POLICY = "policy.networking.k8s.io"

_STATUS = ("status",)
_SCALED = ("status", "scale")
_ALL = ("all",)

KINDS: tuple[Kind, ...] = (
    Kind("", "Namespace", "namespaces", ("ns",), False, ("status", "finalize")),
    Kind("", "Node", "nodes", ("no",), False, _STATUS),
    Kind("", "Pod", "pods", ("po",), True, ("status", "binding", "eviction"), _ALL),
    Kind("", "Service", "services", ("svc",), True, _STATUS, _ALL),
    Kind("", "Endpoints", "endpoints", ("ep",)),
    Kind("", "ConfigMap", "configmaps", ("cm",)),
    Kind("", "Secret", "secrets"),
    Kind("", "ServiceAccount", "serviceaccounts", ("sa",), True, ("token",)),
    Kind("", "Event", "events", ("ev",)),
    Kind("apps", "Deployment", "deployments", ("deploy",), True, _SCALED, _ALL),
    Kind("apps", "DaemonSet", "daemonsets", ("ds",), True, _STATUS, _ALL),
    Kind("apps", "ReplicaSet", "replicasets", ("rs",), True, _SCALED, _ALL),
    Kind("apps", "StatefulSet", "statefulsets", ("sts",), True, _SCALED, _ALL),
    Kind("batch", "Job", "jobs", (), True, _STATUS, _ALL),
    Kind("batch", "CronJob", "cronjobs", ("cj",), True, _STATUS, _ALL),
    Kind("coordination.k8s.io", "Lease", "leases"),
    Kind(DISCOVERY, "EndpointSlice", "endpointslices"),
    Kind(EVENTS, "Event", "events", ("ev",)),
    Kind(NETWORKING, "NetworkPolicy", "networkpolicies", ("netpol",)),
    Kind(NETWORKING, "Ingress", "ingresses", ("ing",), True, _STATUS),
    Kind(NETWORKING, "IngressClass", "ingressclasses", (), False),
    Kind(NETWORKING, "ServiceCIDR", "servicecidrs", (), False, _STATUS),
    Kind("policy", "PodDisruptionBudget", "poddisruptionbudgets", ("pdb",), True, _STATUS),
    Kind(RBAC, "Role", "roles"),
    Kind(RBAC, "RoleBinding", "rolebindings"),
    Kind(RBAC, "ClusterRole", "clusterroles", (), False),
    Kind(RBAC, "ClusterRoleBinding", "clusterrolebindings", (), False),
    Kind(EXTENSIONS, "CustomResourceDefinition", "customresourcedefinitions", ("crd", "crds"), False, _STATUS),
    Kind(
        POLICY, "AdminNetworkPolicy", "adminnetworkpolicies", ("anp",), False, _STATUS, version="v1alpha1", custom=True
    ),
    Kind(
        POLICY,
        "BaselineAdminNetworkPolicy",
        "baselineadminnetworkpolicies",
        ("banp",),
        False,
        _STATUS,
        version="v1alpha1",
        custom=True,
    ),
    Kind(
        POLICY,
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        ("cnp",),
        False,
        _STATUS,
        version="v1alpha2",
        custom=True,
    ),
    Kind("crd.projectcalico.org", "IPPool", "ippools", (), False, custom=True),
    Kind("metallb.io", "IPAddressPool", "ipaddresspools", (), True, version="v1beta1", custom=True),
    Kind(AUTHENTICATION, "TokenReview", "tokenreviews", (), False, stored=False),
    Kind(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", (), False, stored=False),
    Kind(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", (), False, stored=False),
    Kind(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", (), True, stored=False),
    Kind(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", (), False, stored=False),
    Kind(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", (), False, stored=False),
)

BY_PATH: Mapping[tuple[str, str], Kind] = {(kind.group, kind.plural): kind for kind in KINDS}
BY_KEY: Mapping[str, Kind] = {kind.key: kind for kind in KINDS}
BY_NAME: Mapping[str, Kind] = {kind.qualified: kind for kind in KINDS if kind.custom}
DEFINITIONS = f"{EXTENSIONS}/customresourcedefinitions"


def storage_key(kind: Kind) -> str:
    """Where objects of the kind lie: events of both groups are the same objects."""
    return "events" if kind.group == EVENTS else kind.key
