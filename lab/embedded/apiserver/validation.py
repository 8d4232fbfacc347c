"""What Kubernetes refuses in an object: 422 with the field named. Pure; runs after `defaults`.

Source: k8s.io/kubernetes/pkg/apis/*/validation. Must not repeat what the schema already says.
"""

import ipaddress
from collections.abc import Callable, Mapping

from lab.embedded.apiserver import names
from lab.embedded.apiserver.custom import definition_problems
from lab.embedded.apiserver.errors import (
    Problem,
    forbidden_field,
    invalid_value,
    required,
    unsupported,
)
from lab.embedded.apiserver.kinds import DEFINITIONS, RBAC, Kind, Object

DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
RESTART_POLICIES = ("Always", "Never", "OnFailure")
SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")


def validate(kind: Kind, item: Object) -> list[Problem]:
    """Tell what is wrong with an object on its own."""
    metadata = item["metadata"]
    problems = names.object_name(kind.name, metadata["name"])
    problems += names.labels("metadata.labels", metadata.get("labels"))
    problems += names.label_keys("metadata.annotations", metadata.get("annotations"))
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                problems.append(required(f"metadata.ownerReferences[{index}].{name}"))
    function = _BY_KIND.get(kind.key)
    return problems + (function(item) if function else [])


def validate_update(kind: Kind, new: Object, old: Object) -> list[Problem]:
    """Tell what an update may not change."""
    problems = []
    if kind.key == "pods":
        problems += _pod_update(new["spec"], old["spec"])
    elif kind.group == "apps" and kind.name != "ReplicaSet":
        if new["spec"].get("selector") != old["spec"].get("selector"):
            problems.append(invalid_value("spec.selector", new["spec"].get("selector"), "field is immutable"))
    elif kind.key == "services":
        before, after = old["spec"].get("clusterIP"), new["spec"].get("clusterIP")
        both = "ExternalName" not in (old["spec"]["type"], new["spec"]["type"])
        if both and before and after != before:
            problems.append(invalid_value("spec.clusterIP", after, "field is immutable"))
    elif kind.group == RBAC and kind.name.endswith("Binding") and new.get("roleRef") != old.get("roleRef"):
        problems.append(invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef"))
    elif kind.key in ("configmaps", "secrets") and old.get("immutable"):
        if any(new.get(name) != old.get(name) for name in ("data", "binaryData", "immutable")):
            problems.append(forbidden_field("data", "field is immutable when `immutable` is set"))
    elif kind.name == "EndpointSlice" and new.get("addressType") != old.get("addressType"):
        problems.append(invalid_value("addressType", new.get("addressType"), "field is immutable"))
    return problems


def _pod_update(new: Object, old: Object) -> list[Problem]:
    def fixed(spec: Object) -> Object:
        free = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "containers")
        rest = {name: value for name, value in spec.items() if name not in (*free, "initContainers")}
        for name in ("containers", "initContainers"):
            rest[name] = [{**c, "image": ""} for c in spec.get(name) or ()]
        return rest

    before, after = fixed(old), fixed(new)
    if "nodeName" not in before:  # placing a pod is no change of it
        after.pop("nodeName", None)
    if before != after:
        detail = (
            "pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds`"
        )
        return [forbidden_field("spec", detail)]
    return []


def pod_spec(spec: Object, at: str) -> list[Problem]:
    """Tell what is wrong with a pod's spec, at a path."""
    problems = []
    if not spec.get("containers"):
        problems.append(required(f"{at}.containers"))
    if spec["dnsPolicy"] not in DNS_POLICIES:
        problems.append(unsupported(f"{at}.dnsPolicy", spec["dnsPolicy"], DNS_POLICIES))
    if spec["restartPolicy"] not in RESTART_POLICIES:
        problems.append(unsupported(f"{at}.restartPolicy", spec["restartPolicy"], RESTART_POLICIES))
    if spec.get("nodeName") and not names.DNS_SUBDOMAIN.fullmatch(spec["nodeName"]):
        problems.append(invalid_value(f"{at}.nodeName", spec["nodeName"], "must be a node's name"))
    problems += names.labels(f"{at}.nodeSelector", spec.get("nodeSelector"))
    seen: set[str] = set()
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or ()):
            problems += _container(container, f"{at}.{group}[{index}]", seen)
    return problems


def _container(container: Object, at: str, seen: set[str]) -> list[Problem]:
    problems = []
    name = container.get("name", "")
    if not name:
        problems.append(required(f"{at}.name"))
    elif name in seen:
        problems.append(Problem(f"{at}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
    else:
        problems += names.dns_label(f"{at}.name", name)
    seen.add(name)
    if not container.get("image"):
        problems.append(required(f"{at}.image"))
    for index, port in enumerate(container.get("ports") or ()):
        where = f"{at}.ports[{index}]"
        problems += names.port_number(f"{where}.containerPort", port.get("containerPort"))
        problems += names.protocol(f"{where}.protocol", port["protocol"])
        if port.get("name"):
            problems += names.port_name(f"{where}.name", port["name"])
        if port.get("hostPort"):
            problems += names.port_number(f"{where}.hostPort", port["hostPort"])
    return problems


def _pod(item: Object) -> list[Problem]:
    return pod_spec(item["spec"], "spec")


def _workload(item: Object) -> list[Problem]:
    spec = item["spec"]
    problems = pod_spec(spec["template"]["spec"], "spec.template.spec")
    if spec["template"]["spec"]["restartPolicy"] != "Always":
        policy = spec["template"]["spec"]["restartPolicy"]
        problems.append(unsupported("spec.template.spec.restartPolicy", policy, ("Always",)))
    problems += names.labels("spec.template.metadata.labels", spec["template"]["metadata"].get("labels"))
    if isinstance(spec.get("replicas"), int) and spec["replicas"] < 0:
        problems.append(invalid_value("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    selector = spec.get("selector")
    if not selector or not any(selector.values()):
        problems.append(required("spec.selector"))
        return problems
    wrong = names.label_selector("spec.selector", selector)
    found = spec["template"]["metadata"].get("labels") or {}
    if not wrong and not _selects(selector, found):
        detail = "`selector` does not match template `labels`"
        wrong = [invalid_value("spec.template.metadata.labels", found, detail)]
    return problems + wrong


def _selects(selector: Object, found: Mapping[str, str]) -> bool:
    if any(found.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or ():
        key, there = term["key"], term["key"] in found
        listed = found.get(key) in (term.get("values") or ())
        if not {"In": listed, "NotIn": not listed, "Exists": there, "DoesNotExist": not there}[term["operator"]]:
            return False
    return True


def _job(item: Object) -> list[Problem]:
    return pod_spec(item["spec"]["template"]["spec"], "spec.template.spec")


def _service(item: Object) -> list[Problem]:
    spec = item["spec"]
    problems = names.labels("spec.selector", spec.get("selector"))
    if spec["type"] not in SERVICE_TYPES:
        return [*problems, unsupported("spec.type", spec["type"], SERVICE_TYPES)]
    if spec["type"] == "ExternalName":
        if not names.DNS_SUBDOMAIN.fullmatch((spec.get("externalName") or "").rstrip(".")):
            problems.append(invalid_value("spec.externalName", spec.get("externalName", ""), "must be a DNS name"))
    elif not spec.get("ports") and spec.get("clusterIP") != "None":
        problems.append(required("spec.ports"))
    if spec["type"] in ("NodePort", "LoadBalancer") and spec.get("clusterIP") == "None":
        detail = f"may not be set to 'None' for {spec['type']} services"
        problems.append(invalid_value("spec.clusterIPs[0]", "None", detail))
    for name, choices in _SERVICE_CHOICES.items():
        if name in spec and spec[name] not in choices:
            problems.append(unsupported(f"spec.{name}", spec[name], choices))
    for index, external in enumerate(spec.get("externalIPs") or ()):
        problems += names.address(f"spec.externalIPs[{index}]", external)
    for index, source in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        problems += names.cidr(f"spec.loadBalancerSourceRanges[{index}]", source)
    return problems + _service_ports(spec)


_SERVICE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "sessionAffinity": ("ClientIP", "None"),
    "internalTrafficPolicy": ("Cluster", "Local"),
    "externalTrafficPolicy": ("Cluster", "Local"),
    "ipFamilyPolicy": ("PreferDualStack", "RequireDualStack", "SingleStack"),
}


def _service_ports(spec: Object) -> list[Problem]:
    problems, seen, named = [], set(), set()
    ports = spec.get("ports") or []
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        name, identity = port.get("name", ""), (port["protocol"], port.get("port"))
        if not name and len(ports) > 1:
            problems.append(required(f"{at}.name"))
        elif name:
            problems += names.dns_label(f"{at}.name", name)
        if (name and name in named) or identity in seen:
            where = f"{at}.name" if name in named else at
            problems.append(Problem(where, "FieldValueDuplicate", f'Duplicate value: "{name or identity}"'))
        named.add(name)
        seen.add(identity)
        problems += names.port_number(f"{at}.port", port.get("port"))
        problems += names.protocol(f"{at}.protocol", port["protocol"])
        problems += names.port_or_name(f"{at}.targetPort", port.get("targetPort"))
        if port.get("nodePort") and spec["type"] in ("ClusterIP", "ExternalName"):
            detail = "may not be used when `type` is 'ClusterIP'"
            problems.append(forbidden_field(f"{at}.nodePort", detail))
    return problems


def _network_policy(item: Object) -> list[Problem]:
    spec = item["spec"]
    problems = names.label_selector("spec.podSelector", spec["podSelector"])
    for index, kind in enumerate(spec["policyTypes"]):
        if kind not in ("Egress", "Ingress"):
            problems.append(unsupported(f"spec.policyTypes[{index}]", kind, ("Egress", "Ingress")))
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for number, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{number}]"
            for index, port in enumerate(rule.get("ports") or ()):
                problems += _policy_port(port, f"{at}.ports[{index}]")
            for index, peer in enumerate(rule.get(side) or ()):
                problems += _policy_peer(peer, f"{at}.{side}[{index}]")
    return problems


def _policy_port(port: Object, at: str) -> list[Problem]:
    problems = names.protocol(f"{at}.protocol", port["protocol"])
    first, last = port.get("port"), port.get("endPort")
    if first is not None:
        problems += names.port_or_name(f"{at}.port", first)
    if last is not None:
        if first is None:
            problems.append(required(f"{at}.port", "must be specified when `endPort` is specified"))
        elif isinstance(first, str):
            problems.append(forbidden_field(f"{at}.endPort", "may not be specified when `port` is a name"))
        elif last < first:
            problems.append(invalid_value(f"{at}.endPort", last, "must be greater than or equal to `port`"))
        elif last > 65535:
            problems += names.port_number(f"{at}.endPort", last)
    return problems


def _policy_peer(peer: Object, at: str) -> list[Problem]:
    block = peer.get("ipBlock")
    problems = []
    for name in ("podSelector", "namespaceSelector"):
        if name in peer:
            problems += names.label_selector(f"{at}.{name}", peer[name])
    if block is None:
        return problems if peer else [required(at, "must specify a peer")]
    if len(peer) > 1:
        problems.append(forbidden_field(at, "may not specify both ipBlock and another peer"))
    wrong = names.cidr(f"{at}.ipBlock.cidr", block.get("cidr", ""))
    if wrong:
        return problems + wrong
    whole = ipaddress.ip_network(block["cidr"], strict=False)
    for index, text in enumerate(block.get("except") or ()):
        where = f"{at}.ipBlock.except[{index}]"
        bad = names.cidr(where, text)
        problems += bad
        if not bad:
            hole = ipaddress.ip_network(text, strict=False)
            inside = hole.version == whole.version and hole.subnet_of(whole)  # type: ignore[arg-type]
            if not inside or hole == whole:
                problems.append(invalid_value(where, text, f"must be a strict subset of `cidr`: {block['cidr']}"))
    return problems


def _endpoint_slice(item: Object) -> list[Problem]:
    kind = item.get("addressType")
    choices = ("FQDN", "IPv4", "IPv6")
    if kind not in choices:
        return [unsupported("addressType", kind, choices) if kind else required("addressType")]
    problems = []
    for number, endpoint in enumerate(item["endpoints"]):
        at = f"endpoints[{number}].addresses"
        if not endpoint.get("addresses"):
            problems.append(required(at, "must contain at least 1 address"))
        for index, text in enumerate(endpoint.get("addresses") or ()):
            bad = names.address(f"{at}[{index}]", text) if kind != "FQDN" else []
            problems += bad
            if kind != "FQDN" and not bad and f"IPv{ipaddress.ip_address(text).version}" != kind:
                problems.append(invalid_value(f"{at}[{index}]", text, f"must be an {kind} address"))
    for index, port in enumerate(item["ports"]):
        problems += names.protocol(f"ports[{index}].protocol", port["protocol"])
    return problems


def _node(item: Object) -> list[Problem]:
    problems = []
    for index, text in enumerate(item["spec"].get("podCIDRs") or ()):
        problems += names.cidr(f"spec.podCIDRs[{index}]", text)
    if item["spec"].get("podCIDR"):
        problems += names.cidr("spec.podCIDR", item["spec"]["podCIDR"])
    effects = ("NoExecute", "NoSchedule", "PreferNoSchedule")
    for index, taint in enumerate(item["spec"].get("taints") or ()):
        if taint.get("effect") not in effects:
            problems.append(unsupported(f"spec.taints[{index}].effect", taint.get("effect"), effects))
    return problems


def _binding(item: Object) -> list[Problem]:
    reference = item.get("roleRef") or {}
    problems = []
    if reference.get("kind") not in ("ClusterRole", "Role"):
        problems.append(unsupported("roleRef.kind", reference.get("kind", ""), ("ClusterRole", "Role")))
    if not reference.get("name"):
        problems.append(required("roleRef.name"))
    return problems


def _ingress(item: Object) -> list[Problem]:
    spec = item.get("spec") or {}
    problems = []
    if not spec.get("rules") and not spec.get("defaultBackend"):
        problems.append(invalid_value("spec", "", "either `defaultBackend` or `rules` must be specified"))
    for number, rule in enumerate(spec.get("rules") or ()):
        for index, path in enumerate((rule.get("http") or {}).get("paths") or ()):
            at = f"spec.rules[{number}].http.paths[{index}]"
            kind = path.get("pathType")
            if kind not in ("Exact", "ImplementationSpecific", "Prefix"):
                problems.append(unsupported(f"{at}.pathType", kind, ("Exact", "ImplementationSpecific", "Prefix")))
            if kind in ("Exact", "Prefix") and not path.get("path", "").startswith("/"):
                problems.append(invalid_value(f"{at}.path", path.get("path", ""), "must be an absolute path"))
    return problems


_BY_KIND: Mapping[str, Callable[[Object], list[Problem]]] = {
    "pods": _pod,
    "nodes": _node,
    "services": _service,
    "apps/deployments": _workload,
    "apps/daemonsets": _workload,
    "apps/replicasets": _workload,
    "apps/statefulsets": _workload,
    "batch/jobs": _job,
    "discovery.k8s.io/endpointslices": _endpoint_slice,
    "networking.k8s.io/networkpolicies": _network_policy,
    "networking.k8s.io/ingresses": _ingress,
    "rbac.authorization.k8s.io/rolebindings": _binding,
    "rbac.authorization.k8s.io/clusterrolebindings": _binding,
    DEFINITIONS: definition_problems,
}
