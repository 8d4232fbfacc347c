"""What Kubernetes fills in where a manifest is silent. Changes the fresh object that it is given.

Source: the SetDefaults functions of k8s.io/kubernetes/pkg/apis/*/v1/defaults.go.
"""

import base64
from collections.abc import Callable, Mapping

from lab.embedded.apiserver.kinds import Kind, Object


def apply_defaults(kind: Kind, item: Object) -> None:
    """Fill in the defaults of the kind."""
    function = _BY_KIND.get(kind.key)
    if function is not None:
        function(item)


def _fill(target: Object, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if target.get(name) is None:
            target[name] = value


def pod_spec(spec: Object) -> None:
    """Defaults of a pod's spec, which templates share."""
    _fill(
        spec,
        {
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler",
            "securityContext": {},
        },
    )
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        _container(container, host_network=bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or []:
        for source in ("configMap", "secret", "projected", "downwardAPI"):
            if source in volume:
                _fill(volume[source], {"defaultMode": 420})
        if "hostPath" in volume:
            _fill(volume["hostPath"], {"type": ""})


def _container(container: Object, *, host_network: bool) -> None:
    image = container.get("image", "")
    latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
    _fill(
        container,
        {
            "imagePullPolicy": "Always" if latest and "@" not in image else "IfNotPresent",
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "resources": {},
        },
    )
    for port in container.get("ports") or []:
        _fill(port, {"protocol": "TCP"})
        if host_network and port.get("containerPort"):
            _fill(port, {"hostPort": port["containerPort"]})
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name in container:
            _probe(container[name])
    for variable in container.get("env") or []:
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            _fill(reference, {"apiVersion": "v1"})


def _probe(probe: Object) -> None:
    _fill(probe, {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    if "httpGet" in probe:
        _fill(probe["httpGet"], {"path": "/", "scheme": "HTTP"})


def _pod(item: Object) -> None:
    spec = item.setdefault("spec", {})
    pod_spec(spec)
    _fill(spec, {"serviceAccountName": "default", "enableServiceLinks": True, "priority": 0})
    _fill(spec, {"serviceAccount": spec["serviceAccountName"], "preemptionPolicy": "PreemptLowerPriority"})
    tolerations = spec.setdefault("tolerations", [])
    for condition in ("not-ready", "unreachable"):
        key = f"node.kubernetes.io/{condition}"
        if not any(t.get("key") in (key, None) and t.get("effect") in ("NoExecute", None) for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _template(item: Object) -> Object:
    spec: Object = item.setdefault("spec", {})
    pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))
    spec["template"].setdefault("metadata", {})
    return spec


def _deployment(item: Object) -> None:
    spec = _template(item)
    _fill(spec, {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": {}})
    _fill(spec["strategy"], {"type": "RollingUpdate"})
    if spec["strategy"]["type"] == "RollingUpdate":
        _fill(spec["strategy"], {"rollingUpdate": {}})
        _fill(spec["strategy"]["rollingUpdate"], {"maxSurge": "25%", "maxUnavailable": "25%"})


def _daemon_set(item: Object) -> None:
    spec = _template(item)
    _fill(spec, {"revisionHistoryLimit": 10, "updateStrategy": {}})
    _fill(spec["updateStrategy"], {"type": "RollingUpdate"})
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _fill(spec["updateStrategy"], {"rollingUpdate": {}})
        _fill(spec["updateStrategy"]["rollingUpdate"], {"maxSurge": 0, "maxUnavailable": 1})


def _replica_set(item: Object) -> None:
    _fill(_template(item), {"replicas": 1})


def _stateful_set(item: Object) -> None:
    spec = _template(item)
    _fill(
        spec,
        {
            "replicas": 1,
            "revisionHistoryLimit": 10,
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        },
    )


def _job(item: Object) -> None:
    spec = _template(item)
    _fill(spec, {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed"})
    _fill(spec, {"suspend": False})
    labels = {"batch.kubernetes.io/controller-uid": item["metadata"]["uid"]}
    if "selector" not in spec:
        spec["selector"] = {"matchLabels": labels}
        metadata = spec["template"]["metadata"]
        metadata["labels"] = {
            **(metadata.get("labels") or {}),
            **labels,
            "batch.kubernetes.io/job-name": item["metadata"]["name"],
        }


def _cron_job(item: Object) -> None:
    spec = item.setdefault("spec", {})
    _fill(spec, {"concurrencyPolicy": "Allow", "suspend": False})
    _fill(spec, {"successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1})
    job = spec.setdefault("jobTemplate", {}).setdefault("spec", {})
    pod_spec(job.setdefault("template", {}).setdefault("spec", {}))


def _service(item: Object) -> None:
    spec = item.setdefault("spec", {})
    _fill(spec, {"type": "ClusterIP", "sessionAffinity": "None"})
    if spec["sessionAffinity"] == "ClientIP":
        _fill(spec, {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}})
    for port in spec.get("ports") or []:
        _fill(port, {"protocol": "TCP"})
        if port.get("targetPort") in (None, 0, "") and "port" in port:
            port["targetPort"] = port["port"]
    if spec["type"] != "ExternalName":
        _fill(spec, {"internalTrafficPolicy": "Cluster"})
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _fill(spec, {"externalTrafficPolicy": "Cluster"})
    if spec["type"] == "LoadBalancer":
        _fill(spec, {"allocateLoadBalancerNodePorts": True})


def _network_policy(item: Object) -> None:
    spec = item.setdefault("spec", {})
    _fill(spec, {"podSelector": {}})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in (spec.get("ingress") or []) + (spec.get("egress") or []):
        for port in rule.get("ports") or []:
            _fill(port, {"protocol": "TCP"})


def _endpoint_slice(item: Object) -> None:
    _fill(item, {"endpoints": [], "ports": []})
    for port in item["ports"]:
        _fill(port, {"name": "", "protocol": "TCP"})


def _endpoints(item: Object) -> None:
    for subset in item.get("subsets") or []:
        for port in subset.get("ports") or []:
            _fill(port, {"protocol": "TCP"})


def _namespace(item: Object) -> None:
    item["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = item["metadata"]["name"]
    _fill(item.setdefault("spec", {}), {"finalizers": ["kubernetes"]})


def _secret(item: Object) -> None:
    _fill(item, {"type": "Opaque"})
    texts = item.pop("stringData", None)
    if texts:
        data = item.setdefault("data", {})
        data.update({name: base64.b64encode(text.encode()).decode() for name, text in texts.items()})


def _role(item: Object) -> None:
    _fill(item, {"rules": []})


def _role_binding(item: Object) -> None:
    for subject in item.get("subjects") or []:
        if subject.get("kind") in ("User", "Group"):
            _fill(subject, {"apiGroup": "rbac.authorization.k8s.io"})
    if item.get("roleRef"):
        _fill(item["roleRef"], {"apiGroup": "rbac.authorization.k8s.io"})


def _node(item: Object) -> None:
    item.setdefault("spec", {})
    item["metadata"].setdefault("labels", {}).setdefault("kubernetes.io/hostname", item["metadata"]["name"])


_BY_KIND: Mapping[str, Callable[[Object], None]] = {
    "pods": _pod,
    "services": _service,
    "endpoints": _endpoints,
    "namespaces": _namespace,
    "nodes": _node,
    "secrets": _secret,
    "apps/deployments": _deployment,
    "apps/daemonsets": _daemon_set,
    "apps/replicasets": _replica_set,
    "apps/statefulsets": _stateful_set,
    "batch/jobs": _job,
    "batch/cronjobs": _cron_job,
    "discovery.k8s.io/endpointslices": _endpoint_slice,
    "networking.k8s.io/networkpolicies": _network_policy,
    "rbac.authorization.k8s.io/roles": _role,
    "rbac.authorization.k8s.io/clusterroles": _role,
    "rbac.authorization.k8s.io/rolebindings": _role_binding,
    "rbac.authorization.k8s.io/clusterrolebindings": _role_binding,
}
