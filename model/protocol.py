"""The messages between agent and controller, and their codec: JSON text frames, one message a frame.

The agent speaks first (`Hello`), the controller answers `Welcome` and a `PlanUpdate`. Observations travel in `Batch`es
that the agent keeps until the controller has acknowledged their sequence number; the controller takes a sequence number
of one agent run (`boot`) only once, so nothing is lost or counted twice when a connection breaks.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from model.facts import Facts, FactsOrder
from model.journal import Change
from model.probes import Observation, Plan, ProbeOrder, ProbeResult
from model.trace import Traced, TraceOrder

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
SUBPROTOCOL = "kubereach.v1"


class LinkEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The node's uplink changed state while the agent watched: what a silent node tells once it can speak again."""

    at_ms: int
    device: str
    up: bool
    carrier: bool


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", omit_defaults=True):
    """First message of an agent.

    `boot` names this run of the agent; `via` the neighbour that relays, "" if direct; `uplink` the device that holds
    the node's address, remembered for the time when the node can no longer tell.
    """

    node: str
    boot: str
    version: str
    at_ms: int
    via: str = ""
    uplink: str = ""


class Batch(msgspec.Struct, frozen=True, kw_only=True, tag="batch", omit_defaults=True):
    """Observations in the order they were made. `dropped` counts observations lost to a full outbox since boot."""

    sequence: int
    observations: tuple[Observation, ...]
    dropped: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="status", omit_defaults=True):
    """The agent about itself, every few seconds: its own lateness (ms, worst since the last status), size and state.

    `plan` is the digest of the plan in force; `vantage_errors` maps str(vantage) to why it cannot be entered; `changes`
    are those of the host's network since the last status, and `changes_lost` how many could not be kept since boot.
    """

    at_ms: int
    plan: str
    late_ms: int
    rss_kib: int = 0
    cpu_ms: int = 0
    outbox: int = 0
    vantage_errors: dict[str, str] = {}
    link_events: tuple[LinkEvent, ...] = ()
    changes: tuple[Change, ...] = ()
    changes_lost: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer", omit_defaults=True):
    """The answer to an `Order`: what was asked for, or `error` in words if the agent could not carry it out."""

    order: int
    probe: ProbeResult | None = None
    facts: Facts | None = None
    trace: Traced | None = None
    error: str = ""


class Armed(msgspec.Struct, frozen=True, kw_only=True, tag="armed"):
    """The trace of this order is listening: now is the time to send."""

    order: int


class Goodbye(msgspec.Struct, frozen=True, kw_only=True, tag="goodbye"):
    """The agent was asked to end: its silence from now on is no fault."""

    reason: str


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The controller has accepted the agent. `at_ms` is the controller's clock."""

    at_ms: int
    controller: str


class PlanUpdate(msgspec.Struct, frozen=True, kw_only=True, tag="plan"):
    """A whole plan; it replaces the former one."""

    plan: Plan


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag="ack"):
    """The batch of this sequence number is taken; the agent may forget it."""

    sequence: int


class Order(msgspec.Struct, frozen=True, kw_only=True, tag="order", omit_defaults=True):
    """Something to do now: `probe`, `facts`, `trace`, or `sweep` (make every probe of the plan due at once, spread as
    the agent sees fit; answered as soon as that is begun). Answered within `timeout_ms` or given up.
    """

    order: int
    timeout_ms: int
    probe: ProbeOrder | None = None
    facts: FactsOrder | None = None
    trace: TraceOrder | None = None
    sweep: bool = False


class Cue(msgspec.Struct, frozen=True, kw_only=True, tag="cue"):
    """To a trace that is armed: `send` begins its burst, `end` ends its watch. Nothing happens if it has ended."""

    order: int
    cue: Literal["send", "end"]


FromAgent = Hello | Batch | Status | Answer | Armed | Goodbye
FromController = Welcome | PlanUpdate | Ack | Order | Cue

_encoder = msgspec.json.Encoder()
_from_agent: msgspec.json.Decoder[FromAgent] = msgspec.json.Decoder(FromAgent)
_from_controller: msgspec.json.Decoder[FromController] = msgspec.json.Decoder(FromController)


class ProtocolError(ValueError):
    """A frame that is no message of this protocol; the text says what is wrong with it."""


def encode(message: FromAgent | FromController) -> bytes:
    """A message as a JSON text frame."""
    return _encoder.encode(message)


def decode_from_agent(frame: bytes | str) -> FromAgent:
    """A frame that an agent sent. Raises ProtocolError."""
    try:
        return _from_agent.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(str(error)) from None


def decode_from_controller(frame: bytes | str) -> FromController:
    """A frame that the controller sent. Raises ProtocolError."""
    try:
        return _from_controller.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(str(error)) from None
