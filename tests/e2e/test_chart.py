"""The chart gives what the kustomization gives, object by object: rendered by the real helm (scripts/helm)."""

from __future__ import annotations

import yaml

from tests.daemonset.helm import helm
from tests.daemonset.manifests import DAEMONSET, Key, Object, by_key, rendered


def template(*options: str, namespace: str = "kubereach") -> dict[Key, Object]:
    """The chart's objects."""
    chart = str(DAEMONSET / "chart")
    return by_key(helm("template", "kubereach", chart, "-n", namespace, "--kube-version", "1.34.0", *options))


def test_chart_and_kustomization_give_the_same_objects() -> None:
    """All of them but the namespace, which is the release's; every field."""
    wanted = {key: item for key, item in rendered().items() if key[0] != "Namespace"}
    assert template() == wanted


def test_monitoring_is_the_same_too() -> None:
    """Component and option give the same ServiceMonitor and PrometheusRule."""
    component = by_key((DAEMONSET / "monitoring/monitoring.yaml").read_text())
    plain, monitored = template(), template("--set", "monitoring.enabled=true")
    assert {key: item for key, item in monitored.items() if key not in plain} == component


def test_a_given_certificate_takes_the_place_of_the_own_one() -> None:
    """cert-manager's Secret is mounted, and the right to write one is gone with the Secret."""
    objects = template("--set", "tls.existingSecret=theirs", namespace="watch")
    assert "Secret" not in {kind for kind, _, _ in objects}
    assert "secrets" not in yaml.safe_dump(objects["Role", "watch", "kubereach-controller"])
    args = objects["Deployment", "watch", "kubereach-controller"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--tls-cert=/var/run/kubereach/tls/tls.crt", "--namespace=$(NAMESPACE)"} <= set(args)
    assert {namespace for _, namespace, _ in objects} == {"", "watch", "kube-system"}
