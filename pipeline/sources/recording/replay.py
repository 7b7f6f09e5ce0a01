"""Send the frames of a recording as a shard sends the frames of its rings.

A recording contains no rings, so the replay simulates each ring that occurs in it. The simulated positions begin at 0
and have neither gaps nor repetitions, even if frames were missing from the recording or were sent twice. Records that
the resolver has not applied are read again from the file, so acknowledgements and rewinds work as usual. There is no
producer position, so each frame contains the time up to which its ring is complete; the recording shows what follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.bus.frames.frame import Frame, FrameEncoder, decode_frames
from pipeline.errors import FrameError
from pipeline.log import Logger, get_logger
from pipeline.sources.recording.file import Recording
from pipeline.sources.ring.acks import AckReader
from pipeline.sources.shard._pacing import RingWaiter, Wait
from pipeline.sources.shard.process import SourceParts

#: The watermark of a ring in which nothing follows: far in the future, and far from the end of 64 bits.
WATERMARK_END_NS = 1 << 62
#: A ring without records sends an empty frame after this time; otherwise the merge would assume a dead sender.
_KEEP_ALIVE_S = 0.1
#: Maximum number of frames in one duty cycle; then the replay reads the acknowledgements again.
BUDGET_FRAMES = 64
#: Pause before the acknowledgements are read again, both until everything is applied and afterwards.
_PAUSE_S = 0.002
_IDLE_PAUSE_S = 0.02


@dataclass(slots=True)
class _Recorded:
    """A frame of the recording, its place in its message, and its place in the simulated ring."""

    message: bytes | memoryview
    index: int
    order: int
    skip_to: int
    shift: int
    from_pos: int
    to_pos: int
    first_boot_ns: int
    watermark_boot_ns: int = WATERMARK_END_NS


@dataclass(slots=True)
class _Ring:
    number: int
    frames: list[_Recorded] = field(default_factory=list)
    end_recorded: int = 0
    end_pos: int = 0
    next: int = 0
    rewind_id: int | None = None
    applied_pos: int = 0
    watermark_boot_ns: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    lost_at_end: dict[str, int] = field(default_factory=dict)
    spoke_s: float = -1e9


class ReplaySource:
    """The sender of a recording.

    Attributes:
        ring_count: highest ring number + 1.
        event_count: records that will be sent.
        frames_total: frames handed over.
        rewinds_total: times that a ring was read again.
        error: why the recording could not be read to its end; None if it could.
    """

    def __init__(
        self,
        messages: Iterable[bytes | memoryview],
        *,
        boot_id: bytes,
        acks: AckReader,
        send: Callable[[bytes], bool],
        clock: Callable[[], float] = time.monotonic,
        capture_id: int = 0,
    ) -> None:
        """Read all frames once.

        Args:
            messages: a `Recording`, or frames in recorded order. They are read again when they are sent.
            boot_id: boot id of the recording.
            acks: as for a shard.
            send: as for a shard.
            clock: returns seconds.
            capture_id: written into the frames.

        Raises:
            FrameError: there is no readable frame.
        """
        self._acks = acks
        self._send = send
        self._clock = clock
        self._encoder = FrameEncoder(boot_id=boot_id, source="replay", capture_id=capture_id)
        self._rings: dict[int, _Ring] = {}
        self._pending: tuple[_Ring, bytes] | None = None
        #: The message that was read last and its order. Its frames are sent one after the other.
        self._read: tuple[int, list[Frame]] = (-1, [])
        self.error: FrameError | None = None
        self.event_count = 0
        self.frames_total = 0
        self.rewinds_total = 0
        try:
            for order, message in enumerate(messages):
                for index, frame in enumerate(decode_frames(message)):
                    self._note(order, message, index, frame)
        except FrameError as error:
            # Earlier frames are complete: a truncated recording is replayed up to there.
            self.error = error
        self._rings = {number: ring for number, ring in self._rings.items() if ring.frames}
        if not self._rings:
            raise self.error or FrameError("the recording is empty", reason="the recording is empty")
        self.ring_count = max(self._rings) + 1
        for ring in self._rings.values():
            later = WATERMARK_END_NS
            for each in reversed(ring.frames):
                each.watermark_boot_ns = later
                later = min(later, each.first_boot_ns)
            ring.watermark_boot_ns = later

    def _note(self, order: int, message: bytes | memoryview, index: int, frame: Frame) -> None:
        ring = self._rings.setdefault(frame.ring, _Ring(frame.ring))
        ring.lost_at_end = frame.lost
        # No records, or a frame that was recorded twice. The simulated ring needs no range without records.
        part = frame.since(ring.end_recorded)
        ring.end_recorded = max(ring.end_recorded, frame.to_pos)
        if part.count == 0:
            return
        to_pos = ring.end_pos + part.to_pos - part.from_pos
        first_boot_ns = int(part.header["time_boot_ns"].min())
        shift = ring.end_pos - part.from_pos
        ring.frames.append(_Recorded(message, index, order, part.from_pos, shift, ring.end_pos, to_pos, first_boot_ns))
        ring.end_pos = to_pos
        self.event_count += part.count

    @property
    def is_sent(self) -> bool:
        """Whether every frame has been handed over."""
        return self._pending is None and all(ring.next == len(ring.frames) for ring in self._rings.values())

    @property
    def is_applied(self) -> bool:
        """Whether every record has been applied."""
        return all(ring.applied_pos >= ring.end_pos for ring in self._rings.values())

    def do_work(self, budget: int) -> int:
        """Do bounded work: read the acknowledgements, and hand over at most `budget` frames.

        Returns:
            The number of frames handed over.
        """
        self._acks.refresh()
        for ring in self._rings.values():
            self._acknowledge(ring)
        now = self._clock()
        done = 0
        while done < budget:
            if self._pending is None and not self._prepare(now):
                break
            if not self._flush(now):
                break
            done += 1
        return done

    def _acknowledge(self, ring: _Ring) -> None:
        ack = self._acks.ring(ring.number)
        if ack is None:
            return
        ring.applied_pos, wanted_pos, rewind_id = ack
        seen, ring.rewind_id = ring.rewind_id, rewind_id
        while ring.next < len(ring.frames) and ring.frames[ring.next].to_pos <= ring.applied_pos:
            ring.next += 1
        if seen == rewind_id:
            return
        before = ring.next
        while ring.next and ring.frames[ring.next - 1].to_pos > wanted_pos:
            ring.next -= 1
        if ring.next != before:
            self.rewinds_total += 1
            if self._pending is not None and self._pending[0] is ring:
                self._pending = None

    def _prepare(self, now: float) -> bool:
        """Encode the next frame, or an empty frame to show that the sender lives; return whether there is a frame."""
        # Empty frames first, initially one for each ring: the merge does not wait for a ring of which it has no frame.
        for ring in self._rings.values():
            if now - ring.spoke_s >= _KEEP_ALIVE_S:
                self._pending = ring, self._encode_nothing(ring)
                return True
        waiting = [ring for ring in self._rings.values() if ring.next < len(ring.frames)]
        if not waiting:
            return False
        ring = min(waiting, key=lambda ring: ring.frames[ring.next].order)
        recorded = ring.frames[ring.next]
        self._pending = ring, self._encode(ring, recorded)
        ring.next += 1
        return True

    def _flush(self, now: float) -> bool:
        assert self._pending is not None
        ring, message = self._pending
        if not self._send(message):
            return False
        self._pending = None
        self.frames_total += 1
        ring.spoke_s = now
        return True

    def _encode(self, ring: _Ring, recorded: _Recorded) -> bytes:
        if self._read[0] != recorded.order:
            self._read = recorded.order, decode_frames(recorded.message)
        frame = self._read[1][recorded.index].since(recorded.skip_to)
        ring.lost = frame.lost
        header = frame.header.copy()
        # A negative shift is added modulo 2**64.
        header["ring_pos"] += np.uint64(recorded.shift & (1 << 64) - 1)
        return self._encoder.encode(
            ring=ring.number, seq=self.frames_total, from_pos=recorded.from_pos, to_pos=recorded.to_pos,
            count=frame.count, lost=frame.lost, malformed=frame.malformed, watermark_boot_ns=recorded.watermark_boot_ns,
            header=header, task=frame.task, fork=frame.fork, exec=frame.exec, exit=frame.exit, blob=frame.blob,
        )  # fmt: skip

    def _encode_nothing(self, ring: _Ring) -> bytes:
        last = ring.frames[ring.next - 1] if ring.next else None
        position = last.to_pos if last else 0
        return self._encoder.encode(
            ring=ring.number, seq=self.frames_total, from_pos=position, to_pos=position, count=0,
            lost=ring.lost_at_end if ring.next == len(ring.frames) else ring.lost,
            watermark_boot_ns=last.watermark_boot_ns if last else ring.watermark_boot_ns,
        )  # fmt: skip


class ReplayProcess:
    """A replay in its process.

    Args:
        source: sends the frames.
        path: path of the recording, for the log.
    """

    def __init__(self, source: ReplaySource, path: Path) -> None:
        self._source = source
        self._path = path
        self._log: Logger = get_logger()
        self.descriptors: tuple[int, ...] = ()
        if source.error is not None:
            self._log.warning(f"{source.error}; only the frames before that are replayed")

    def run(self, waiter: RingWaiter) -> None:
        """Replay the recording, then keep its rings current until the waiter reports that it is time to stop."""
        is_logged = False
        while not waiter.stopping:
            if not self._source.do_work(BUDGET_FRAMES):
                waiter.wait(Wait(_IDLE_PAUSE_S if self._source.is_applied else _PAUSE_S, False))
            if self._source.is_applied and not is_logged:
                is_logged = True
                self._log.info("replayed", file=str(self._path), events=self._source.event_count)

    def drain(self, deadline_s: float) -> None:
        """If everything has been sent, wait until it is applied, at most until this monotonic time."""
        while self._source.is_sent and not self._source.is_applied and time.monotonic() < deadline_s:
            self._source.do_work(BUDGET_FRAMES)
            time.sleep(_PAUSE_S)


def open_replay(source: str, parts: SourceParts) -> ReplayProcess:
    """Open the recording named by the source ``replay:FILE``.

    Raises:
        ConfigError: the file cannot be read.
        FrameError: the file contains no readable frame.
    """
    path = Path(source.partition(":")[2])
    recording = Recording(path)
    replay = ReplaySource(
        recording, boot_id=recording.boot_id, acks=parts.acks, send=parts.send, capture_id=parts.capture_id
    )
    return ReplayProcess(replay, path)
