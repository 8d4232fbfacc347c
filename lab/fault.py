"""What a fault of the switchboard is: it breaks a lab for real, in one named way, and says how to undo it.

A fault works on nodes, pods and API objects and does not know which control plane runs the lab. What it undoes is data
(`Undo`), kept in the lab's state folder, so that healing works also after whoever broke it was killed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache

import msgspec

from lab import faults, netns
from lab.client import ApiClient, Object
from lab.spec import LabSpec, NodeSpec, Topology


class FaultError(ValueError):
    """A fault that cannot be made here; the text names the input and the way out."""


class Command(msgspec.Struct, frozen=True, tag="command"):
    """A program to run in a network namespace. Its failure does not stop the steps behind it."""

    netns: str
    argv: tuple[str, ...]
    stdin: str = ""


class Patch(msgspec.Struct, frozen=True, tag="patch"):
    """A JSON patch (RFC 6902) of an API object."""

    resource: str
    namespace: str
    name: str
    operations: list[dict[str, object]]


class Signal(msgspec.Struct, frozen=True, tag="signal"):
    """A signal to every process in a network namespace."""

    netns: str
    signal: int


Undo = Command | Patch | Signal


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """The diagnosis that the fault must lead to: the cause's code and the object's names; "" is not compared."""

    code: str
    kind: str
    node: str = ""
    namespace: str = ""
    name: str = ""


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that was made: on what, what must be diagnosed, how to undo it.

    `probe` are arguments of `kubereach probe` that show it, `exit_code` what it ends with. `opens`: an incident is due;
    what a policy forbids on purpose, as far as anybody can tell, is only said when one asks.
    """

    code: str
    on: str
    says: str
    expected: tuple[Expected, ...]
    probe: tuple[str, ...]
    undo: tuple[Undo, ...]
    exit_code: int = 1
    opens: bool = True


@dataclass(frozen=True, slots=True)
class Bench:
    """The lab as a fault sees it."""

    topology: Topology
    api: ApiClient

    def node(self, on: str, default: str = "node-b") -> NodeSpec:
        """The node that `on` names ("node/NAME"); `default`, or the last node, if it names none."""
        name = on.removeprefix("node/")
        if not name:
            known = [n.name for n in self.topology.nodes]
            name = default if default in known else known[-1]
        return self.topology.node(name)

    def other(self, node: NodeSpec) -> NodeSpec:
        """Another node than this one; FaultError in a lab of one."""
        rest = [n for n in self.topology.nodes if n.name != node.name]
        if not rest:
            raise FaultError("this fault needs two nodes: kubereach lab up --nodes 2")
        return rest[0]

    def pair(self, on: str) -> tuple[NodeSpec, NodeSpec]:
        """Two nodes, from "node/A,node/B"; the first two if `on` is empty."""
        named = [self.node(part) for part in on.split(",") if part]
        first = named[0] if named else self.topology.nodes[0]
        second = named[1] if len(named) > 1 else self.other(first)
        if first.name == second.name:
            raise FaultError(f"{on!r} names one node twice: write node/A,node/B")
        return first, second

    async def object(self, resource: str, on: str, prefix: str, default: str) -> Object:
        """An API object that `on` names ("svc/NS/NAME")."""
        namespace, _, name = (on or default).removeprefix(prefix).partition("/")
        if not name:
            raise FaultError(f"{on!r}: write {prefix}NAMESPACE/NAME")
        return await self.api.get(resource, name, namespace)

    async def run(self, namespace: str, argv: Sequence[str]) -> str:
        """Run a program in a network namespace; its output. Raises netns.NetnsError if it fails."""
        return (await netns.run(namespace, argv)).stdout

    async def feed(self, namespace: str, argv: Sequence[str], stdin: str) -> None:
        """Run a program that reads `stdin` in a network namespace. Raises netns.NetnsError if it fails."""
        await netns.run(namespace, argv, stdin=stdin)

    async def pod_on(self, node: str, label: str = "app.kubernetes.io/component=endpoint") -> str:
        """A pod with that label on a node, as `kubereach probe` names it; FaultError if there is none."""
        for pod in await self.api.list("pods", label_selector=label):
            if pod["spec"].get("nodeName") == node:
                return f"pod/{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        raise FaultError(f"there is no pod with {label} on {node}")

    def pod_netns(self, pod: Object) -> str:
        """The network namespace of a pod, by name."""
        meta = pod["metadata"]
        return self.topology.pod_netns(meta["namespace"], meta["name"])


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to break a lab. `target` says what `--on` names; `applies` whether this kind of lab can have it."""

    code: str
    title: str
    target: str
    make: Callable[[Bench, str], Awaitable[Broken]]
    applies: Callable[[LabSpec], bool] = lambda _spec: True


@cache
def all_faults() -> tuple[Fault, ...]:
    """Every fault, by code."""
    found: list[Fault] = []
    for module in pkgutil.iter_modules(faults.__path__):
        loaded = importlib.import_module(f"{faults.__name__}.{module.name}")
        found.extend(value for value in vars(loaded).values() if isinstance(value, Fault))
    return tuple(sorted(found, key=lambda f: f.code))


def fault(code: str) -> Fault:
    """The fault of that code; FaultError names those there are."""
    for known in all_faults():
        if known.code == code:
            return known
    raise FaultError(f"there is no fault {code!r}; there are: {', '.join(f.code for f in all_faults())}")
