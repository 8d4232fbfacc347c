"""Live changes for browsers: Server-Sent Events, batched, to any number of readers, each with a bounded queue.

A reader that does not keep up is dropped, and reads everything anew when it comes back.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from controller.agents import AgentChanged
from controller.cluster.state import ClusterState
from controller.matrix.matrix import MatrixBook
from controller.matrix.paths import PathChanged
from controller.web.documents import CellChange
from model.diagnosis import Incident
from model.words import MatrixKind

READERS: Final = 256
QUEUE: Final = 64
CELLS_AT_ONCE: Final = 2_000
KEEPALIVE: Final = b": still here\n\n"
_MESH = frozenset({MatrixKind.HOST, MatrixKind.POD})
_encoder = msgspec.json.Encoder()


class Reader:
    """One open stream: frames to send; `ended` is set when it has to close."""

    def __init__(self) -> None:
        """A reader with nothing to read."""
        self.frames: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)
        self.ended = asyncio.Event()


class EventHub:
    """Collects changes; `flush`, called a few times a second, sends them on."""

    def __init__(self, matrix: MatrixBook) -> None:
        """No reader, no change."""
        self._matrix = matrix
        self._readers: set[Reader] = set()
        self._cells: dict[tuple[MatrixKind, str, str], None] = {}
        self._incidents: dict[str, Incident] = {}
        self._agents: dict[str, bool] = {}
        self.dropped = 0
        self.closed = False

    @property
    def readers(self) -> int:
        """Open streams."""
        return len(self._readers)

    def join(self) -> Reader | None:
        """A new reader; None if there are too many, or the controller ends."""
        if self.closed or len(self._readers) >= READERS:
            return None
        reader = Reader()
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """The reader is gone."""
        self._readers.discard(reader)

    def on_paths(self, changes: tuple[PathChanged, ...]) -> None:
        """Notes whose cells have changed."""
        if not self._readers:
            return
        for change in changes:
            path = change.path
            self._cells[path.kind, path.source_node, path.destination] = None
            if path.kind in _MESH:
                self._cells[MatrixKind.NODE, path.source_node, path.destination] = None

    def on_incident(self, incident: Incident) -> None:
        """Notes an incident."""
        if self._readers:
            self._incidents[incident.id] = incident

    def on_agent(self, change: AgentChanged) -> None:
        """Notes an agent that came or went."""
        if self._readers:
            self._agents[change.new.node] = change.new.connected

    def flush(self, cluster: ClusterState) -> None:
        """Sends what was noted. Cells beyond CELLS_AT_ONCE wait for the next time."""
        if not self._readers:
            self._cells.clear()
            self._incidents.clear()
            self._agents.clear()
            return
        if self._cells:
            keys = [key for key, _ in zip(list(self._cells), range(CELLS_AT_ONCE), strict=False)]
            for key in keys:
                del self._cells[key]
            self._send("cells", [self._change(key, cluster) for key in keys])
        if self._incidents:
            self._send("incidents", list(self._incidents.values()))
            self._incidents.clear()
        if self._agents:
            self._send("agents", [{"node": node, "connected": there} for node, there in self._agents.items()])
            self._agents.clear()

    def _change(self, key: tuple[MatrixKind, str, str], cluster: ClusterState) -> CellChange:
        ready = {name: node.ready for name in key[1:] if (node := cluster.nodes.get(name)) is not None}
        cell = self._matrix.cell_document(*key, ready)
        return CellChange(kind=key[0].value, **msgspec.structs.asdict(cell))

    def _send(self, event: str, data: object) -> None:
        frame = b"event: " + event.encode() + b"\ndata: " + _encoder.encode(data) + b"\n\n"
        for reader in tuple(self._readers):
            try:
                reader.frames.put_nowait(frame)
            except asyncio.QueueFull:
                self.dropped += 1
                reader.ended.set()
                self._readers.discard(reader)

    def close(self) -> None:
        """Ends every stream: the controller ends."""
        self.closed = True
        for reader in self._readers:
            reader.ended.set()
