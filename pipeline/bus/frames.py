"""Read frames: `decode_frame` turns a message into a `Frame`, whose columns are numpy views of the message.

What a frame holds stands in `encode`, which writes it and needs no numpy. Nothing here works per record: compiled code
(`_columns`) reads the map and checks the columns, once, so that what applies them may trust every length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import events
from pipeline.bus._columns import check, scan
from pipeline.bus.encode import (
    FRAME_MAX_BYTES,
    FRAME_VERSION,
    RECORD_HEADER_BYTES,
    FrameEncoder,
    record_span,
)
from pipeline.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Buffer

    import numpy.typing as npt

__all__ = [
    "FRAME_MAX_BYTES",
    "FRAME_VERSION",
    "RECORD_HEADER_BYTES",
    "Frame",
    "FrameEncoder",
    "decode_frame",
    "record_ends",
    "record_span",
]

_COLUMNS = ("head", "task", "fork", "exec", "exit", "blob")
_U32_MAX = (1 << 32) - 1


class Frame:
    """One decoded frame. The columns are read-only views of the message, which they keep alive.

    A column may begin at any address. numpy copes with that; C and Cython that read a column through a pointer declare
    packed structs or copy a record out first.

    Attributes:
        boot_id: 16 bytes, the boot in which the records were made.
        source: who made them: "ebpf", "proc-connector", "replay" or a tracer's name.
        ring: number of the ring.
        frame_seq: frames that the sender had sent before this one.
        from_pos, to_pos: bytes; the range of the ring that the frame covers, `to_pos` not included.
        count: records.
        lost: records that the kernel could not write for this ring, by kind name, since the capture began.
        malformed: records that the sender found malformed and left out, since it started.
        watermark_boot_ns: nothing older follows in this ring; None when the sender does not say.
        head, task: shape (count,), dtypes `events.HEAD` and `events.TASK`.
        fork, exec, exit: bodies in the order of their records, dtypes `events.FORK`, `EXEC`, `EXIT`.
        blob: the strings of all records, one after the other.
    """

    __slots__ = (
        "blob",
        "boot_id",
        "count",
        "exec",
        "exit",
        "fork",
        "frame_seq",
        "from_pos",
        "head",
        "lost",
        "malformed",
        "ring",
        "source",
        "task",
        "to_pos",
        "watermark_boot_ns",
    )

    boot_id: bytes
    source: str
    ring: int
    frame_seq: int
    from_pos: int
    to_pos: int
    count: int
    lost: dict[str, int]
    malformed: int
    watermark_boot_ns: int | None
    head: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    fork: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    exit: npt.NDArray[np.void]
    blob: memoryview

    def __repr__(self) -> str:
        return (
            f"<Frame {self.source} ring {self.ring} seq {self.frame_seq} [{self.from_pos}, {self.to_pos})"
            f" {self.count} records>"
        )

    def first_at(self, position: int) -> int:
        """Return the index of the first record at or after `position` of the ring; `count` if there is none."""
        return int(np.searchsorted(self.head["ring_pos"], np.uint64(position)))

    def since(self, position: int) -> Frame:
        """Return the part of the frame that begins at `position` of the ring: itself, or a frame of narrower views.

        A receiver that has seen everything before `position` so drops what it has seen, whole frames included.
        """
        if position <= self.from_pos:
            return self
        first = self.first_at(position)
        skipped = self.head[:first]
        part = Frame()
        part.boot_id, part.source, part.ring, part.frame_seq = self.boot_id, self.source, self.ring, self.frame_seq
        part.lost, part.malformed, part.watermark_boot_ns = self.lost, self.malformed, self.watermark_boot_ns
        part.from_pos, part.to_pos = min(position, self.to_pos), self.to_pos
        part.count = self.count - first
        part.head, part.task = self.head[first:], self.task[first:]
        with_body = skipped["kind"][(skipped["flags"] & events.FLAG_HEAD_ONLY) == 0]
        bodies = np.bincount(with_body, minlength=events.KIND_COUNT)
        part.fork = self.fork[bodies[events.KIND_FORK] :]
        part.exec = self.exec[bodies[events.KIND_EXEC] :]
        part.exit = self.exit[bodies[events.KIND_EXIT] :]
        part.blob = self.blob[int(skipped["var_bytes"].sum(dtype=np.uint64)) :]
        return part


def record_ends(head: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """Return, for each record, the position in its ring of the byte after it, padding included; shape (n,)."""
    padded = (head["record_bytes"].astype(np.uint64) + np.uint64(7)) & ~np.uint64(7)
    ends: npt.NDArray[np.uint64] = head["ring_pos"] + padded + np.uint64(RECORD_HEADER_BYTES)
    return ends


def decode_frame(message: Buffer, *, peer: str = "") -> Frame:
    """Read a message.

    Args:
        message: the bytes of one frame. The frame's views keep it alive.
        peer: who sent it, for the error.

    Returns:
        A frame whose columns agree with each other as `_columns.check` says.

    Raises:
        FrameError: wrong version or shape, or columns that do not agree. Nothing of the message may be used.
    """
    try:
        return _decode(message)
    except FrameError as error:
        whom = f" from {peer}" if peer else ""
        raise FrameError(f"frame{whom} refused: {error.reason}", peer=peer, reason=error.reason) from None


def _decode(message: Buffer) -> Frame:
    length = memoryview(message).nbytes
    if length > FRAME_MAX_BYTES:
        raise _refusal(f"{length} bytes are more than a frame may have ({FRAME_MAX_BYTES})")
    entries = scan(message)
    version = entries.get("v")
    if version != FRAME_VERSION:
        shown = version if isinstance(version, int) else "none"
        raise _refusal(f"version {shown}, this is version {FRAME_VERSION}: both sides must have the same release")
    frame = Frame()
    boot_id = _typed(entries, "boot", memoryview)
    if boot_id.nbytes != 16:
        raise _refusal(f"'boot' has {boot_id.nbytes} bytes, not 16")
    frame.boot_id = boot_id.tobytes()
    frame.source = _typed(entries, "src", str)
    frame.ring = _typed(entries, "ring", int)
    frame.frame_seq = _typed(entries, "seq", int)
    frame.from_pos = _typed(entries, "from", int)
    frame.to_pos = _typed(entries, "to", int)
    frame.count = _typed(entries, "n", int)
    frame.lost = _typed(entries, "lost", dict)
    for value in frame.lost.values():
        if type(value) is not int:
            raise _refusal("'lost' holds something else than counts")
    frame.malformed = _typed(entries, "bad", int) if "bad" in entries else 0
    frame.watermark_boot_ns = _typed(entries, "wm", int) if "wm" in entries else None
    if frame.ring > _U32_MAX:
        raise _refusal(f"ring {frame.ring} is no ring's number")
    if frame.from_pos > frame.to_pos:
        raise _refusal(f"the range [{frame.from_pos}, {frame.to_pos}) ends before it begins")
    head, task, fork, exec_, exit_, blob = (_typed(entries, key, memoryview) for key in _COLUMNS)
    check(frame.count, head, task, fork, exec_, exit_, blob, frame.from_pos, frame.to_pos)
    frame.head = np.frombuffer(head, events.HEAD)
    frame.task = np.frombuffer(task, events.TASK)
    frame.fork = np.frombuffer(fork, events.FORK)
    frame.exec = np.frombuffer(exec_, events.EXEC)
    frame.exit = np.frombuffer(exit_, events.EXIT)
    # Read-only like the others, also when the message was a bytearray.
    frame.blob = blob.toreadonly()
    for column in (frame.head, frame.task, frame.fork, frame.exec, frame.exit):
        column.flags.writeable = False
    return frame


def _typed(entries: dict[str, Any], key: str, kind: type) -> Any:
    value = entries.get(key)
    if type(value) is not kind:
        raise _refusal(f"{key!r} is missing" if value is None else f"{key!r} has the wrong type")
    return value


def _refusal(reason: str) -> FrameError:
    return FrameError(reason, reason=reason)
