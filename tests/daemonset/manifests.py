"""The objects of the installation, rendered by the real kubectl."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DAEMONSET = ROOT / "daemonset"
Object = dict[str, Any]
Key = tuple[str, str, str]


def key(item: Object) -> Key:
    """Kind, namespace ("" for none) and name."""
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def by_key(text: str) -> dict[Key, Object]:
    """The objects of a YAML stream."""
    return {key(item): item for item in yaml.safe_load_all(text) if item}


@cache
def rendered() -> dict[Key, Object]:
    """What `kubectl apply -k daemonset` sends."""
    done = subprocess.run(["kubectl", "kustomize", str(DAEMONSET)], capture_output=True, text=True, check=True)
    return by_key(done.stdout)


def one(kind: str, name: str) -> Object:
    """An object of the namespace, or of none."""
    return next(item for (k, _, n), item in rendered().items() if (k, n) == (kind, name))


def pod_specs() -> dict[str, Object]:
    """The pod templates' specs by component."""
    return {
        item["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: item["spec"]["template"]["spec"]
        for (kind, _, _), item in rendered().items()
        if kind in ("Deployment", "DaemonSet")
    }
