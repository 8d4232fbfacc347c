"""The way of reports: one stream to the controller, direct where it can be, through a neighbour where it must.

Notices within 2.5 s that a connection is dead, and then tries direct ways and neighbours side by side. Must not lose or
repeat an observation: what was not acknowledged goes out again under its old number.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from agent.introduction import Introduction, IntroductionError
from agent.log import log
from agent.outbox import Outbox
from agent.stream import RefusedError, Stream, StreamError
from model.protocol import (
    Ack,
    Answer,
    Armed,
    FromController,
    Goodbye,
    Hello,
    ProtocolError,
    Status,
    Welcome,
    decode_from_controller,
    encode,
)

FLUSH_S: Final = 0.25
# A tick that comes meanwhile flushes in passing, and saves the wake-up.
_FLUSH_GRACE_S: Final = 0.15
CHECK_S: Final = 0.5
PING_AFTER_S: Final = 0.9
DEAD_AFTER_S: Final = 2.4
STATUS_S: Final = 5.0
CONNECT_S: Final = 2.0
STAGGER_S: Final = 0.25
DIRECT_AGAIN_S: Final = 10.0
BACKOFF_S: Final = (0.2, 2.0)
REFUSED_BACKOFF_S: Final = (2.0, 10.0)
_MAX_RELAYS_TRIED: Final = 4
_MAX_REPLIES: Final = 32


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to a controller: where to connect, and who passes us on ("" if nobody)."""

    target: tuple[str, int]
    controller: tuple[str, int]
    via: str = ""


class Client(Protocol):
    """What the uplink asks of the application."""

    def hello(self, via: str) -> Hello:
        """The first message."""
        ...

    def status(self) -> Status:
        """The agent about itself, now."""
        ...

    def status_delivered(self, status: Status) -> None:
        """The controller has this status for certain."""
        ...

    def has_news(self) -> bool:
        """Whether the next status should not wait for its turn."""
        ...

    def take(self, message: FromController) -> None:
        """A message for the application (a plan or an order)."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What the uplink knows beforehand. `relays` is asked for anew at every attempt: (node, address, port)."""

    introduction: Introduction
    token_file: str
    relays: Callable[[], Sequence[tuple[str, str, int]]]
    own_addresses: tuple[str, ...] = ()


class Uplink:
    """Keeps a stream open. Run `run` as a task; cancelling it ends the connection."""

    def __init__(self, settings: Settings, outbox: Outbox, client: Client) -> None:
        self._settings = settings
        self._outbox = outbox
        self._client = client
        self._stream: Stream | None = None
        self._welcomed = False
        self._replies: deque[Answer] = deque(maxlen=_MAX_REPLIES)
        self._flush_timer: asyncio.Handle | None = None
        self._flush_soon = False
        self._flushed = 0.0
        self._loop = asyncio.get_running_loop()
        self._relay_turn = 0
        self._found: tuple[str, int] | None = None
        self._at: tuple[str, int] | None = None
        self.via = ""

    @property
    def connected(self) -> bool:
        """Whether the controller has welcomed us on the present stream."""
        return self._welcomed

    def controllers(self) -> tuple[tuple[str, int], ...]:
        """Where a controller is: where it was met last, and where its introduction says."""
        known = self._settings.introduction.known().addresses
        return known if self._found is None else tuple(dict.fromkeys((self._found, *known)))

    # --- what the application sends ---

    def wake(self, at_once: bool) -> None:
        """Something stands in the outbox: send it behind this turn of the loop, or `FLUSH_S` after what went last."""
        if not self._welcomed or (self._flush_timer is not None and self._flush_soon):
            return
        rest_s = 0.0 if at_once else self._flushed + FLUSH_S - self._loop.time()
        if rest_s <= 0:
            if self._flush_timer is not None:
                self._flush_timer.cancel()
            # What one tick finds out goes together.
            self._flush_timer, self._flush_soon = self._loop.call_soon(self._flush), True
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(rest_s + _FLUSH_GRACE_S, self._flush)

    def answer(self, answer: Answer) -> None:
        """Send an answer; while there is no connection the last 32 are kept."""
        if self._welcomed and self._stream is not None:
            try:
                self._stream.send(encode(answer))
            except StreamError:
                self._replies.append(answer)
        else:
            self._replies.append(answer)

    def armed(self, armed: Armed) -> None:
        """Say that a tap listens; without a connection nobody waits for that any more."""
        if self._welcomed and self._stream is not None:
            try:
                self._stream.send(encode(armed))
            except StreamError as error:
                log("warning", "armed not sent", order=armed.order, reason=error)

    async def say_goodbye(self, reason: str) -> None:
        """Send what is left, take leave and close; at most about 1 s."""
        stream = self._stream
        if stream is None or not self._welcomed:
            return
        try:
            self._flush()
            stream.send(encode(Goodbye(reason=reason)))
        except StreamError:
            return
        await stream.close()

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._flush_soon = False
        self._flushed = self._loop.time()
        stream = self._stream
        if stream is None or not self._welcomed:
            return
        try:
            while not stream.congested and (batch := self._outbox.next_batch()) is not None:
                stream.send(encode(batch))
        except StreamError:
            # The reader of the stream finds it ended, and everything unacknowledged is sent again.
            stream.abort()

    # --- connecting ---

    async def run(self) -> None:
        """Connect, serve, reconnect; until cancelled."""
        failures = 0
        opened: tuple[Way, Stream] | None = None
        try:
            while True:
                refused = False
                if opened is None:
                    try:
                        opened = await self._open_any()
                    except StreamError as error:
                        refused = isinstance(error, RefusedError) and error.status in (401, 403)
                        log("warning", "no way to the controller", reason=error)
                following: tuple[Way, Stream] | None = None
                if opened is not None:
                    following, served = await self._serve(*opened)
                    opened = None
                    failures = 0 if served else failures + 1
                    if following is not None:
                        opened, following = following, None
                        continue
                    if served:
                        # The first attempt after a good connection is made at once.
                        await asyncio.sleep(random.uniform(0.0, 0.1))
                        continue
                else:
                    failures += 1
                await asyncio.sleep(_backoff_s(failures, refused))
        finally:
            if opened is not None:
                opened[1].abort()

    def _ways(self) -> list[Way]:
        controllers = self.controllers()
        if not controllers:
            return []
        direct = [Way(controller, controller) for controller in controllers]
        relays = list(self._settings.relays())
        if relays:
            # Another neighbour first at every attempt.
            turn = self._relay_turn % len(relays)
            relays = (relays[turn:] + relays[:turn])[:_MAX_RELAYS_TRIED]
            self._relay_turn += 1
        passed_on = [Way((address, port), controllers[0], node) for node, address, port in relays]
        # A kubelet brings the news that the controller has moved after a minute or more. It listens on its node's own
        # address, and its certificate tells it from anybody else, so the nodes next to us are asked meanwhile.
        near = (*self._settings.own_addresses, *(address for _, address, _ in relays))
        moved = dict.fromkeys((address, controllers[0][1]) for address in near)
        return direct + passed_on + [Way(place, place) for place in moved if place not in controllers]

    async def _open(self, way: Way) -> Stream:
        try:
            token = Path(self._settings.token_file).read_text(encoding="ascii").strip()
            tls = self._settings.introduction.tls()
        except (OSError, ValueError, IntroductionError) as error:
            raise StreamError(f"cannot read token or CA: {error}") from None
        name = self._settings.introduction.known().server_name or way.controller[0]
        return await Stream.open(way.target, way.controller, name, tls, token, CONNECT_S)

    async def _open_any(self) -> tuple[Way, Stream]:
        """Try all ways, each begun a little after the one before; the first that is open wins. Raises StreamError."""
        attempts: dict[asyncio.Task[Stream], Way] = {}
        ways = deque(self._ways())
        reasons: list[str] = []
        refused: RefusedError | None = None
        try:
            while ways or attempts:
                if ways:
                    way = ways.popleft()
                    attempts[self._loop.create_task(self._open(way))] = way
                wait_s = STAGGER_S if ways else None
                done, _ = await asyncio.wait(attempts, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: bool(attempts[task].via)):
                    way = attempts.pop(task)
                    error = task.exception()
                    if error is None:
                        return way, task.result()
                    if not isinstance(error, StreamError):
                        raise error
                    if isinstance(error, RefusedError):
                        refused = error
                    reasons.append(f"{way.target[0]}:{way.target[1]}: {error}")
        finally:
            await _dispose(attempts)
        if refused is not None:
            raise refused
        raise StreamError("; ".join(reasons[:4]) or "no controller is named")

    # --- one connection ---

    async def _serve(self, way: Way, stream: Stream) -> tuple[tuple[Way, Stream] | None, bool]:
        """Serve one stream to its end. Returns a better one if that was the reason, and whether we were welcomed."""
        self._stream, self._welcomed, self.via = stream, False, way.via
        self._at = None if way.via else way.controller
        better: list[tuple[Way, Stream]] = []
        pending_status: dict[bytes, Status] = {}
        stream.on_pong = lambda payload: self._delivered(pending_status.pop(payload, None))
        keeper: asyncio.Task[None] | None = None
        seeker: asyncio.Task[None] | None = None
        served = False
        try:
            stream.send(encode(self._client.hello(way.via)))
            self._outbox.rewind()
            keeper = self._loop.create_task(self._keep_alive(stream, pending_status))
            if way.via:
                seeker = self._loop.create_task(self._seek_direct(stream, better))
            await stream.receive(self._take)
        except StreamError as error:
            if not better:
                log("warning", "connection to the controller has ended", reason=error, via=way.via or "direct")
        except ProtocolError as error:
            log("error", "the controller sent what is no message", reason=error)
            # Whatever it is at the far end, it is not to be hurried.
            self._welcomed = False
        finally:
            served = self._welcomed
            self._stream, self._welcomed = None, False
            for task in (keeper, seeker):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(task for task in (keeper, seeker) if task), return_exceptions=True)
            stream.abort()
        return (better[0] if better else None), served

    def _take(self, frame: bytes) -> None:
        message = decode_from_controller(frame)
        if isinstance(message, Ack):
            self._outbox.acknowledge(message.sequence)
            if self._flush_timer is None and len(self._outbox):
                self.wake(False)
        elif isinstance(message, Welcome):
            self._welcomed = True
            self._found = self._at or self._found
            log("info", "connected", controller=message.controller, via=self.via or "direct")
            for _ in range(len(self._replies)):
                self.answer(self._replies.popleft())
            self._flush()
        else:
            self._client.take(message)

    def _delivered(self, status: Status | None) -> None:
        if status is not None:
            self._client.status_delivered(status)

    async def _keep_alive(self, stream: Stream, pending: dict[bytes, Status]) -> None:
        """Ping when nothing is heard, end the stream when that does not help, report on ourselves."""
        next_status = 0.0
        number = 0
        while True:
            now = self._loop.time()
            silent_s = now - stream.heard
            try:
                if silent_s > DEAD_AFTER_S:
                    log("warning", "the controller is silent", seconds=f"{silent_s:.1f}", via=self.via or "direct")
                    stream.abort()
                    return
                if self._welcomed and (now >= next_status or (not pending and self._client.has_news())):
                    next_status = now + STATUS_S
                    status = self._client.status()
                    number += 1
                    stream.send(encode(status))
                    # The answer to a ping sent behind the status proves that the status has arrived.
                    pending.clear()
                    pending[str(number).encode()] = status
                    stream.ping(str(number).encode())
                elif silent_s > PING_AFTER_S:
                    stream.ping()
            except StreamError:
                stream.abort()
                return
            before = self._loop.time()
            wait_s = max(CHECK_S, PING_AFTER_S - silent_s)
            await asyncio.sleep(wait_s)
            overslept_s = self._loop.time() - before - wait_s
            if overslept_s > CHECK_S:
                # Our own stall is no silence of the controller's: what has come is read first.
                stream.heard = max(stream.heard, stream.heard + overslept_s)

    async def _seek_direct(self, stream: Stream, better: list[tuple[Way, Stream]]) -> None:
        """While relayed, try the direct ways every 10 s; with the first that opens, end the relayed stream."""
        while True:
            await asyncio.sleep(DIRECT_AGAIN_S * random.uniform(0.8, 1.0))
            for controller in self.controllers():
                way = Way(controller, controller)
                try:
                    opened = await self._open(way)
                except StreamError:
                    continue
                log("info", "the direct way to the controller is back", controller=controller[0])
                better.append((way, opened))
                await stream.close()
                return


def _backoff_s(failures: int, refused: bool) -> float:
    low, high = REFUSED_BACKOFF_S if refused else BACKOFF_S
    return min(high, low * (1 << min(failures, 8))) * random.uniform(0.5, 1.0)


async def _dispose(attempts: dict[asyncio.Task[Stream], Way]) -> None:
    """Cancel what is under way; a stream that opened in the same moment is closed."""
    for task in attempts:
        task.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, Stream):
            result.abort()
