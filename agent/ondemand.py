"""Orders: probes, facts and traces, each in a child process, so that the resident agent stays small and quick.

Must leave no child behind: each has a process group of its own that is killed at its deadline, and is reaped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from agent.host.ruletrace import leftovers
from agent.netns import NamespaceError, call_in, find, find_quickly
from model.facts import Facts, FactsOrder
from model.probes import ProbeOrder, ProbeResult, Vantage
from model.protocol import MAX_MESSAGE_BYTES, Answer, Armed, Cue, Order
from model.trace import MAX_KEPT, MAX_PACKETS, Traced, TraceOrder

MAX_RUNNING: Final = 4
MAX_WAITING: Final = 32
MAX_COUNT: Final = 10_000
MAX_PROBES_PER_S: Final = 1000
MAX_SIZE: Final = 65_507
MAX_TIMEOUT_MS: Final = 120_000
MAX_WATCHED: Final = 8
MAX_CUES: Final = 4
_MAX_STDERR: Final = 4096


@dataclass(frozen=True, slots=True)
class Places:
    """What children need to know of this node."""

    netns_dir: str
    cni_conf_dir: str
    cni_bin_dir: str
    ca: str


class _OrderError(Exception):
    """An order that cannot be carried out; the text says why."""


def refusal(order: Order) -> str:
    """Why an order is not carried out at all, "" if it is: the caps on what one may ask for."""
    if not 0 < order.timeout_ms <= MAX_TIMEOUT_MS:
        return f"a timeout of {order.timeout_ms} ms is not between 1 and {MAX_TIMEOUT_MS}"
    if order.trace is not None:
        return _trace_refusal(order.trace)
    probe = order.probe
    if probe is None:
        return "" if order.facts is not None else "the order asks for nothing"
    if not 1 <= probe.count <= MAX_COUNT:
        return f"a count of {probe.count} is not between 1 and {MAX_COUNT}"
    if probe.count > 1 and probe.interval_ms * MAX_PROBES_PER_S < 1000:
        return f"more than {MAX_PROBES_PER_S} probes a second are not sent"
    if not 0 <= probe.size <= MAX_SIZE:
        return f"a size of {probe.size} octets is not between 0 and {MAX_SIZE}"
    if not 0 <= probe.port <= 65535 or any(not 0 < port <= 65535 for port in probe.source_ports):
        return "a port is out of range"
    if probe.timeout_ms <= 0:
        return "the probe's timeout is not positive"
    return ""


def _trace_refusal(trace: TraceOrder) -> str:
    if not 1 <= len(trace.vantages) <= MAX_WATCHED:
        return f"{len(trace.vantages)} namespaces to watch are not between 1 and {MAX_WATCHED}"
    if not 0 < trace.limit_ms <= MAX_TIMEOUT_MS or not 0 <= trace.keep <= MAX_KEPT:
        return "the trace is too long or keeps too much"
    burst = trace.burst
    if burst is None:
        return ""
    if not 1 <= burst.count <= MAX_PACKETS:
        return f"a count of {burst.count} is not between 1 and {MAX_PACKETS}"
    if burst.count > 1 and burst.interval_ms * MAX_PROBES_PER_S < 1000:
        return f"more than {MAX_PROBES_PER_S} packets a second are not sent"
    if not 0 <= burst.size <= MAX_SIZE or not 0 <= burst.port <= 65535:
        return "a size or port is out of range"
    return ""


class Orders:
    """Carries out orders, at most four at once. `answer` and `armed` send to the controller."""

    def __init__(self, places: Places, answer: Callable[[Answer], None], armed: Callable[[Armed], None]) -> None:
        self._places = places
        self._answer = answer
        self._armed = armed
        self._slots = asyncio.Semaphore(MAX_RUNNING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._cues: dict[int, asyncio.Queue[str]] = {}

    def cue(self, cue: Cue) -> None:
        """Hand a cue on to the trace that it is for."""
        waiting = self._cues.get(cue.order)
        if waiting is not None and not waiting.full():
            waiting.put_nowait(cue.cue)

    def start(self, order: Order) -> None:
        """Take an order; its answer comes in any case, unless the agent ends first."""
        why_not = refusal(order)
        if not why_not and len(self._tasks) >= MAX_RUNNING + MAX_WAITING:
            why_not = "the agent has too many orders already"
        if why_not:
            self._answer(Answer(order=order.order, error=why_not))
            return
        task = asyncio.get_running_loop().create_task(self._carry_out(order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Kill and reap all children."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, order: Order) -> None:
        try:
            async with asyncio.timeout(order.timeout_ms / 1000), self._slots:
                if order.probe is not None:
                    answer = Answer(order=order.order, probe=await self._probe(order.probe))
                elif order.facts is not None:
                    answer = Answer(order=order.order, facts=await self._facts(order.order, order.facts))
                elif order.trace is not None:
                    answer = Answer(order=order.order, trace=await self._trace(order.order, order.trace))
                else:
                    return
        except TimeoutError:
            answer = Answer(order=order.order, error=f"not done within {order.timeout_ms} ms")
        except (_OrderError, OSError) as error:
            answer = Answer(order=order.order, error=str(error))
        self._answer(answer)

    async def _namespace(self, vantage: Vantage) -> str:
        known = find_quickly(vantage, self._places.netns_dir)
        if known is None:
            known = (await asyncio.to_thread(find, [vantage], self._places.netns_dir)).get(vantage)
        if known is None:
            raise _OrderError(f"no network namespace of {vantage} is found on the node")
        return known.path

    async def _probe(self, probe: ProbeOrder) -> ProbeResult:
        netns = await self._namespace(probe.vantage)
        arguments = ["agent.probers", "--netns", netns, "--ca", self._places.ca, "--parent", str(os.getpid())]
        lines = await self._run(arguments, msgspec.json.encode(probe), None)
        try:
            return msgspec.json.decode(lines, type=ProbeResult)
        except msgspec.DecodeError as error:
            raise _OrderError(f"the prober's answer is not understood: {error}") from None

    async def _facts(self, number: int, facts: FactsOrder) -> Facts:
        netns = await self._namespace(facts.vantage)
        arguments = ["agent.host", "--netns", netns]
        arguments += ["--cni-conf-dir", self._places.cni_conf_dir, "--cni-bin-dir", self._places.cni_bin_dir]
        on_armed = (lambda: self._armed(Armed(order=number))) if facts.rule_trace_asked is not None else None
        try:
            lines = await self._run(arguments, msgspec.json.encode(facts), on_armed)
        except BaseException:
            # The child is dead by now, and could not take away what its rule trace had made.
            if facts.rule_trace_asked is not None:
                with suppress(NamespaceError, OSError):
                    call_in(netns, leftovers.remove)
            raise
        try:
            # Passed on as they are: as objects, those of a crowded node would stall the probing and stay in memory.
            return cast("Facts", msgspec.json.decode(lines, type=msgspec.Raw))
        except msgspec.DecodeError as error:
            raise _OrderError(f"the facts are not understood: {error}") from None

    async def _trace(self, number: int, trace: TraceOrder) -> Traced:
        arguments = ["agent.wire", "--parent", str(os.getpid())]
        for vantage in trace.vantages:
            arguments += ["--netns", await self._namespace(vantage)]
        cues = self._cues[number] = asyncio.Queue(MAX_CUES)
        try:
            line = await self._run(
                arguments, msgspec.json.encode(trace), lambda: self._armed(Armed(order=number)), cues
            )
        finally:
            del self._cues[number]
        try:
            # Passed on as it is, captured packets and all.
            return cast("Traced", msgspec.json.decode(line, type=msgspec.Raw))
        except msgspec.DecodeError as error:
            raise _OrderError(f"the trace is not understood: {error}") from None

    async def _run(
        self,
        arguments: list[str],
        stdin: bytes,
        on_armed: Callable[[], None] | None,
        cues: asyncio.Queue[str] | None = None,
    ) -> bytes:
        """Run a child to its end and return its last line. Raises _OrderError; at cancellation the child is killed.

        `cues` are lines for its standard input behind `stdin`, which otherwise ends there.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-E",
            "-s",
            "-m",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_MESSAGE_BYTES,
            start_new_session=True,
        )
        try:
            if process.stdin is None or process.stdout is None or process.stderr is None:
                raise _OrderError("the child has no pipes")
            errors = asyncio.ensure_future(_tail(process.stderr))
            prompter = None
            try:
                process.stdin.write(stdin + b"\n")
                if cues is None:
                    process.stdin.close()
                else:
                    prompter = asyncio.ensure_future(_prompt(process.stdin, cues))
                last = await _last_line(process.stdout, on_armed)
                code = await process.wait()
                said = await errors
            finally:
                errors.cancel()
                if prompter is not None:
                    prompter.cancel()
            if code or not last:
                words = said.decode("utf-8", "replace").strip().splitlines()
                raise _OrderError(f"{arguments[0]} ended with code {code}: {words[-1] if words else 'no message'}")
            return last
        finally:
            # Also what the child itself has started: all of it is one process group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _last_line(stdout: asyncio.StreamReader, on_armed: Callable[[], None] | None) -> bytes:
    last = b""
    while True:
        try:
            line = await stdout.readline()
        except ValueError:
            raise _OrderError("the answer is larger than the protocol allows") from None
        if not line:
            return last
        if on_armed is not None and line.strip() == b'{"armed":true}':
            on_armed()
            continue
        last = line


async def _prompt(stdin: asyncio.StreamWriter, cues: asyncio.Queue[str]) -> None:
    """Hand cues to a child until it has ended."""
    with suppress(OSError):
        while True:
            stdin.write((await cues.get()).encode() + b"\n")
            await stdin.drain()


async def _tail(stderr: asyncio.StreamReader) -> bytes:
    """The end of what a child says on standard error."""
    kept = b""
    while data := await stderr.read(4096):
        kept = (kept + data)[-_MAX_STDERR:]
    return kept
