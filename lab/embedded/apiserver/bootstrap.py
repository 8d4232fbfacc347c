"""What a new cluster holds before anybody has asked: namespaces, the API's own Service and range, roles."""

from lab.embedded.apiserver.addresses import IPV4_RANGE, IPV6_RANGE
from lab.embedded.apiserver.kinds import BY_KEY, NETWORKING, RBAC, Object
from lab.embedded.apiserver.registry import Registry

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
API_PORT = 6443
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_WORKLOAD_RULES = (
    (
        "",
        ["configmaps", "endpoints", "events", "pods", "pods/status", "services", "services/status", "serviceaccounts"],
    ),
    (
        "apps",
        ["daemonsets", "deployments", "deployments/scale", "replicasets", "replicasets/scale", "statefulsets"],
    ),
    ("batch", ["cronjobs", "jobs"]),
    ("discovery.k8s.io", ["endpointslices"]),
    ("events.k8s.io", ["events"]),
    ("networking.k8s.io", ["ingresses", "networkpolicies"]),
    ("policy", ["poddisruptionbudgets"]),
)


def bootstrap(registry: Registry, advertise: str, families: tuple[str, ...]) -> None:
    """Make what is missing; a store that was used before keeps what it has."""
    for name in NAMESPACES:
        _ensure(registry, "namespaces", "", name, {})
    # One family, as a real API server does it: that of the address that it advertises.
    spec: Object = {
        "type": "ClusterIP",
        "clusterIPs": ["10.96.0.1"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": API_PORT}],
    }
    labels = {"component": "apiserver", "provider": "kubernetes"}
    _ensure(registry, "services", "default", "kubernetes", {"spec": spec}, labels=labels)
    endpoints = {
        "addressType": "IPv6" if ":" in advertise else "IPv4",
        "endpoints": [{"addresses": [advertise], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
    }
    where = "discovery.k8s.io/endpointslices"
    _ensure(registry, where, "default", "kubernetes", endpoints, labels={"kubernetes.io/service-name": "kubernetes"})
    ranges = {"IPv4": str(IPV4_RANGE), "IPv6": str(IPV6_RANGE)}
    cidrs = {"spec": {"cidrs": [ranges[family] for family in families]}}
    _ensure(registry, f"{NETWORKING}/servicecidrs", "", "kubernetes", cidrs)
    for name, rules in _roles().items():
        _ensure(registry, f"{RBAC}/clusterroles", "", name, {"rules": rules})
    for name, role, group in (
        ("cluster-admin", "cluster-admin", "system:masters"),
        ("system:basic-user", "system:basic-user", "system:authenticated"),
        ("system:discovery", "system:discovery", "system:authenticated"),
    ):
        binding = {
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": group}],
        }
        _ensure(registry, f"{RBAC}/clusterrolebindings", "", name, binding)


def _roles() -> dict[str, list[Object]]:
    def rules(verbs: list[str]) -> list[Object]:
        return [{"apiGroups": [g], "resources": r, "verbs": verbs} for g, r in _WORKLOAD_RULES]

    see = [*rules(_READ), {"apiGroups": [""], "resources": ["namespaces"], "verbs": _READ}]
    secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": _READ + _WRITE}
    edit = [*see, *rules(_WRITE), secrets]
    access = {"apiGroups": [RBAC], "resources": ["roles", "rolebindings"], "verbs": _READ + _WRITE}
    reviews: Object = {"verbs": ["create"]}
    own = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]
    paths = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/"]
    return {
        "cluster-admin": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ],
        "view": see,
        "edit": edit,
        "admin": [*edit, access],
        "system:auth-delegator": [
            {**reviews, "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"]},
            {**reviews, "apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"]},
        ],
        "system:basic-user": [
            {**reviews, "apiGroups": ["authorization.k8s.io"], "resources": own},
            {**reviews, "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
        ],
        "system:discovery": [{"nonResourceURLs": paths, "verbs": ["get"]}],
    }


def _ensure(
    registry: Registry,
    resource: str,
    namespace: str,
    name: str,
    body: Object,
    *,
    labels: dict[str, str] | None = None,
) -> None:
    if registry.store.get(resource, (namespace, name)) is None:
        kind = BY_KEY[resource]
        metadata: Object = {"name": name, **({"labels": labels} if labels else {})}
        registry.create(kind, namespace, registry.typed(kind, {**body, "metadata": metadata}))
