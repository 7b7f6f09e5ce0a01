"""Move the records of tracers' frames from their socket into a ring, from which a shard sends them.

A frame is accepted or rejected as a whole. Its records are written into a ring in a file, which is treated like a ring
of the kernel: records that are not applied are kept, and are read again when the resolver is replaced. If a tracer is
faster than the resolver, its frames wait in its own send queue. Frames in the socket's queue are lost when this process
is killed, and cannot be counted here. A tracer reports its own losses (`lost` of a frame).

Only the records of a frame are used. The frame's ring and positions belong to the tracer. A time in the future is
replaced by the current time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import zmq

from pipeline import paths
from pipeline.bus.frames.frame import Frame, decode_frames
from pipeline.bus.sockets import Bus
from pipeline.errors import FrameError
from pipeline.records import declared, dtypes
from pipeline.records.limits import REPORT_SLACK_NS
from pipeline.sources.proc_connector.source import Counts
from pipeline.sources.ring.handring import RingWriter
from pipeline.sources.shard.filling import FillingShard
from pipeline.sources.shard.process import SourceParts, map_counts

if TYPE_CHECKING:
    from pipeline.worker.description import WorkerDescription

SOURCE = "tracer"
#: A longer record does not fit into the columns of a shard.
RECORD_MAX_BYTES = 128 << 10
#: Flags that a tracer may set.
_FLAGS = declared.FLAG_PARTIAL | declared.FLAG_LEADER_DEAD | declared.FLAG_CONTAINER
_SENDERS_MAX = 1024


class TracerFrames:
    """Moves records from the socket into the ring, as the ring's only producer.

    Args:
        receive: returns a message, or None if there is none now.
        writer: writes into the ring.
        lose: called with the number of records that a tracer reports as lost, or that are too long.
        clock_ns: returns the boot clock in nanoseconds.

    Attributes:
        complete_boot_ns: every older record that has arrived is in the ring.
        last_boot_ns: time of the youngest record so far.
        records_total: records in the ring so far.
        refused_total: rejected frames, and records that identify no process.
        refusal: why the last frame or record was rejected.
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
        """Whether records are waiting for room in the ring."""
        return bool(self._records)

    def pump(self, budget: int) -> int:
        """Move at most about `budget` records into the ring; return the number of records and messages."""
        now_ns = self._clock_ns()
        done = 0
        while done < budget:
            while self._records:
                time_ns, record = self._records[0]
                if self._writer.write(record) is None:
                    # The ring gets room only when its records are applied, so the slack must not delay them: an older
                    # record that arrives later is late.
                    self.complete_boot_ns = max(self.complete_boot_ns, self.last_boot_ns + 1)
                    return done
                self._records.popleft()
                self.last_boot_ns = max(self.last_boot_ns, time_ns)
                self.records_total += 1
                done += 1
            message = self._receive()
            if message is None:
                self.complete_boot_ns = max(self.complete_boot_ns, now_ns - REPORT_SLACK_NS)
                break
            done += 1  # count messages without records too: a flood of these must not keep this loop busy forever
            try:
                for frame in decode_frames(message, peer="a tracer"):
                    self._write(frame)
            except FrameError as error:
                self._refuse(error.reason)
        return done

    def _refuse(self, reason: str) -> None:
        self.refused_total += 1
        self.refusal = reason

    def _write(self, frame: Frame) -> None:
        bodies = {kind: iter(getattr(frame, declared.KIND_NAMES[kind])) for kind in dtypes.BODIES}
        at = 0
        now = self._clock_ns()
        for header, task in zip(frame.header, frame.task, strict=True):
            var_bytes, kind = int(header["var_bytes"]), int(header["kind"])
            strings = frame.blob[at : at + var_bytes]
            at += var_bytes
            if int(header["flags"]) & declared.FLAG_HEAD_ONLY:
                self._refuse("a record without a pid namespace")
                continue
            body = next(bodies[kind]).tobytes() if kind in bodies else b""
            if not 0 < kind < declared.KIND_COUNT or not int(header["tgid"]) or not int(task["pid_ns"]):
                self._refuse("a record without a pid namespace")
                continue
            rest = task.tobytes() + body + bytes(strings)
            length = dtypes.HEADER.itemsize + len(rest)
            if length > min(RECORD_MAX_BYTES, self._writer.data_bytes // 2):
                self._lose(1)
                continue
            whole = np.array([header], dtypes.HEADER)
            whole["time_boot_ns"] = min(int(header["time_boot_ns"]), now)
            whole["flags"] = int(header["flags"]) & _FLAGS
            whole["record_bytes"], whole["ring_pos"] = length, 0
            # Records with the same time keep their order of arrival.
            whole["ring_seq"] = self.records_total + len(self._records)
            self._records.append((int(whole["time_boot_ns"][0]), whole.tobytes() + rest))
        self._count_lost(frame)

    def _count_lost(self, frame: Frame) -> None:
        """Count the new losses: a tracer reports the total of its losses so far."""
        total = sum(frame.lost.values())
        sender = (frame.source, frame.ring)
        before = self._lost.pop(sender, 0)
        self._lost[sender] = total
        if len(self._lost) > _SENDERS_MAX:
            del self._lost[next(iter(self._lost))]
        if total > before:
            self._lose(total - before)


def open_tracer(
    description: WorkerDescription, parts: SourceParts, stack: ExitStack
) -> tuple[TracerFrames, FillingShard, int]:
    """Bind the tracers' socket and build the shard; the stack closes both.

    Returns:
        The reader of frames, the shard, and a descriptor that is readable when frames arrive.
    """
    (ring,) = parts.rings
    access, frames_config = description.config.access, description.config.frames
    pull = stack.enter_context(Bus()).pull(
        paths.tracers_socket(description.directory),
        mode=int(access.tracers_mode, 8), group=description.group_id, hwm_frames=frames_config.push_hwm_frames,
    )  # fmt: skip

    def receive() -> bytes | None:
        try:
            return pull.recv(zmq.DONTWAIT)
        except zmq.Again:
            return None

    counts = Counts(map_counts(parts.fds.shared))
    writer = stack.enter_context(RingWriter(parts.fds.rings[ring.number]))
    frames = TracerFrames(receive, writer, lambda count: counts.add(0, "lost_samples", count))
    shard = FillingShard(frames, ring, source=SOURCE, **parts.of_shard())
    stack.callback(shard.close)
    return frames, shard, int(pull.getsockopt(zmq.FD))
