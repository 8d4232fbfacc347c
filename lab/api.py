"""What the command line asks of labs: bring one up, take it away, say what runs, run a command in it, apply objects.

Every refusal is a LabError whose text is one line for the user. Prints nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from lab import netns
from lab.client import ApiClient, ApiError
from lab.embedded.cluster.processes import BIND_AND_EXEC
from lab.kubernetes import build
from lab.kubernetes.start import load_image as load_node_image
from lab.kubernetes.start import node_mounts
from lab.manifests import Applier, ManifestError, in_order, read_documents
from lab.spec import (
    MEMBER_VARIABLE,
    LabSpec,
    SpecError,
    Topology,
    compute_topology,
    lab_directory,
    lab_names,
    load_topology,
    save_topology,
)
from lab.state import LabState, load_state
from lab.teardown import exists, tear_down

COMMANDS: Final = (
    "ip",
    "bridge",
    "nsenter",
    "unshare",
    "setpriv",
    "setsid",
    "iptables-restore",
    "ip6tables-restore",
    "ipset",
    "nft",
    "unbound",
)
REAL_COMMANDS: Final = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "etcd", "mount")
# What a lab needs of the kernel, tried in a namespace of its own: a name for the message, and lines for `ip -batch`.
KERNEL_FEATURES: Final = (
    ("veth", "link add t0 type veth peer name t1"),
    ("bridge", "link add t2 type bridge"),
    ("vxlan", "link add t3 type vxlan id 1 dstport 8472"),
)
UP_DEADLINE_S: Final = 180.0
# A supervisor that has not written its first state by then did not start.
FIRST_WORD_S: Final = 15.0
LOOK_EVERY_S: Final = 0.1

Progress = Callable[[str], None]


class LabError(RuntimeError):
    """Why it cannot be done, in one line; `code` is the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def check_machine(*, real: bool = False) -> None:
    """Raise LabError where this machine or user cannot carry a lab (`real`: one with a real Kubernetes)."""
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces and must be run as root (try: sudo kubereach lab …)")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [command for command in COMMANDS if shutil.which(command, path=path) is None]
    if missing:
        raise LabError(f"missing on this machine: {', '.join(missing)} (on Debian: make install)")
    missing = [command for command in REAL_COMMANDS if real and shutil.which(command, path=path) is None]
    if missing:
        raise LabError(f"missing for --kubernetes: {', '.join(missing)} (on Debian: scripts/install --kubernetes)")
    probe = f"kubereach-try-{os.getpid()}"
    try:
        netns.create(probe)
        for feature, line in KERNEL_FEATURES:
            if netns.run_sync(probe, ["ip", "-batch", "-"], f"{line}\n", check=False).returncode:
                raise LabError(f"this kernel has no {feature} devices (module {feature}), which a lab needs")
        if netns.run_sync(probe, ["iptables-restore", "--noflush"], "*nat\nCOMMIT\n", check=False).returncode:
            raise LabError("this kernel refuses iptables' nat table (nf_tables, nf_nat), which a lab needs")
    except netns.NetnsError as error:
        raise LabError(str(error)) from None
    finally:
        netns.delete(probe)


def up(
    spec: LabSpec, progress: Progress, *, agents: bool = True, sample: bool = True, endpoints: bool = True
) -> LabState:
    """Build a lab and return once it is up; on failure nothing of it is left. `progress` gets what is being done.

    Without `endpoints` there is none of kubereach's own objects in it either: the manifests bring them.
    """
    try:
        plan = compute_topology(spec)
    except SpecError as error:
        raise LabError(str(error)) from None
    check_machine(real=spec.real)
    if spec.real:
        try:
            build.ensure(progress)
        except build.BuildError as error:
            raise LabError(str(error)) from None
    try:
        lab_directory(spec.name).mkdir(parents=True)
    except FileExistsError:
        raise LabError(
            f"a lab called {spec.name!r} exists already (kubereach lab down --name {spec.name}, or another --name)"
        ) from None
    save_topology(plan)
    _start_supervisor(plan, {"agents": agents and endpoints, "sample": sample, "endpoints": endpoints})
    try:
        return _wait_until_up(spec.name, progress)
    except BaseException:
        tear_down(spec.name)
        raise


def _start_supervisor(plan: Topology, parts: dict[str, bool]) -> None:
    # orphaned at once: it outlives this process, and leaves no zombie to it
    argv = ["setsid", "--fork", sys.executable, "-m", "lab.supervisor", plan.name]
    argv += [f"--no-{part}" for part, wanted in parts.items() if not wanted]
    path = os.environ.get("PATH", "")
    environment = {**os.environ, MEMBER_VARIABLE: plan.name, "PATH": f"{path}:/usr/sbin:/sbin"}
    (plan.directory / "logs").mkdir(exist_ok=True)
    with (plan.directory / "logs/supervisor.log").open("ab") as output:
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
            check=True,
        )


def _wait_until_up(name: str, progress: Progress) -> LabState:
    begun, told = time.monotonic(), ""
    while True:
        state, waited_s = load_state(name), time.monotonic() - begun
        if state is not None and state.message != told:
            told = state.message
            progress(told)
        if state is not None and state.phase == "up":
            return state
        if state is not None and state.phase == "failed":
            raise LabError(f"lab {name} did not come up: {state.message}", 1)
        dead = waited_s > FIRST_WORD_S if state is None else not state.supervisor.alive()
        if dead:
            raise LabError(f"lab {name} did not come up: {_last_line(name)}", 1)
        if waited_s > UP_DEADLINE_S:
            raise LabError(f"lab {name} was not up after {UP_DEADLINE_S:g} s; waited for: {told}", 1)
        time.sleep(LOOK_EVERY_S)


def _last_line(name: str) -> str:
    try:
        lines = (lab_directory(name) / "logs/supervisor.log").read_text(errors="replace").split("\n")
    except OSError:
        return "its supervisor ended and left no log"
    # An exception group's traceback ends in its frame; what it says of its first exception is the last of its words.
    told = (line.strip(" |+-") for line in reversed(lines))
    return next((line for line in told if line), "its supervisor ended")


def supervised(name: str) -> bool:
    """Return whether the lab's supervisor runs."""
    state = load_state(name)
    return state is not None and state.supervisor.alive()


def down(name: str) -> None:
    """Take a lab away, whatever of it is left; raises LabError where there is none, or something stays."""
    if os.geteuid() != 0:
        raise LabError("a lab can be taken away by root only")
    if not exists(name):
        raise LabError(f"no lab called {name!r} (see: kubereach lab list)")
    left = tear_down(name)
    if left:
        raise LabError(f"lab {name}: could not remove {', '.join(left)}", 1)


def pick(name: str | None) -> str:
    """Return the lab meant: the one named, KUBEREACH_LAB's, or the only one; raises LabError otherwise."""
    chosen = name or os.environ.get("KUBEREACH_LAB") or None
    labs = lab_names()
    if chosen is not None:
        if chosen not in labs:
            raise LabError(f"no lab called {chosen!r} (there are: {', '.join(labs) or 'none'})")
        return chosen
    if not labs:
        raise LabError("no lab is there (kubereach lab up)")
    if len(labs) > 1:
        raise LabError(f"several labs are there ({', '.join(labs)}): name one with --lab or KUBEREACH_LAB")
    return labs[0]


def plan_of(name: str) -> Topology:
    """Return a lab's topology; LabError where it cannot be read."""
    try:
        return load_topology(name)
    except SpecError as error:
        raise LabError(str(error)) from None


def status(name: str) -> dict[str, Any]:
    """Return what `kubereach lab status -o json` prints (product.md)."""
    plan, state = plan_of(name), load_state(name)
    processes = state.processes if state is not None else {}
    pids = {service: one.pid for service, one in processes.items() if one.alive()}
    phase = state.phase if state is not None else "starting"
    if state is not None and not state.supervisor.alive():
        phase = "crashed"
    return {
        "name": name,
        "state": phase,
        "message": state.message if state is not None else "",
        "control_plane": plan.spec.control_plane,
        "cni": plan.spec.cni,
        "proxy": plan.spec.proxy,
        "family": plan.spec.family,
        "url": state.url if state is not None else "",
        "kubeconfig": state.kubeconfig if state is not None else "",
        "nodes": [
            {"name": node.name, "zone": node.zone, "addresses": node.addresses, "pod_cidrs": node.pod_cidrs}
            for node in plan.nodes
        ],
        "pids": {
            "supervisor": state.supervisor.pid if state is not None and state.supervisor.alive() else None,
            "controller": pids.get("controller"),
            "agents": {node.name: pids.get(f"agent/{node.name}") for node in plan.nodes},
            "services": {
                service: pid
                for service, pid in pids.items()
                if service != "controller" and not service.startswith("agent/")
            },
        },
    }


def exec_argv(name: str, place: str, command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` in `place`: node/NAME, pod/NS/NAME, router, outside or control."""
    plan = plan_of(name)
    kind, _, rest = place.partition("/")
    fixed = {"router": plan.router_netns, "outside": plan.outside_netns, "control": plan.control_netns}
    if not command:
        raise LabError(f"no command to run in {place} (lab exec {place} -- CMD…)")
    if place in fixed:
        return _enter(fixed[place], command)
    if kind == "node" and rest:
        try:
            return _enter(plan.node(rest).netns, command, _mounts_of(plan, rest))
        except SpecError as error:
            raise LabError(str(error)) from None
    namespace, _, pod = rest.partition("/")
    if kind == "pod" and namespace and pod:
        return _enter_pod(plan, namespace, pod, command)
    raise LabError(f"{place!r}: expected node/NAME, pod/NS/NAME, router, outside or control")


def _enter(namespace: str, command: Sequence[str], enter: Sequence[str] = ()) -> list[str]:
    if not netns.exists(namespace):
        raise LabError(f"the network namespace {namespace} is not there")
    return netns.nsenter_argv(namespace, command, enter)


def _mounts_of(plan: Topology, node: str) -> tuple[str, ...]:
    """Options of nsenter for the mounts that a node of a real Kubernetes has, if its containerd runs."""
    state = load_state(plan.name)
    runtime = state.processes.get(f"containerd/{node}") if state is not None else None
    return node_mounts(runtime.pid) if runtime is not None and runtime.alive() else ()


def load_image(name: str, archive: str | Path) -> None:
    """Give every node of a lab with a real Kubernetes the images of an archive (docker-archive or OCI)."""
    plan = plan_of(name)
    if not plan.spec.real:
        raise LabError(f"lab {name} has no container runtime (kubereach lab up --kubernetes)")

    async def load() -> None:
        await asyncio.gather(*(load_node_image(plan, node, Path(archive)) for node in plan.nodes))

    try:
        asyncio.run(load())
    except (netns.NetnsError, TimeoutError) as error:
        raise LabError(f"{archive}: {error or 'containerd does not answer'}", 1) from None


def _enter_pod(plan: Topology, namespace: str, pod: str, command: Sequence[str]) -> list[str]:
    for path in (plan.directory / "pods").glob("*/sandbox.json"):
        try:
            box = msgspec.json.decode(path.read_bytes())
        except (OSError, ValueError):  # taken away this moment
            continue
        if (box["namespace"], box["name"]) == (namespace, pod):
            etc = path.parent / "etc"
            unshare = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", BIND_AND_EXEC, "pod"]
            inside = [*unshare, str(etc / "resolv.conf"), str(etc / "hosts"), *command]
            return _enter(box["netns"], inside)
    raise LabError(f"no pod {namespace}/{pod} runs in lab {plan.name}")


def apply(name: str, files: Sequence[str], *, delete: bool = False) -> list[str]:
    """Apply (or delete) the objects of YAML files ("-": standard input, or directories); return a line for each."""
    documents = [item for file in files for path in _files(file) for item in _read(path)]
    state = load_state(name)
    if state is None or not state.kubeconfig:
        raise LabError(f"lab {name} has no API server yet")
    try:
        return asyncio.run(_apply(state.kubeconfig, documents, delete=delete))
    except (ApiError, ManifestError) as error:
        raise LabError(error.message if isinstance(error, ApiError) else str(error)) from None
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise LabError(f"the API server of lab {name} does not answer: {error or 'timeout'}", 4) from None


def _files(name: str) -> list[str]:
    if name != "-" and Path(name).is_dir():
        return sorted(str(path) for path in Path(name).iterdir() if path.suffix in (".yaml", ".yml", ".json"))
    return [name]


def _read(path: str) -> list[Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        return read_documents(text, path)
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except ManifestError as error:
        raise LabError(str(error)) from None


async def _apply(kubeconfig: str, documents: list[Any], *, delete: bool) -> list[str]:
    async with ApiClient.from_kubeconfig(kubeconfig) as client:
        applier = Applier(client)
        if delete:
            return [await applier.delete(item) for item in reversed(in_order(documents))]
        return [await applier.apply(item) for item in in_order(documents)]
