"""Frames of tracers, from their socket into a ring: what the proc connector's source does with events.

A tracer's frame is read whole or refused whole; its records then go into a ring made by hand, and from there on all is
as for a ring of the kernel: what is not applied is kept, and read again when the resolver is replaced. A tracer that is
faster than the resolver waits in its own send queue. What is in the socket's queue when this process is killed is lost,
and nobody can count it: a tracer that must not lose anything says what it lost by itself (`lost` of a frame).

Taken from a frame are the records. Its ring and its positions are the tracer's own; a time in the future is now.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.bus.frames.frame import Frame, decode_frames
from pipeline.errors import FrameError
from pipeline.records import kinds as events
from pipeline.sources.ring._drain import CAUGHT_UP
from pipeline.sources.ring._ring import Ring
from pipeline.sources.ring.handring import RingWriter
from pipeline.sources.shard._shard import NO_WATERMARK, Shard

SOURCE = "tracer"
#: What comes behind younger records is applied all the same; it is counted as late.
SLACK_NS = 1_000_000
#: A frame without records at least so often: the merge waits for no ring that is silent for longer than its stall time.
KEEP_ALIVE_NS = 100_000_000
#: A longer record does not fit into a shard's columns.
RECORD_MAX_BYTES = 128 << 10
#: Flags that a tracer may set.
_FLAGS = events.FLAG_PARTIAL | events.FLAG_LEADER_DEAD | events.FLAG_CONTAINER
_SENDERS_MAX = 1024


class TracerFrames:
    """From the socket into the ring: the ring's one producer.

    Args:
        receive: gives a message, None when there is none now.
        writer: of the ring.
        lose: called with the number of records that a tracer says it lost, or that are too long.
        clock_ns: the boot clock.

    Attributes:
        complete_boot_ns: everything older is in the ring, as far as it has come.
        last_boot_ns: time of the youngest record so far.
        records_total, refused_total: records taken; frames that could not be read, and records that name no process.
        refusal: why the last one was refused.
    """

    def __init__(
        self,
        receive: Callable[[], bytes | None],
        writer: RingWriter,
        lose: Callable[[int], None],
        clock_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        self._receive = receive
        self._writer = writer
        self._lose = lose
        self._clock_ns = clock_ns
        self._records: deque[tuple[int, bytes]] = deque()
        self._lost: dict[tuple[str, int], int] = {}
        self.complete_boot_ns = 0
        self.last_boot_ns = 0
        self.records_total = 0
        self.refused_total = 0
        self.refusal = ""

    @property
    def is_full(self) -> bool:
        """Records wait for room in the ring."""
        return bool(self._records)

    def pump(self, budget: int) -> int:
        """Put at most about `budget` records into the ring; returns how many, and the messages that they were in."""
        looked_ns = self._clock_ns()
        done = 0
        while done < budget:
            while self._records:
                time_ns, record = self._records[0]
                if self._writer.write(record) is None:
                    # It gets room when what the ring holds is applied, so nothing may hold that back: what is older
                    # and still to come is late.
                    self.complete_boot_ns = max(self.complete_boot_ns, self.last_boot_ns + 1)
                    return done
                self._records.popleft()
                self.last_boot_ns = max(self.last_boot_ns, time_ns)
                self.records_total += 1
                done += 1
            message = self._receive()
            if message is None:
                self.complete_boot_ns = max(self.complete_boot_ns, looked_ns - SLACK_NS)
                break
            done += 1  # also for one without records: whoever sends these only must not keep this busy for ever
            try:
                for frame in decode_frames(message, peer="a tracer"):
                    self._take(frame)
            except FrameError as error:
                self._refuse(error.reason)
        return done

    def _refuse(self, reason: str) -> None:
        self.refused_total += 1
        self.refusal = reason

    def _take(self, frame: Frame) -> None:
        bodies = {kind: iter(getattr(frame, events.KIND_NAMES[kind])) for kind in events.BODIES}
        at = 0
        now = self._clock_ns()
        for head, task in zip(frame.head, frame.task, strict=True):
            var_bytes, kind = int(head["var_bytes"]), int(head["kind"])
            strings = frame.blob[at : at + var_bytes]
            at += var_bytes
            if int(head["flags"]) & events.FLAG_HEAD_ONLY:
                self._refuse("a record without a pid namespace")
                continue
            body = next(bodies[kind]).tobytes() if kind in bodies else b""
            if not 0 < kind < events.KIND_COUNT or not int(head["tgid"]) or not int(task["pid_ns"]):
                self._refuse("a record without a pid namespace")
                continue
            rest = task.tobytes() + body + bytes(strings)
            length = events.HEAD.itemsize + len(rest)
            if length > min(RECORD_MAX_BYTES, self._writer.data_bytes // 2):
                self._lose(1)
                continue
            whole = np.array([head], events.HEAD)
            whole["time_boot_ns"] = min(int(head["time_boot_ns"]), now)
            whole["flags"] = int(head["flags"]) & _FLAGS
            whole["record_bytes"], whole["ring_pos"] = length, 0
            # Of records with the same time the one that came first is first.
            whole["ring_seq"] = self.records_total + len(self._records)
            self._records.append((int(whole["time_boot_ns"][0]), whole.tobytes() + rest))
        self._count_lost(frame)

    def _count_lost(self, frame: Frame) -> None:
        """A tracer's counts are of all that it lost so far."""
        total = sum(frame.lost.values())
        sender = (frame.source, frame.ring)
        before = self._lost.pop(sender, 0)
        self._lost[sender] = total
        if len(self._lost) > _SENDERS_MAX:
            del self._lost[next(iter(self._lost))]
        if total > before:
            self._lose(total - before)


class TracerShard(Shard):
    """A shard whose ring is filled by tracers."""

    def __init__(self, frames: TracerFrames, ring: Ring, *, clock_ns: Callable[[], int], **common: Any) -> None:
        """Arguments as for a Shard."""
        self._frames = frames
        self._clock_ns = clock_ns
        self._said_ns = 0
        self._spoke_ns = 0
        super().__init__([ring], source=SOURCE, **common)

    @property
    def owes(self) -> bool:
        """Whether a record was handed over that no frame has said to be complete: another one must follow soon."""
        return self._said_ns <= self._frames.last_boot_ns

    def poll(self, budget: int) -> int:
        """Take records, then do what a shard does; returns what was taken."""
        taken = self._frames.pump(budget)
        super().poll(budget)
        return taken

    def _has_news(self, ring: Ring) -> bool:
        if ring.stop != CAUGHT_UP or self._frames.complete_boot_ns <= self._said_ns:
            return False
        return self.owes or self._clock_ns() - self._spoke_ns >= KEEP_ALIVE_NS

    def _watermark(self, ring: Ring, looked_ns: int) -> int:
        self._spoke_ns = self._clock_ns()
        if ring.stop != CAUGHT_UP:
            return NO_WATERMARK
        self._said_ns = max(self._said_ns, self._frames.complete_boot_ns)
        return self._said_ns
