"""Breaks a lab by a fault of its switchboard, and heals it; remembers in the lab's folder what is broken."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec

from lab import netns
from lab.client import ApiClient, ApiError
from lab.fault import Bench, Broken, Command, FaultError, Patch, Signal, Undo, fault
from lab.processes import signal_all
from lab.spec import Topology

STEP_S = 15.0


def broken(topology: Topology) -> tuple[Broken, ...]:
    """What is broken now, in the order in which it was broken."""
    try:
        return msgspec.json.decode(_file(topology).read_bytes(), type=tuple[Broken, ...])
    except FileNotFoundError:
        return ()


async def break_it(topology: Topology, kubeconfig: Path, code: str, on: str = "") -> Broken:
    """Make a fault. Raises FaultError where it does not apply, is made already, or `on` names nothing."""
    wanted = fault(code)
    if not wanted.applies(topology.spec):
        raise FaultError(f"{code} does not apply to this lab ({topology.spec.cni}, {topology.spec.nodes} nodes)")
    async with ApiClient.from_kubeconfig(kubeconfig) as api:
        try:
            async with asyncio.timeout(STEP_S):
                made = await wanted.make(Bench(topology, api), on)
        except ApiError as error:
            raise FaultError(f"{on or wanted.target}: {error}") from None
    _save(topology, (*broken(topology), made))
    return made


async def heal(topology: Topology, kubeconfig: Path, code: str = "") -> tuple[Broken, ...]:
    """Undo one fault, or all, the last first. A step that fails (since its object is gone) does not stop the rest."""
    all_ = broken(topology)
    chosen = [b for b in all_ if code in {"", b.code}]
    if code and not chosen:
        raise FaultError(f"{code} is not broken now; broken: {', '.join(b.code for b in all_) or 'nothing'}")
    async with ApiClient.from_kubeconfig(kubeconfig) as api:
        for made in reversed(chosen):
            for step in made.undo:
                with suppress(netns.NetnsError, ApiError, TimeoutError):
                    async with asyncio.timeout(STEP_S):
                        await _undo(api, step)
    _save(topology, tuple(b for b in all_ if b not in chosen))
    return tuple(chosen)


async def _undo(api: ApiClient, step: Undo) -> None:
    match step:
        case Command():
            await netns.run(step.netns, step.argv, stdin=step.stdin or None)
        case Patch():
            await api.patch(step.resource, step.name, step.operations, step.namespace, patch_type="json")
        case Signal():
            signal_all(step.netns, step.signal)


def _file(topology: Topology) -> Path:
    return topology.directory / "faults.json"


def _save(topology: Topology, all_: tuple[Broken, ...]) -> None:
    partial = _file(topology).with_suffix(".new")
    partial.write_bytes(msgspec.json.encode(all_))
    partial.replace(_file(topology))
