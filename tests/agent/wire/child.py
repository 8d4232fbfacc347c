"""The child process of a trace, as the agent runs it: for tests that look at what it sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec

from model.probes import Vantage
from model.trace import Burst, Mark, Traced, TraceOrder

ROOT = Path(__file__).resolve().parents[3]
TOKEN = 0x5EED1234


class Child:
    """A trace that is armed in some namespaces."""

    def __init__(
        self, mark: Mark, *namespaces: str, burst: Burst | None = None, keep: int = 0, limit_ms: int = 20_000
    ) -> None:
        watched = tuple(Vantage(pod_uid=name) for name in namespaces)
        order = TraceOrder(vantages=watched, mark=mark, limit_ms=limit_ms, burst=burst, keep=keep)
        command = [sys.executable, "-m", "agent.wire"]
        for name in namespaces:
            command += ["--netns", f"/run/netns/{name}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline()) == {"armed": True}

    def cue(self, word: str) -> None:
        """What the controller has it told."""
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()

    def told(self) -> Traced:
        """Its answer, once it has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        assert self.process.wait(10) == 0
        self.process.stdin.close()
        self.process.stdout.close()
        return msgspec.json.decode(line, type=Traced)


def mark_of(protocol: str, port: int = 0, family: int = 4, *, dns: bool = False) -> Mark:
    """A mark of these tests."""
    return Mark(family=family, protocol=protocol, token=TOKEN, ports=(port,) if port else (), dns=dns)


def trace(mark: Mark, burst: Burst, sender: tuple[str, ...], *others: tuple[str, ...]) -> tuple[Traced, ...]:
    """Sends a burst from the first namespace of `sender`; what it and each of the others saw."""
    watching = [Child(mark, *names) for names in others]
    sending = Child(mark, *sender, burst=burst)
    sending.cue("send")
    told = [sending.told()]
    for child in watching:
        child.cue("end")
        told.append(child.told())
    return tuple(told)


def counts(told: Traced, vantage: int, way: str = "request") -> dict[tuple[str, str, str], int]:
    """Packets of one way by device, direction and the tunnel's ends."""
    return {(s.device, s.direction, s.outer): s.packets for s in told.seen if (s.vantage, s.way) == (vantage, way)}
