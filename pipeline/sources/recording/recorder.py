"""Record a capture: write the frames that shards would send to a file, after a frame with the existing processes.

The recorder is a shard that sends to a file: written records count as applied, so their ring space is released at once.
Secrets are hidden before a frame is written. `file` describes the file, `replay` sends it again, and
`pipeline.supervisor.feed` opens the source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.bus.frames.frame import RECORD_HEADER_BYTES, Frame, FrameEncoder, decode_frames, record_ends
from pipeline.procfs.info import to_records
from pipeline.procfs.proc_reader import WANT_DEFAULT, WANT_ENVS, ProcReader
from pipeline.records import declared
from pipeline.sources.proc_connector.proc_records import known_groups
from pipeline.sources.ring._ring import Ring
from pipeline.sources.shard._pacing import RingWaiter, Wait
from pipeline.sources.shard._shard import Shard
from pipeline.sources.shard.source import BUDGET_RECORDS

_BUSY_S = 0.002
_IDLE_S = 0.02


class WrittenAcks:
    """Reports every record that was read as applied: it is in the file by then."""

    def __init__(self, rings: Sequence[Ring]) -> None:
        self._rings = {ring.number: ring for ring in rings}

    def refresh(self) -> None:
        """Do nothing: these acknowledgements have no source that could be replaced."""

    def ring(self, number: int) -> tuple[int, int, int] | None:
        """Return (applied_pos, wanted_pos, rewind_id): the cursor, and never a rewind."""
        cursor = self._rings[number].cursor
        return cursor, cursor, 0


class ConcealedFrames:
    """Hides secrets in messages and passes the messages on.

    A record with changed strings has another length, so the following records in its ring move. No reader depends on
    these positions: a replay simulates its own rings. A message without changes is passed on unchanged.

    Args:
        conceal: returns the same frame, or one with other strings in its records.
        write: writes a message.
    """

    def __init__(self, conceal: Callable[[Frame], Frame], write: Callable[[bytes], None]) -> None:
        self._conceal = conceal
        self._write = write
        self._moved: dict[int, int] = {}  # bytes by which the next record of a ring has moved
        self._encoders: dict[str, FrameEncoder] = {}

    def write(self, message: bytes) -> None:
        """Pass on one message.

        Raises:
            FrameError: the message contains no frames.
        """
        frames = decode_frames(message)
        concealed = [self._conceal(frame) for frame in frames]
        if all(new is old and not self._moved.get(old.ring) for old, new in zip(frames, concealed, strict=True)):
            self._write(message)
        else:
            self._write(b"".join(map(self._encode, frames, concealed)))

    def _encode(self, old: Frame, new: Frame) -> bytes:
        moved = self._moved.get(old.ring, 0)
        header = new.header.copy()
        length_before = record_ends(header) - header["ring_pos"]
        # Negative differences are added modulo 2**n.
        header["record_bytes"] += header["var_bytes"] - old.header["var_bytes"]
        ends = (record_ends(header) - header["ring_pos"] - length_before).astype(np.int64).cumsum() + moved
        starts = np.concatenate([[moved], ends])[: len(header)]
        header["ring_pos"] += starts.astype(np.uint64)
        self._moved[old.ring] = int(ends[-1]) if len(header) else moved
        encoder = self._encoders.get(old.source)
        if encoder is None:
            encoder = self._encoders[old.source] = FrameEncoder(boot_id=old.boot_id, source=old.source)
        return encoder.encode(
            ring=old.ring, seq=old.frame_seq, from_pos=old.from_pos + moved, to_pos=old.to_pos + self._moved[old.ring],
            count=old.count, lost=old.lost, malformed=old.malformed, watermark_boot_ns=old.watermark_boot_ns,
            header=header, task=new.task, fork=new.fork, exec=new.exec, exit=new.exit, blob=new.blob,
        )  # fmt: skip


def snapshot_frame(reader: ProcReader, *, boot_id: bytes, ring: int, before_boot_ns: int, with_envs: bool) -> bytes:
    """Return a frame with the live processes that started before `before_boot_ns`.

    Each process is an exec record at the time of its start, with FLAG_PARTIAL: this is the only event that ``/proc``
    proves. For a process that started later, the rings contain the fork.

    Args:
        reader: of ``/proc``.
        boot_id: of this boot.
        ring: a ring number of its own, so that the frame has positions of its own.
        before_boot_ns: when the capture started.
        with_envs: whether environments are recorded.
    """
    infos = []
    for tgid in reader.list_pids().tolist():
        info = reader.read(tgid, WANT_DEFAULT | (WANT_ENVS if with_envs else 0))
        if info is not None and not info.is_kthread and not info.is_zombie and info.start_boot_ns < before_boot_ns:
            infos.append(info)
    # Parents first: within one tick, the pid is the best indication of the order.
    infos.sort(key=lambda info: (info.start_ticks, info.tgid))
    made = to_records(infos)
    header, task = made.header.copy(), made.task.copy()
    header["ring_seq"] = np.arange(len(infos))
    ends = record_ends(header).cumsum()  # the ends of the records if the first is at position 0
    header["ring_pos"][1:] = ends[:-1]
    task["known"] = [known_groups(info) for info in infos]
    return FrameEncoder(boot_id=boot_id, source="snapshot").encode(
        ring=ring, seq=0, from_pos=0, to_pos=int(ends[-1]) if infos else RECORD_HEADER_BYTES, count=len(infos),
        lost={}, header=header, task=task, exec=made.exec, blob=made.blob,
    )  # fmt: skip


def follow(shard: Shard, waiter: RingWaiter, seconds: float | None, progress: Callable[[], None] = lambda: None) -> int:
    """Record for `seconds` or until a signal, then record the rest of the rings; return the number of records."""
    deadline = None if seconds is None else time.monotonic() + seconds
    total = 0
    while not waiter.stopping:
        records = shard.do_work(BUDGET_RECORDS)
        total += records
        progress()
        wait = _BUSY_S if records else _IDLE_S
        if deadline is not None:
            wait = min(wait, deadline - time.monotonic())
            if wait <= 0:
                break
        if records < BUDGET_RECORDS:
            waiter.wait(Wait(wait, False))
    targets = [(ring, ring.producer_pos) for ring in shard.rings]
    while any(ring.cursor < target for ring, target in targets):
        before = [ring.cursor for ring in shard.rings]
        total += shard.do_work(BUDGET_RECORDS)
        if before == [ring.cursor for ring in shard.rings]:
            break  # its producer never finished the next record
    return total


def lost_in(states_lost: tuple[int, ...]) -> dict[str, int]:
    """Return the losses so far, by kind; those of unknown kind have the key ``unknown``."""
    names = ("unknown", *declared.KIND_NAMES[1:])
    return {name: count for name, count in zip(names, states_lost, strict=True) if count}
