"""The loop of the cluster service: look at everything, write what is missing, until nothing is; wait for a change.

Here is the order of things and the input and output; what to do is decided by the pure modules beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from lab import netns
from lab.client import ApiClient, Object, read_kubeconfig
from lab.embedded import dns
from lab.embedded.cluster import balancers, endpoints, nodes, objects, scheduling, workloads
from lab.embedded.cluster.changes import Change, Create, Delete, Patch
from lab.embedded.cluster.links import keep_uplink
from lab.embedded.cluster.pods import Pods
from lab.embedded.cluster.view import View
from lab.spec import Topology

# Several changes that come together are answered together.
GATHER_S: Final = 0.005
# Even without a change everything is looked at this often: a refused write is tried again.
LOOK_AGAIN_S: Final = 1.0
OWNERS: Final = {
    "Deployment": "apps/deployments",
    "ReplicaSet": "apps/replicasets",
    "DaemonSet": "apps/daemonsets",
    "StatefulSet": "apps/statefulsets",
    "Service": "services",
}
OWNED: Final = ("pods", "apps/replicasets", "discovery/endpointslices")

log = logging.getLogger(__name__)


class ClusterService:
    """Everything that makes objects of one lab's API come true."""

    def __init__(self, topology: Topology, client: ApiClient) -> None:
        """`client` must be open while `run` runs."""
        self._topology = topology
        self._view = View(client)
        self._dns: dict[str, dns.Server] = {}
        self._pods = Pods(topology, self._view, self._dns)
        self._records_due = asyncio.Event()
        self._pods.on_dns_started = self._records_due.set
        self._routes = balancers.Routes(topology)
        self._unschedulable: dict[str, str] = {}

    async def run(self, kubeconfig: str) -> None:
        """Serve until cancelled."""
        access = read_kubeconfig(kubeconfig)
        ca_file = str(self._topology.directory / "pki/ca.crt")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._view.run())
            await self._view.synced()
            await nodes.register(self._topology, self._view)
            for node in self._topology.nodes:
                group.create_task(keep_uplink(self._topology, node))
                group.create_task(nodes.heartbeat(self._topology, node, self._view, ca_file, access.token or ""))
            group.create_task(nodes.watch_leases(self._view))
            group.create_task(self._keep_names())
            group.create_task(self._loop())

    async def _loop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._view.changed.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(GATHER_S)
            self._view.changed.clear()
            self._records_due.set()
            self._pods.reconcile()
            await _all(
                [
                    *self._collect_garbage(),
                    *self._workloads(),
                    *self._schedule(),
                    *self._endpoint_slices(),
                    *self._load_balancers(),
                ]
            )

    def _collect_garbage(self) -> Iterable[Coroutine[Any, Any, object]]:
        present = {objects.uid(item) for kind in OWNERS.values() for item in self._view.all(kind)}
        for kind in OWNED:
            for item in self._view.all(kind):
                for reference in item["metadata"].get("ownerReferences") or []:
                    known = reference.get("controller") and reference.get("kind") in OWNERS
                    if known and reference.get("uid") not in present and not objects.terminating(item):
                        yield self._view.delete(kind, item)

    def _workloads(self) -> Iterable[Coroutine[Any, Any, object]]:
        pods, sets = self._view.all("pods"), self._view.all("apps/replicasets")
        changes: list[Change] = []
        for item in self._view.all("apps/deployments"):
            changes += workloads.deployment(item, sets, pods)
        for item in sets:
            changes += workloads.replica_set(item, pods)
        for item in self._view.all("apps/daemonsets"):
            changes += workloads.daemon_set(item, self._view.all("nodes"), pods)
        for item in self._view.all("apps/statefulsets"):
            changes += workloads.stateful_set(item, pods)
        for change in changes:
            match change:
                case Create(key, body):
                    yield self._view.create(key, body)
                case Delete(key, item):
                    yield self._view.delete(key, item)
                case Patch(key, item, body, sub):
                    yield self._view.patch(key, item, body, sub)

    def _schedule(self) -> Iterable[Coroutine[Any, Any, object]]:
        pods = self._view.all("pods")
        waiting = [pod for pod in pods if not pod["spec"].get("nodeName") and not objects.terminating(pod)]
        self._unschedulable = {
            uid: text for uid, text in self._unschedulable.items() if uid in {objects.uid(pod) for pod in waiting}
        }
        for pod in sorted(waiting, key=lambda one: (objects.namespace(one), objects.name(one))):
            placement = scheduling.place(pod, self._view.all("nodes"), pods)
            if placement.node is not None:
                # seen by the next pod of this round, so that siblings spread
                placed = {**pod, "spec": {**pod["spec"], "nodeName": placement.node}}
                pods = [placed if one is pod else one for one in pods]
                yield self._bind(pod, placement)
            elif self._unschedulable.get(objects.uid(pod)) != placement.message:
                self._unschedulable[objects.uid(pod)] = placement.message
                yield self._refuse(pod, placement.message)

    async def _bind(self, pod: Object, placement: scheduling.Placement) -> None:
        namespace, name = objects.namespace(pod), objects.name(pod)
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": placement.node},
        }
        if await self._view.bind(pod, body):
            await self._view.event(pod, "Normal", "Scheduled", placement.message, component="default-scheduler")

    async def _refuse(self, pod: Object, message: str) -> None:
        now = objects.now_text()
        unscheduled = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": now,
        }
        status = {"phase": "Pending", "conditions": [unscheduled]}
        await self._view.patch("pods", pod, {"status": status}, "status")
        await self._view.event(pod, "Warning", "FailedScheduling", message, component="default-scheduler")

    def _endpoint_slices(self) -> Iterable[Coroutine[Any, Any, object]]:
        zones = {node.name: node.zone for node in self._topology.nodes}
        well = {objects.name(node) for node in self._view.all("nodes") if objects.condition_true(node, "Ready")}
        pods = [_as_seen(pod, well) for pod in self._view.all("pods")]
        have = {
            (objects.namespace(item), objects.name(item)): item
            for item in self._view.all("discovery/endpointslices")
            if objects.labels(item).get(endpoints.MANAGED_LABEL) == endpoints.MANAGED_BY
        }
        for service in self._view.all("services"):
            for want in endpoints.slices_for(service, pods, zones):
                existing = have.pop((objects.namespace(want), objects.name(want)), None)
                if existing is None:
                    yield self._view.create("discovery/endpointslices", want)
                elif not endpoints.same(existing, want):
                    body = {
                        "metadata": {"labels": objects.labels(want)},
                        "endpoints": want["endpoints"],
                        "ports": want["ports"],
                    }
                    yield self._view.patch("discovery/endpointslices", existing, body)
        for item in have.values():
            yield self._view.delete("discovery/endpointslices", item)

    def _load_balancers(self) -> Iterable[Coroutine[Any, Any, object]]:
        services = self._view.all("services")
        for service, address in balancers.assign(services, self._topology.load_balancer_cidr):
            ingress = [{"ip": address, "ipMode": "VIP"}] if address else None
            yield self._view.patch("services", service, {"status": {"loadBalancer": {"ingress": ingress}}}, "status")
        well = {
            node.name: node.ipv4
            for node in self._topology.nodes
            if (item := self._view.get("nodes", "", node.name)) and objects.condition_true(item, "Ready")
        }
        slices = self._view.all("discovery/endpointslices")
        yield self._routes.apply(balancers.next_hops(services, slices, well))

    async def _keep_names(self) -> None:
        """Push records to every replica whenever something changed; a replica that is away is tried again."""
        while True:
            await self._records_due.wait()
            self._records_due.clear()
            records = dns.compute_records(
                self._view.all("services"),
                self._view.all("discovery/endpointslices"),
                self._view.all("pods"),
            )
            late = False
            for server in list(self._dns.values()):
                try:
                    await server.push(records)
                except (OSError, TimeoutError) as error:
                    server.forget()
                    late = True
                    log.info("%s: %s", server.control_socket.name, error or type(error).__name__)
            await asyncio.sleep(0.05)
            if late:
                self._records_due.set()


def _as_seen(pod: Object, well: set[str]) -> Object:
    """Return the pod with Ready=False where its node is lost, as kube-controller-manager marks it."""
    if pod["spec"].get("nodeName") in well or not objects.condition_true(pod, "Ready"):
        return pod
    conditions = [{**one, "status": "False"} if one["type"] == "Ready" else one for one in pod["status"]["conditions"]]
    return {**pod, "status": {**pod["status"], "conditions": conditions}}


async def _all(work: list[Coroutine[Any, Any, object]]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(_guarded(one))


async def _guarded(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except netns.NetnsError as error:
        log.warning("%s", error)
