"""The duty cycle of a shard: acknowledge, drain, encode, hand over. Waiting and signals are in `pacing` and
`shard_main`.

ZeroMQ loses what it holds when one of its ends is killed, so the ring is the queue. A shard reads ahead of what it has
given back, and gives back only what the resolver says it has applied. When the resolver finds a hole or starts anew it
asks for a position, and the shard reads from there again; the resolver drops what it has seen by byte range. So it does
not matter which frames were lost, and a shard has nothing to remember: a new one begins at the consumer position.

What all rings have at one time goes out as one message: a message costs more than a thousand small records.

A shard imports neither numpy nor the record dtypes, which makes each 9 MB smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pipeline.bus.encode import FrameEncoder
from pipeline.sources._drain import CAUGHT_UP, CORRUPT, FULL, KIND_NAMES, Columns
from pipeline.sources._shared import CpuStates
from pipeline.sources.acks import AckSource
from pipeline.sources.ring import Ring

_KINDS = KIND_NAMES[1:]
#: The clock of the BPF programs is the kernel's fast one and may be behind by so much.
_SLACK_NS = 100_000


class Shard:
    """Owns rings: the one consumer of each.

    Attributes:
        frames_total: frames handed over.
        blocked_total: times that the resolver's side took no frame.
        rewinds_total: times that a ring was read again.
    """

    def __init__(
        self,
        rings: Sequence[Ring],
        *,
        acks: AckSource,
        send: Callable[[bytes], bool],
        cpus: CpuStates,
        boot_id: bytes,
        source: str = "ebpf",
        frame_max_bytes: int = 1 << 20,
    ) -> None:
        """Take over the rings.

        Args:
            rings: at least one.
            acks: what is applied.
            send: hands a frame on; False if it would block, then the frame is offered again later.
            cpus: `pl_shared`.
            boot_id, source: of the frames.
            frame_max_bytes: a frame is closed when it holds so many bytes of records, and a message when its frames do.
        """
        self._rings = list(rings)
        self._acks = acks
        self._send = send
        self._cpus = cpus
        self._encoder = FrameEncoder(boot_id=boot_id, source=source)
        self._columns = Columns(frame_max_bytes)
        self._max_bytes = frame_max_bytes
        #: Frames that are encoded and not yet in a message: their rings, and where in these they begin.
        self._gathered: list[tuple[Ring, int]] = []
        self._gathered_bytes = 0
        #: A message that was not taken yet, and the same of its frames.
        self._pending: tuple[bytes, list[tuple[Ring, int]]] | None = None
        self._marks: dict[int, int | None] = {ring.number: None for ring in self._rings}
        nothing: tuple[int, ...] = (0,) * len(KIND_NAMES)
        self._lost = {ring.number: (nothing, dict.fromkeys(_KINDS, 0)) for ring in self._rings}
        self._first = 0
        self.frames_total = 0
        self.blocked_total = 0
        self.rewinds_total = 0
        # The shard before may have been killed in its sleep.
        self.wake_up()

    @property
    def rings(self) -> Sequence[Ring]:
        """The rings, in the order in which they were given."""
        return self._rings

    @property
    def is_blocked(self) -> bool:
        """Whether a message waits to be taken."""
        return self._pending is not None

    @property
    def is_caught_up(self) -> bool:
        """Whether the last cycle left nothing: no frame, and no record that could be read or is being written."""
        return self._pending is None and all(ring.stop == CAUGHT_UP for ring in self._rings)

    @property
    def is_applied(self) -> bool:
        """Whether everything that was read has been given back."""
        return all(ring.consumer_pos == ring.cursor for ring in self._rings)

    def poll(self, budget: int) -> int:
        """Do bounded work: give back what is applied, and hand over at most about `budget` records.

        Returns:
            Records read, the discarded and malformed included.
        """
        self._acks.refresh()
        for ring in self._rings:
            self._acknowledge(ring)
        if not self._flush():
            return 0
        work = 0
        # Not always the same ring first: with a busy first ring and a slow receiver the last one would starve.
        self._first = (self._first + 1) % len(self._rings)
        for ring in self._rings[self._first :] + self._rings[: self._first]:
            while work < budget:
                work += self._gather(ring, budget - work)
                if self._gathered_bytes >= self._max_bytes and not self._hand_over():
                    return work
                if ring.stop not in (FULL, CORRUPT):
                    break
        self._hand_over()
        return work

    def _acknowledge(self, ring: Ring) -> None:
        ack = self._acks.ring(ring.number)
        if ack is None:
            return
        applied_pos, wanted_pos, mark = ack
        ring.release(applied_pos)
        seen = self._marks[ring.number]
        self._marks[ring.number] = mark
        if seen == mark:
            return
        if seen is None:
            # Whoever wrote this may have come after frames were handed over: read those again. Nothing is skipped: the
            # position may have been asked for by a resolver that is dead by now.
            wanted_pos = min(wanted_pos, ring.cursor)
        before = ring.cursor
        if not ring.rewind(wanted_pos) or ring.cursor == before:
            return
        self.rewinds_total += 1
        if self._pending is not None and any(ring is one for one, _ in self._pending[1]):
            self._take_back(self._pending[1])

    def _take_back(self, frames: list[tuple[Ring, int]]) -> None:
        """Give up the message that waits: behind a hole it would only be dropped. Its rings are read again."""
        self._pending = None
        for ring, from_pos in frames:
            if ring.cursor > from_pos:
                ring.rewind(from_pos)

    def _gather(self, ring: Ring, max_records: int) -> int:
        """Make one frame of what comes next in the ring, if there is anything; returns the records read."""
        from_pos = ring.cursor
        # Before the producer position is read: see the resolver's merge for why this makes a watermark.
        looked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        read = ring.drain(self._columns, max_records)
        lost = self._cpus.lost(ring.cpus)
        told = self._lost[ring.number]
        if ring.cursor == from_pos and lost == told[0] and not self._has_news(ring):
            return read
        if lost != told[0]:
            told = self._lost[ring.number] = lost, dict(zip(_KINDS, lost[1:], strict=True))
        self._encoder.add(
            ring=ring.number,
            seq=self.frames_total + len(self._gathered),
            from_pos=from_pos,
            to_pos=ring.cursor,
            count=self._columns.count,
            lost=told[1],
            malformed=ring.malformed_total,
            watermark_boot_ns=self._watermark(ring, looked_ns),
            **self._columns.views(),
        )
        self._gathered.append((ring, from_pos))
        self._gathered_bytes += ring.cursor - from_pos
        return read

    def _has_news(self, ring: Ring) -> bool:
        """Whether a frame is to be sent although the ring gave nothing. The kernel's rings speak for themselves."""
        return False

    def _watermark(self, ring: Ring, looked_ns: int) -> int | None:
        """Return the time before which nothing more comes in a ring that was drained after `looked_ns`."""
        return looked_ns - _SLACK_NS if ring.stop == CAUGHT_UP else None

    def _hand_over(self) -> bool:
        """Make one message of the frames that were gathered, and offer it; returns whether nothing is left."""
        if self._gathered:
            self._pending = self._encoder.take(), self._gathered
            self._gathered = []
            self._gathered_bytes = 0
        return self._flush()

    def _flush(self) -> bool:
        """Offer the message that waits; returns whether none is left."""
        if self._pending is None:
            return True
        message, frames = self._pending
        if not self._send(message):
            self.blocked_total += 1
            return False
        self.frames_total += len(frames)
        self._pending = None
        return True

    def fall_asleep(self) -> bool:
        """Ask the kernel's side to wake this shard with the next record.

        Returns:
            Whether it may sleep. If not, a record came in between and has perhaps not seen the request: poll again.
        """
        for ring in self._rings:
            self._cpus.set_sleeping(ring.number, True)
        # set_sleeping fenced: a record that did not see the request is visible now (see there).
        if any(ring.has_more for ring in self._rings):
            self.wake_up()
            return False
        return True

    def wake_up(self) -> None:
        """Take the request back: from now on this side looks by itself."""
        for ring in self._rings:
            self._cpus.set_sleeping(ring.number, False)

    def close(self) -> None:
        """Unmap the rings. What was read and is not applied stays in them for the next shard."""
        self.wake_up()
        for ring in self._rings:
            ring.close()
