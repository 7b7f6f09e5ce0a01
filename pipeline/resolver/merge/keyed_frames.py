"""Translate frames of tracers before the merge: numbers in a pid namespace become slots of the index.

A tracer's record names its process by (pid, pid namespace): HEADER's tgid and TASK's `pid_ns`. Here each key gets a
slot (`shm.writer.keyspace`). In merge, apply, the stream and the tables, the slot stands for the pid. The keys are in a
segment, so a successor translates the same record to the same slot. `sources.tracer` makes such frames.

If a tracer does not know a start time, the time of the first record is used: a process and the next owner of its number
differ in their start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frames
from pipeline.records import declared
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace

if TYPE_CHECKING:
    import numpy.typing as npt

    Column = npt.NDArray[np.void]


class KeyedFrames:
    """Translates messages.

    Args:
        tables: their rows have the start of processes that began before the resolver.
        space: assigns slots.

    Attributes:
        skipped_total: records without a pid, a pid namespace or a free slot; `apply` counts them as malformed.
    """

    def __init__(self, tables: TableWriter, space: KeySpace) -> None:
        self._tables = tables
        self._space = space
        self._encoders: dict[tuple[bytes, str, int], FrameEncoder] = {}
        #: By slot: start of the process in the last record; 0: it has ended, or there was none.
        self._starts = np.zeros(len(tables.index_view()), np.uint64)
        self.skipped_total = 0

    def message(self, data: bytes | memoryview) -> bytes:
        """Return the message with slots instead of numbers.

        Raises:
            FrameError: the message is malformed.
        """
        translated = bytearray()
        for frame in decode_frames(data):
            key = frame.boot_id, frame.source, frame.capture_id
            encoder = self._encoders.get(key)
            if encoder is None:
                encoder = FrameEncoder(boot_id=frame.boot_id, source=frame.source, capture_id=frame.capture_id)
                self._encoders[key] = encoder
            translated += encoder.encode(
                ring=frame.ring, seq=frame.frame_seq, from_pos=frame.from_pos, to_pos=frame.to_pos, count=frame.count,
                lost=frame.lost, malformed=frame.malformed, watermark_boot_ns=frame.watermark_boot_ns,
                exec=frame.exec.tobytes(), blob=frame.blob, **self._columns(frame),
            )  # fmt: skip
        return bytes(translated)

    def _columns(self, frame: Frame) -> dict[str, Any]:
        header, task, fork, exit_ = frame.header.copy(), frame.task.copy(), frame.fork.copy(), frame.exit.copy()
        forks = exits = 0
        for i in range(frame.count):
            kind, flags = int(header["kind"][i]), int(header["flags"][i])
            is_whole = not flags & declared.FLAG_HEAD_ONLY
            self.record(
                header[i : i + 1],
                task[i : i + 1],
                fork[forks : forks + 1] if kind == declared.KIND_FORK and is_whole else None,
                exit_[exits : exits + 1] if kind == declared.KIND_EXIT and is_whole else None,
            )
            forks += kind == declared.KIND_FORK and is_whole
            exits += kind == declared.KIND_EXIT and is_whole
        return {name: column.tobytes() for name, column in
                (("header", header), ("task", task), ("fork", fork), ("exit", exit_))}  # fmt: skip

    def record(self, header: Column, task: Column, fork: Column | None = None, exit_: Column | None = None) -> int:
        """Translate one record in place; arrays of one element each.

        Returns:
            The slot of the process; 0 (and a HEADER without tgid) if there is none.
        """
        pid_ns, pid = int(task["pid_ns"][0]), int(header["tgid"][0])
        slot = self._space.slot(pid, pid_ns) if pid_ns else 0
        header["tgid"], header["flags"] = slot, int(header["flags"][0]) | declared.FLAG_KEYED
        if not slot:
            self.skipped_total += 1
            return 0
        header["ppid"] = self._space.slot(int(header["ppid"][0]), pid_ns) if int(header["ppid"][0]) else 0
        task["ns_pid"] = pid
        if int(task["known"][0]):
            task["known"] = int(task["known"][0]) | layout.KNOWN_NS
        if not int(header["tid"][0]):
            header["tid"] = pid
        self._start(slot, header)
        for column, name in ((fork, "creator_tgid"), (exit_, "reaper_tgid")):
            if column is not None and int(column[name][0]):
                column[name] = self._space.slot(int(column[name][0]), pid_ns)
        return slot

    def _start(self, slot: int, header: Column) -> None:
        start, kind = int(header["start_boot_ns"][0]), int(header["kind"][0])
        if not start:
            # A fork begins a process; all other records are about the process that has the slot.
            start = 0 if kind == declared.KIND_FORK else int(self._starts[slot]) or self._live_start(slot)
            start = start or int(header["time_boot_ns"][0])
            header["start_boot_ns"] = start
        self._starts[slot] = 0 if kind == declared.KIND_EXIT else start

    def _live_start(self, slot: int) -> int:
        row = self._tables.py_head(slot)
        if not row:
            return 0
        hot = self._tables.hot_view()[row]
        return 0 if int(hot["exit_boot_ns"]) else int(hot["start_boot_ns"])
