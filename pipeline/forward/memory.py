"""`MemoryQueue`: batches that wait for the destination, in memory. `spool` has the same methods on disk."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple, Protocol

from pipeline.forward.batches import GAP, SNAPSHOT, Batch, gap
from pipeline.forward.figures import Figures

FULL = "buffer full"
_Key = tuple[str, int, str]


class Queued(NamedTuple):
    """A batch that was taken from a queue, and its place there."""

    place: int
    batch: Batch


class Queue(Protocol):
    """Batches in the order in which they are sent. The oldest are dropped at a limit; a gap takes their place.

    Attributes:
        arrived: set when a batch was put.
        streams: ids of streams, in the order in which their batches were put.
    """

    arrived: asyncio.Event
    streams: list[int]

    def put(self, batch: Batch) -> None:
        """Append a batch."""

    def take(self) -> Queued | None:
        """Return the next batch that was not taken yet; None: there is none."""

    def done(self, queued: Queued) -> None:
        """Remove a batch, because the destination has it."""

    def rewind(self) -> None:
        """Let `take` begin again with the oldest batch that is not done."""

    @property
    def is_empty(self) -> bool:
        """Whether all batches are done."""


class MemoryQueue:
    """A queue of at most `max_bytes`."""

    def __init__(self, max_bytes: int, figures: Figures) -> None:
        self._max_bytes = max_bytes
        self._figures = figures
        self._batches: dict[int, Batch] = {}
        #: Places that are not taken, in order. A place can be gone from `_batches`.
        self._todo: deque[int] = deque()
        self._gaps: dict[_Key, int] = {}
        self._next = 0
        self._bytes = 0
        self.arrived = asyncio.Event()
        self.streams: list[int] = []

    def put(self, batch: Batch) -> None:
        """Append a batch."""
        if batch.stream not in self.streams:
            self.streams.append(batch.stream)
        place, self._next = self._next, self._next + 1
        self._set(place, batch)
        self._todo.append(place)
        while self._bytes > self._max_bytes and self._drop():
            pass
        self._show()
        self.arrived.set()

    def take(self) -> Queued | None:
        """Return the next batch."""
        while self._todo:
            place = self._todo.popleft()
            batch = self._batches.get(place)
            if batch is not None:
                if batch.kind == GAP:
                    self._gaps.pop((batch.boot, batch.stream, batch.topic), None)
                return Queued(place, batch)
        return None

    def done(self, queued: Queued) -> None:
        """Remove a batch."""
        self._remove(queued.place)
        self._show()

    def rewind(self) -> None:
        """Begin again with the oldest batch."""
        self._todo = deque(self._batches)
        self._gaps.clear()

    @property
    def is_empty(self) -> bool:
        """Whether all batches are done."""
        return not self._batches

    def _set(self, place: int, batch: Batch) -> None:
        self._bytes += batch.size - (self._batches[place].size if place in self._batches else 0)
        self._batches[place] = batch

    def _remove(self, place: int) -> None:
        batch = self._batches.pop(place, None)
        if batch is not None:
            self._bytes -= batch.size

    def _drop(self) -> bool:
        """Replace the oldest batch that is not being sent by a gap; return False if there is none."""
        for place in self._todo:
            batch = self._batches.get(place)
            if batch is not None and batch.kind != GAP:
                break
        else:
            return False
        if batch.kind == SNAPSHOT:
            self._remove(place)
            return True
        self._figures.counts["dropped"] += batch.count
        key = batch.boot, batch.stream, batch.topic
        known = self._gaps.get(key)
        before = None if known is None else self._batches.get(known)
        if known is not None and before is not None and before.next == batch.first:
            self._remove(place)
            place, first, from_ns = known, before.first, before.from_ns
        else:
            first, from_ns = batch.first, batch.from_ns
        self._gaps[key] = place
        self._set(place, gap(*key, first, batch.next - first, from_ns, batch.to_ns, FULL))
        return True

    def _show(self) -> None:
        figures = self._figures
        figures.waiting_bytes, figures.is_drained = self._bytes, not self._batches
        if self._batches:
            figures.since_ns = self._batches[next(iter(self._batches))].from_ns
