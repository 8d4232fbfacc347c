"""The mutable side of the cluster state: raw events go in, immutable snapshots come out. No input or output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from controller.cluster import parse
from controller.cluster.parse import Raw
from controller.cluster.pools import POOLS
from controller.cluster.state import ClusterState, Pod, Pool

Parser = Callable[[Raw], Any]

COREFILE = "kube-system/coredns"
_POLICY = "/apis/policy.networking.k8s.io"


def _admin(kind: str) -> Parser:
    return partial(parse.keep_admin_policy, kind)


# Kind → collection path of the API, parser. Everything that the controller watches.
RESOURCES: dict[str, tuple[str, Parser]] = {
    "Node": ("/api/v1/nodes", parse.parse_node),
    "Pod": ("/api/v1/pods", parse.parse_pod),
    "Namespace": ("/api/v1/namespaces", parse.parse_namespace),
    "Service": ("/api/v1/services", parse.parse_service),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1/endpointslices", parse.parse_slice),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1/networkpolicies", parse.keep_policy),
    "AdminNetworkPolicy": (f"{_POLICY}/v1alpha1/adminnetworkpolicies", _admin("AdminNetworkPolicy")),
    "BaselineAdminNetworkPolicy": (
        f"{_POLICY}/v1alpha1/baselineadminnetworkpolicies",
        _admin("BaselineAdminNetworkPolicy"),
    ),
    "ClusterNetworkPolicy": (f"{_POLICY}/v1alpha2/clusternetworkpolicies", _admin("ClusterNetworkPolicy")),
    "Deployment": ("/apis/apps/v1/deployments", partial(parse.parse_workload, "Deployment")),
    "DaemonSet": ("/apis/apps/v1/daemonsets", partial(parse.parse_workload, "DaemonSet")),
    "StatefulSet": ("/apis/apps/v1/statefulsets", partial(parse.parse_workload, "StatefulSet")),
    "ConfigMap": (
        # By name, so that the right to read this one is all that is needed.
        "/api/v1/namespaces/kube-system/configmaps?fieldSelector=metadata.name%3Dcoredns",
        lambda raw: (raw.get("data") or {}).get("Corefile"),
    ),
    **POOLS,
}
WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")
ADMIN_POLICIES = ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy")
# Kinds that a cluster has only in newer versions, or once somebody installed their definition: that the API does not
# know them is no error.
OPTIONAL = frozenset({*ADMIN_POLICIES, *POOLS})
# No verdict hangs on these: where a role from before them forbids to read them, all else goes on without.
SPARED = frozenset(POOLS)
PARSE_ERRORS = (TypeError, ValueError, AttributeError, KeyError)


class ClusterStore:
    """Everything last heard of the cluster. It survives an outage of the API, marked as stale."""

    def __init__(self, pools: tuple[Pool, ...] = ()) -> None:
        """Nothing is known yet but `pools`, which somebody told us."""
        self._told = {f"{pool.kind}/{pool.name}": pool for pool in pools}
        self._objects: dict[str, dict[str, Any]] = {kind: {} for kind in RESOURCES}
        self._listed: set[str] = set()
        self._revision = 0
        self._snapshot = ClusterState()
        self.stale_since: float | None = None
        self.unreadable = 0
        """Objects left out since they could not be understood."""

    def replace(self, kind: str, items: Iterable[Raw]) -> bool:
        """A whole list: what is not in it is gone. True if anything changed."""
        known = self._objects[kind]
        found: dict[str, Any] = {}
        for raw in items:
            entry = self._read(kind, raw)
            if entry is not None:
                found[entry[0]] = entry[1]
        changed = found != known or kind not in self._listed
        self._objects[kind] = found
        self._listed.add(kind)
        self._revision += changed
        return changed

    def put(self, kind: str, raw: Raw) -> bool:
        """An object that was added or changed. False if it says nothing new to us (a heartbeat, say)."""
        entry = self._read(kind, raw)
        if entry is None or self._objects[kind].get(entry[0]) == entry[1]:
            return False
        self._objects[kind][entry[0]] = entry[1]
        self._revision += 1
        return True

    def remove(self, kind: str, raw: Raw) -> bool:
        """An object that is gone."""
        gone = self._objects[kind].pop(_key(kind, raw), None) is not None
        self._revision += gone
        return gone

    def set_stale(self, since: float | None) -> bool:
        """Notes since when the API does not answer (None: it does)."""
        changed = (since is None) != (self.stale_since is None)
        if changed:
            self.stale_since = since
            self._revision += 1
        return changed

    @property
    def synced(self) -> bool:
        """Whether every kind was listed at least once."""
        return len(self._listed) == len(RESOURCES)

    def missing(self) -> tuple[str, ...]:
        """The kinds that were never listed."""
        return tuple(kind for kind in RESOURCES if kind not in self._listed)

    def snapshot(self) -> ClusterState:
        """The state now; the same object as long as nothing changed."""
        if self._snapshot.revision != self._revision:
            objects = self._objects
            self._snapshot = ClusterState(
                revision=self._revision,
                synced=self.synced,
                stale_since=self.stale_since,
                nodes=dict(objects["Node"]),
                pods=dict(objects["Pod"]),
                namespaces=dict(objects["Namespace"]),
                services=dict(objects["Service"]),
                slices=dict(objects["EndpointSlice"]),
                policies=objects["NetworkPolicy"] | self._admin_policies(),
                workloads={w.key: w for kind in WORKLOADS for w in objects[kind].values()},
                pools=self._pools(),
                corefile=objects["ConfigMap"].get(COREFILE),
            )
        return self._snapshot

    def _pools(self) -> dict[str, Pool]:
        """Those of the API; what was told beside it only where the API says nothing of that sort."""
        found = {f"{kind}/{name}": pool for kind in POOLS for name, pool in self._objects[kind].items()}
        gives = {pool.gives for pool in found.values()}
        return found | {key: pool for key, pool in self._told.items() if pool.gives not in gives}

    def _admin_policies(self) -> dict[str, Raw]:
        return {f"{kind}/{name}": raw for kind in ADMIN_POLICIES for name, raw in self._objects[kind].items()}

    def _read(self, kind: str, raw: Raw) -> tuple[str, Any] | None:
        try:
            key, value = _key(kind, raw), RESOURCES[kind][1](raw)
        except PARSE_ERRORS:
            self.unreadable += 1
            return None
        if kind == "Pod":
            value = self._remember(key, value)
        return key, value

    def _remember(self, uid: str, pod: Pod) -> Pod:
        """A pod that was seen ready once stays `was_ready`, whatever its status tells of its past."""
        known = self._objects["Pod"].get(uid)
        if known is None or not known.was_ready or pod.was_ready:
            return pod
        return msgspec.structs.replace(pod, was_ready=True)


def _key(kind: str, raw: Raw) -> str:
    return str(raw["metadata"]["uid"]) if kind == "Pod" else parse.key_of(raw)
