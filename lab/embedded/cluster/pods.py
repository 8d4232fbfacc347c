"""The lab's kubelets: every Pod placed on one of the lab's nodes becomes a sandbox with processes, and has a status.

One actor a pod: wire, start, watch, restart what died, say so in the status, and on deletion end everything and let the
API forget the pod. Actors of one lab share nothing but the sandboxes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Final

from lab import netns
from lab.client import Object
from lab.embedded import dns
from lab.embedded.cluster import objects, podspec
from lab.embedded.cluster.probes import Readiness, ask, readiness_of
from lab.embedded.cluster.processes import Process, pod_argv
from lab.embedded.cluster.sandbox import AddressesExhaustedError, Sandbox, Sandboxes
from lab.embedded.cluster.view import View
from lab.spec import MEMBER_VARIABLE, Topology

# Restart delays: quick at first, so that a killed process is back at once, then as a kubelet's, but shorter.
BACKOFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
BACKOFF_RESET_S: Final = 30.0
FIRST_PROBES_EVERY_S: Final = 0.1
LONGEST_GRACE_S: Final = 2.0
WIRE_AGAIN_S: Final = 1.0
STARTS_AT_ONCE: Final = 4

log = logging.getLogger(__name__)


class Container:
    """What is known of one container while its pod runs."""

    def __init__(self, spec: Object, program: podspec.Program, readiness: Readiness, restarts: int) -> None:
        self.spec = spec
        self.program = program
        self.readiness = readiness
        self.restarts = restarts
        self.process: Process | None = None
        self.ready = False
        self.started_at = ""
        self.last: Object = {}
        self.waiting = ("ContainerCreating", "")

    def status(self) -> Object:
        """The entry of status.containerStatuses."""
        running = self.process is not None
        state: Object = {"running": {"startedAt": self.started_at}}
        if not running:
            reason, message = self.waiting
            state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        return {
            "name": self.spec["name"],
            "image": self.spec.get("image") or "",
            "imageID": "",
            "containerID": f"lab://{self.process.pid}" if self.process is not None else "",
            "ready": running and self.ready,
            "started": running,
            "restartCount": self.restarts,
            "state": state,
            "lastState": self.last,
        }


class PodActor:
    """One pod's life."""

    def __init__(self, pods: Pods, pod: Object) -> None:
        self.pod = pod
        self.uid = objects.uid(pod)
        self.box: Sandbox | None = None
        self.containers: list[Container] = []
        self._pods = pods
        self._start_time = objects.now_text()
        self._wake = asyncio.Event()
        self._reported: Object | None = None
        self._going = False
        self.task = asyncio.create_task(self._live(), name=f"pod {objects.name(pod)}")

    def update(self, pod: Object | None) -> None:
        """Tell the actor of the pod's newest object; None if the API has forgotten it."""
        if pod is not None:
            self.pod = pod
        if (pod is None or objects.terminating(pod)) and not self._going:
            self._going = True
            self._wake.set()

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                run = group.create_task(self._run())
                await self._wake.wait()
                run.cancel()
        except* Exception:  # this pod's own misfortune must not end the others
            log.exception("pod %s/%s", objects.namespace(self.pod), objects.name(self.pod))
        await self._wake.wait()
        await self._end()

    async def _run(self) -> None:
        while self.box is None:
            try:
                self.box = await self._pods.sandbox(self.pod)
            except (netns.NetnsError, AddressesExhaustedError, OSError) as error:
                log.warning("pod %s/%s: %s", objects.namespace(self.pod), objects.name(self.pod), error)
                await self._pods.view.event(
                    self.pod,
                    "Warning",
                    "FailedCreatePodSandBox",
                    f"Failed to create pod sandbox: {error}",
                    component="kubelet",
                )
                await self.report()
                await asyncio.sleep(WIRE_AGAIN_S)
        self.containers = self._make_containers(self.box)
        await self.report()
        async with asyncio.TaskGroup() as group:
            for container in self.containers:
                group.create_task(self._keep_running(container))

    def _make_containers(self, box: Sandbox) -> list[Container]:
        node = self._pods.topology.node(box.node)
        values = podspec.field_values(self.pod, box.ips, node.ipv4)
        conf = self._pods.sandboxes.path(self.uid) / "unbound.conf"
        result = []
        for spec in self.pod["spec"]["containers"]:
            program = podspec.program(self.pod, spec, values, conf)
            readiness = readiness_of(spec, program.listens)
            result.append(Container(spec, program, readiness, box.restarts.get(spec["name"], 0)))
        return result

    async def _keep_running(self, container: Container) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            process = await self._start(container)
            if process is not None:
                probing = asyncio.create_task(self._probe(container, process))
                try:
                    await self.report()
                    code = await process.wait()
                finally:
                    probing.cancel()
                self._ended(container, code)
            failures = 0 if loop.time() - started > BACKOFF_RESET_S else failures + 1
            delay = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else 0.0
            if delay:
                container.waiting = ("CrashLoopBackOff", f"back-off {delay:g}s restarting failed container")
            await self.report()
            await asyncio.sleep(delay)

    def _ended(self, container: Container, code: int | None) -> None:
        ended = {
            "exitCode": 255 if code is None else (code if code >= 0 else 128 - code),
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": container.started_at,
            "finishedAt": objects.now_text(),
        }
        container.last = {"terminated": ended}
        container.process = None
        container.ready = False
        container.restarts += 1
        assert self.box is not None
        self.box.processes.pop(container.spec["name"], None)
        self.box.restarts[container.spec["name"]] = container.restarts
        self._pods.sandboxes.save(self.box)

    async def _start(self, container: Container) -> Process | None:
        assert self.box is not None
        name = container.spec["name"]
        kept = self.box.processes.get(name)
        process = Process.adopt(*kept) if kept else None
        if process is None:
            async with self._pods.slots:
                try:
                    process = self._pods.spawn(self.box, self.pod, container.program)
                except OSError as error:
                    container.waiting = ("CreateContainerError", str(error))
                    return None
        container.process = process
        container.started_at = objects.now_text()
        self.box.processes[name] = (process.pid, process.started)
        self._pods.sandboxes.save(self.box)
        return process

    async def _probe(self, container: Container, process: Process) -> None:
        how, failures = container.readiness, 0
        assert self.box is not None
        node = self._pods.topology.node(self.box.node)
        await asyncio.sleep(how.initial_delay_s)
        while True:
            why = await ask(how, node.netns, self.box.ips[0], process.pid, container.program.listens)
            if why is None and not self._pods.dns_ready(self.uid):
                why = "name server has no records yet"
            failures = 0 if why is None else failures + 1
            ready = why is None or (container.ready and failures < how.failure_threshold)
            if ready != container.ready:
                container.ready = ready
                if not ready:
                    message = f"Readiness probe failed: {why}"
                    await self._pods.view.event(self.pod, "Warning", "Unhealthy", message, component="kubelet")
                await self.report()
            if container.ready and how.kind in ("listen", "none"):
                return
            await asyncio.sleep(how.period_s if container.ready else min(how.period_s, FIRST_PROBES_EVERY_S))

    async def report(self) -> None:
        """Write the status if it differs from what was written last."""
        status = self._status()
        if status == self._reported or self._going:
            return
        self._reported = status
        if await self._pods.view.patch("pods", self.pod, {"status": status}, "status") is None:
            self._reported = None

    def _status(self) -> Object:
        assert self.pod is not None
        ready = bool(self.containers) and all(one.ready and one.process for one in self.containers)
        started = any(one.process or one.restarts for one in self.containers)
        node = self._pods.topology.node(self.pod["spec"]["nodeName"])
        unready = [one.spec["name"] for one in self.containers if not (one.ready and one.process)]
        why = {} if ready else {"reason": "ContainersNotReady", "message": f"containers with unready status: {unready}"}
        truths = {
            "PodReadyToStartContainers": (self.box is not None, {}),
            "Initialized": (True, {}),
            "Ready": (ready, why),
            "ContainersReady": (ready, why),
            "PodScheduled": (True, {}),
        }
        conditions = []
        for kind, (true, extra) in truths.items():
            state = "True" if true else "False"
            have = next(
                (one for one in (self._reported or {}).get("conditions", []) if one["type"] == kind),
                objects.condition(self.pod, kind),
            )
            same = have is not None and have["status"] == state
            since = have["lastTransitionTime"] if have is not None and same else objects.now_text()
            conditions.append({"type": kind, "status": state, "lastTransitionTime": since, **extra})
        status: Object = {
            "phase": "Running" if started else "Pending",
            "conditions": conditions,
            "hostIP": node.ipv4,
            "hostIPs": [{"ip": address} for address in node.addresses],
            "startTime": (self.pod.get("status") or {}).get("startTime") or self._start_time,
            "containerStatuses": [one.status() for one in self.containers],
        }
        if self.box is not None:
            status |= {"podIP": self.box.ips[0], "podIPs": [{"ip": address} for address in self.box.ips]}
        return status

    async def _end(self) -> None:
        grace = self.pod["metadata"].get("deletionGracePeriodSeconds")
        grace_s = min(LONGEST_GRACE_S, float(30 if grace is None else grace))
        processes = [one.process for one in self.containers if one.process is not None]
        if self.box is not None and not self.containers:
            kept = [Process.adopt(*entry) for entry in self.box.processes.values()]
            processes = [one for one in kept if one is not None]
        waits = [asyncio.create_task(process.wait()) for process in processes]
        for process in processes:
            process.kill(signal.SIGTERM)
        if waits:
            _, late = await asyncio.wait(waits, timeout=grace_s)
            if late:
                for process in processes:
                    process.kill(signal.SIGKILL)
                await asyncio.wait(late, timeout=LONGEST_GRACE_S)
        if self.box is not None:
            await self._pods.sandboxes.remove(self.box)
        await self._pods.view.delete("pods", self.pod, grace_period_s=0)
        self._pods.forget(self)


class Pods:
    """All actors of one lab."""

    def __init__(self, topology: Topology, view: View, dns_servers: dict[str, dns.Server]) -> None:
        """`dns_servers` is kept up to date by pod uid: who pushes records reads it."""
        self.topology = topology
        self.view = view
        self.sandboxes = Sandboxes(topology)
        self.slots = asyncio.Semaphore(STARTS_AT_ONCE)
        self._actors: dict[str, PodActor] = {}
        self._dns = dns_servers
        self._nodes = {node.name for node in topology.nodes}
        self.on_dns_started: Callable[[], None] = lambda: None

    def reconcile(self) -> None:
        """Give every placed pod an actor, and every actor its newest object."""
        present = {objects.uid(pod): pod for pod in self.view.all("pods")}
        for uid, actor in list(self._actors.items()):
            actor.update(present.get(uid))
        for uid, pod in present.items():
            if uid in self._actors or pod["spec"].get("nodeName") not in self._nodes:
                continue
            if objects.terminating(pod) or objects.pod_active(pod):
                self._actors[uid] = actor = PodActor(self, pod)
                actor.box = self.sandboxes.known.get(uid)
                actor.update(pod)
        self._remove_leftovers(present.keys())

    def _remove_leftovers(self, present: object) -> None:
        for uid, box in list(self.sandboxes.known.items()):
            if uid not in self._actors and uid not in present:  # type: ignore[operator]
                # the pod went while this service was away: an actor of a pod that is no more ends it
                pod: Object = {
                    "kind": "Pod",
                    "metadata": {"name": box.name, "namespace": box.namespace, "uid": uid},
                    "spec": {"nodeName": box.node, "containers": []},
                }
                self._actors[uid] = actor = PodActor(self, pod)
                actor.box = box
                actor.update(None)

    def forget(self, actor: PodActor) -> None:
        """An actor has ended."""
        self._actors.pop(actor.uid, None)
        self._dns.pop(actor.uid, None)

    async def sandbox(self, pod: Object) -> Sandbox:
        """Return the pod's sandbox, made if need be."""
        known = self.sandboxes.known.get(objects.uid(pod))
        if known is not None:
            self._note_dns(pod)
            return known
        async with self.slots:
            box = await self.sandboxes.make(pod)
        self._note_dns(pod)
        return box

    def _note_dns(self, pod: Object) -> None:
        if podspec.is_dns(pod) and objects.uid(pod) not in self._dns:
            directory = self.topology.directory / "dns"
            directory.mkdir(exist_ok=True)
            # a short name: the path of a unix socket holds 107 bytes
            self._dns[objects.uid(pod)] = dns.Server(directory / f"{objects.uid(pod)[:13]}.sock")

    def dns_ready(self, uid: str) -> bool:
        """Return whether the pod is no name server, or one that has all records."""
        server = self._dns.get(uid)
        return server is None or server.synced

    def spawn(self, box: Sandbox, pod: Object, program: podspec.Program) -> Process:
        """Start one container's process; OSError where that fails."""
        server = self._dns.get(box.uid)
        base = self.sandboxes.path(box.uid)
        if server is not None:
            server.forget()
            conf = dns.unbound_conf(self.topology, base, server.control_socket)
            (base / "unbound.conf").write_text(conf)
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "HOSTNAME": pod["spec"].get("hostname") or objects.name(pod),
            "KUBERNETES_SERVICE_HOST": self.topology.api_service4,
            "KUBERNETES_SERVICE_PORT": "443",
            **program.environment,
            MEMBER_VARIABLE: self.topology.name,
        }
        argv = pod_argv(box.netns, base / "etc/resolv.conf", base / "etc/hosts", program.argv)
        process = Process.start(argv, environment, base / f"{program.container}.log")
        if server is not None:
            self.on_dns_started()
        return process
