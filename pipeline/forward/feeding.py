"""`Feed`: what a `Reader` reads, as batches in a queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.forward.batches import Batcher, gap
from pipeline.forward.memory import Queue


class Feed:
    """Puts batches and gaps into a queue, in the order of their numbers.

    Args:
        queue: the queue.
        events_max: events in a batch.
        wait_s: how long an event waits for others.
        is_compressed: whether batches are compressed.
        convert: returns the fields that are sent for an event; None: its own.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        events_max: int,
        wait_s: float,
        is_compressed: bool,
        convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        self._queue = queue
        self._batcher = Batcher(
            queue.put, events_max=events_max, wait_s=wait_s, is_compressed=is_compressed, convert=convert
        )

    def begin(self, boot: str, stream: int, from_ns: int, reason: str, numbers: Mapping[str, int]) -> None:
        """Begin a stream."""
        self._batcher.close_all()
        self.resume(boot, stream)
        self._queue.put(gap(boot, stream, "", 0, 0, from_ns, time.time_ns(), reason, numbers))

    def resume(self, boot: str, stream: int) -> None:
        """Continue a stream."""
        self._batcher.boot, self._batcher.stream = boot, stream

    def event(self, event: Mapping[str, Any]) -> None:
        """Add an event."""
        self._batcher.add(event, time.monotonic())

    def missed(self, topic: str, first: int, count: int, from_ns: int, to_ns: int, reason: str) -> None:
        """Add a gap of a topic."""
        self._batcher.close_all()
        self._queue.put(gap(self._batcher.boot, self._batcher.stream, topic, first, count, from_ns, to_ns, reason))

    def unwatched(self, from_ns: int, to_ns: int) -> None:
        """Add a time without a daemon."""
        self._batcher.close_all()
        boot, stream = self._batcher.boot, self._batcher.stream
        self._queue.put(gap(boot, stream, "", from_ns, 0, from_ns, to_ns, "unwatched"))

    def snapshot(self, event: Mapping[str, Any], number: int) -> None:
        """Add a live process."""
        self._batcher.add_snapshot(event, number, time.monotonic())

    def left_s(self) -> float | None:
        """Return how long until a batch must end."""
        return self._batcher.left_s(time.monotonic())

    def tick(self) -> None:
        """End the batches that are old enough."""
        self._batcher.close_old(time.monotonic())

    def close(self) -> None:
        """End all batches."""
        self._batcher.close_all()
