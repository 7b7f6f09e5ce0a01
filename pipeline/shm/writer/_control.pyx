"""Write the control segment: state and heartbeat, acknowledgement of ring positions, commits.

shm/layout/declared.py defines layout and units, control.py reads the segment, and _writer.pyx and _arena.pyx write rows
and strings.

A kill at any point of commit and acknowledge is safe. A commit fills the slot that commit_index does not name and then
changes commit_index, one aligned word, with a release store.

- Killed while filling the slot: commit_index still names the other, unchanged slot; its positions are those of the
  previous commit. The events applied since then are read again from the rings and applied again (idempotent). Counters
  start from the slot's copy, so each event is counted once.
- Killed after the change of commit_index, before acknowledge: the new slot is complete (release). RING_ACK is behind
  it, so the shards only keep more than necessary; the successor acknowledges when it starts.
- Killed within acknowledge: each applied_pos is one aligned word with the old or the new value, and everything before
  either position is committed. The rings need not agree with each other.
- RING_ACK is never ahead of the valid slot, because it is stored after the change. This guarantees that events are
  applied exactly once: everything that the kernel may overwrite is in the tables, and everything that is not in the
  tables can be read again.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pipeline.records._clock cimport pl_now_boot_ns
from pipeline.shm.layout._layout cimport (
    PL_AUDIENCE_NOBODY, PL_AUDIENCE_READERS, PL_AUDIENCE_SUBSCRIBERS, PL_SEQ_COUNT, PL_STATE_READY,
    PL_STATE_SUPERSEDED, pl_commit, pl_commit_ring, pl_control, pl_fence_release, pl_ring_ack, pl_store_relaxed64,
    pl_store_release32, pl_store_release64,
)
from pipeline.shm.writer._segment cimport Segment

import os

import numpy as np

from pipeline.shm.layout import layout
from pipeline.shm.layout.control import COUNTER_INDEX, Committed


cdef extern from "fcntl.h" nogil:
    struct flock:
        short l_type
    int fcntl(int fd, int command, flock *lock)
    int F_OFD_GETLK, F_WRLCK, F_UNLCK


#: Interval between heartbeats during long work. Readers report a writer as gone after one second without one.
cdef uint64_t LIFE_NS = 100_000_000


cdef class ControlWriter:
    """Write `control`; TableWriter adds the tables. Holds `writer.lock` for its lifetime.

    Attributes:
        is_read: a reader had the tables open when `show_audience` last searched for one.
    """

    def __cinit__(self):
        self.lock_fd = -1

    def __dealloc__(self):
        if self.lock_fd >= 0:
            os.close(self.lock_fd)

    cdef void map_control(self, Segment segment) noexcept:
        self.control_segment = segment
        self.control = <pl_control *>segment.base
        self.acks = <pl_ring_ack *>(segment.base + self.control.ring_offset)
        self.changes = <uint32_t *>(segment.base + self.control.changes_offset)
        self.counters = self.own_counters

    cdef pl_commit *slot(self, unsigned int index) noexcept nogil:
        return <pl_commit *>(<char *>self.control + self.control.commit_offset + index * self.control.commit_bytes)

    cdef pl_commit_ring *slot_rings(self, unsigned int index) noexcept nogil:
        return <pl_commit_ring *>(<char *>self.slot(index) + sizeof(pl_commit))

    cdef void gauges(self, pl_commit *slot) noexcept nogil:
        pass

    # -- commit -----------------------------------------------------------------------------------------------------

    def commit(
        self, uint64_t watermark_boot_ns, const uint64_t[::1] ring_pos not None,
        const uint64_t[::1] ring_watermark not None, const uint64_t[::1] topic_seq not None,
    ) -> None:
        """Commit the state from which a successor continues.

        Args:
            watermark_boot_ns: events before this time are in the tables.
            ring_pos: shape (ring_count,); records before this position are applied.
            ring_watermark: shape (ring_count,); events of the ring before this time are applied.
            topic_seq: shape (up to SEQ_COUNT,); last sequence number of each topic.
        """
        self._require_open()
        cdef uint32_t rings = self.control.ring_count
        if ring_pos.shape[0] != rings or ring_watermark.shape[0] != rings or topic_seq.shape[0] > PL_SEQ_COUNT:
            raise ValueError(f"commit: {rings} rings and up to {PL_SEQ_COUNT} numbers of topics expected")
        cdef const uint64_t *topics = &topic_seq[0] if topic_seq.shape[0] else NULL
        with nogil:
            self._commit(watermark_boot_ns, &ring_pos[0], &ring_watermark[0], topics, <uint32_t>topic_seq.shape[0])

    cdef void _commit(
        self, uint64_t watermark, const uint64_t *pos, const uint64_t *ring_watermark, const uint64_t *topics,
        uint32_t topic_count,
    ) noexcept nogil:
        cdef unsigned int valid = self.control.commit_index & 1
        cdef pl_commit *old = self.slot(valid)
        cdef pl_commit *new = self.slot(valid ^ 1)
        cdef pl_commit_ring *rings = self.slot_rings(valid ^ 1)
        cdef uint32_t i
        # Number 0 marks the slot as being filled for a slow reader that is still copying it. The fence orders the
        # following stores after it (pairs with the acquire fence before the reader's second load).
        pl_store_relaxed64(&new.number, 0)
        pl_fence_release()
        new.watermark_boot_ns = watermark
        new.time_boot_ns = pl_now_boot_ns()
        self.gauges(new)
        memcpy(new.counters, self.counters, sizeof(new.counters))
        memcpy(new.topic_seq, old.topic_seq, sizeof(new.topic_seq))
        for i in range(topic_count):
            new.topic_seq[i] = topics[i]
        for i in range(self.control.ring_count):
            rings[i].applied_pos = pos[i]
            rings[i].watermark_boot_ns = ring_watermark[i]
        pl_store_release64(&new.number, old.number + 1)
        # Release: a reader that loads the new index with acquire sees the complete slot. On aarch64 stlr orders all
        # earlier stores before it.
        pl_store_release32(&self.control.commit_index, valid ^ 1)

    def committed(self) -> Committed:
        """Return the valid commit slot (as private copies)."""
        self._require_open()
        cdef unsigned int valid = self.control.commit_index & 1
        cdef pl_commit *slot = self.slot(valid)
        copy = np.frombuffer(self.commit_view(valid).tobytes(), layout.COMMIT)[0]
        rings = np.frombuffer(
            self.control_segment, layout.COMMIT_RING, self.control.ring_count,
            <char *>self.slot_rings(valid) - <char *>self.control,
        ).copy()
        return Committed(
            number=slot.number, watermark=slot.watermark_boot_ns, rings=rings,
            counters=copy["counters"].copy(), topic_seq=copy["topic_seq"].copy(),
        )

    def acknowledge(self, const uint64_t[::1] received_pos=None, const uint8_t[::1] stalled=None) -> None:
        """Show the positions of the last commit, so that the shards can release the ring memory before them.

        Args:
            received_pos: shape (ring_count,); positions that have reached the resolver (only for observers).
            stalled: shape (ring_count,); 1 where the merge currently skips the ring (only for observers).
        """
        self._require_open()
        cdef uint32_t rings = self.control.ring_count
        if (received_pos is not None and received_pos.shape[0] != rings) or (
            stalled is not None and stalled.shape[0] != rings
        ):
            raise ValueError(f"acknowledge: {rings} rings expected")
        self._acknowledge(
            &received_pos[0] if received_pos is not None else NULL, &stalled[0] if stalled is not None else NULL
        )

    cdef void _acknowledge(self, const uint64_t *received_pos, const uint8_t *stalled) noexcept nogil:
        cdef uint32_t i
        cdef pl_commit_ring *slot = self.slot_rings(self.control.commit_index & 1)
        for i in range(self.control.ring_count):
            pl_store_release64(&self.acks[i].watermark_boot_ns, slot[i].watermark_boot_ns)
            # Release: after this store the kernel may overwrite the bytes, so every store that applied them, and the
            # commit, must be visible first. Pairs with the shard's acquire load before it moves the consumer position.
            pl_store_release64(&self.acks[i].applied_pos, slot[i].applied_pos)
            if received_pos != NULL:
                pl_store_release64(&self.acks[i].received_pos, received_pos[i])
            if stalled != NULL:
                pl_store_release64(&self.acks[i].stalled, stalled[i])

    def request_rewind(self, uint32_t ring, uint64_t position) -> None:
        """Request that the ring's shard reads again from `position`, which must not have been released."""
        self._require_ring(ring)
        cdef pl_ring_ack *ack = &self.acks[ring]
        pl_store_relaxed64(&ack.wanted_pos, position)
        # Release: a shard that loads the new number (acquire) also sees the matching position.
        pl_store_release64(&ack.rewind_seq, ack.rewind_seq + 1)

    # -- state ------------------------------------------------------------------------------------------------------

    def heartbeat(self, uint64_t now_boot_ns) -> None:
        """Store the heartbeat; readers report the writer as gone when it is older than one second."""
        self._require_open()
        pl_store_release64(&self.control.heartbeat_boot_ns, now_boot_ns)

    cdef void show_life(self) noexcept nogil:
        """Store a heartbeat if the last one is older than LIFE_NS; for work that may take long."""
        cdef uint64_t now = pl_now_boot_ns()
        if now > self.control.heartbeat_boot_ns + LIFE_NS:
            pl_store_release64(&self.control.heartbeat_boot_ns, now)

    def py_show_life(self) -> None:
        """Store a heartbeat unless the last one is recent. Call it between the steps of work that may take long."""
        self._require_open()
        self.show_life()

    def show_audience(self, bint has_subscribers, bint is_watched) -> int:
        """Store which programs wait for events (AUDIENCE_*), for the shards; return it.

        Readers are found by their locks (`_reader.pyx`). Any user may hold one, and then the daemon only reads the
        rings as often as for a reader.

        Args:
            has_subscribers: whether an event of the stream has a subscriber.
            is_watched: a reader that opens the tables is noticed at once. If not, there may always be one.
        """
        cdef flock lock
        cdef uint32_t audience = PL_AUDIENCE_SUBSCRIBERS
        self._require_open()
        if not has_subscribers:
            memset(&lock, 0, sizeof(lock))  # any lock on any part of the file
            lock.l_type = F_WRLCK
            self.is_read = fcntl(self.control_segment.fd, F_OFD_GETLK, &lock) == 0 and lock.l_type != F_UNLCK
            audience = PL_AUDIENCE_NOBODY if is_watched and not self.is_read else PL_AUDIENCE_READERS
        if audience != self.control.audience:
            pl_store_release32(&self.control.audience, audience)
        return audience

    cdef void show_gathering(self, uint32_t gather_us) noexcept nogil:
        """Store for how long events may gather with readers, for the shards."""
        pl_store_release32(&self.control.gather_us, gather_us)

    @property
    def contexts_waiting(self) -> int:
        """How many context events wait to be dispatched, or waited when the predecessor ended."""
        return self.control.contexts_waiting

    def show_contexts_waiting(self, uint32_t count) -> None:
        """Store how many context events wait to be dispatched, so that a successor can count them as dropped."""
        self._require_open()
        self.control.contexts_waiting = count

    def set_state(self, uint32_t state) -> None:
        """Store STATE_*; the first READY of a capture also records when the table was complete."""
        self._require_open()
        if state > PL_STATE_SUPERSEDED:
            raise ValueError(f"no state {state}")
        if state == PL_STATE_READY and self.control.ready_boot_ns == 0:
            self.control.ready_boot_ns = pl_now_boot_ns()
        # Release: a reader that sees READY sees every row of the snapshot.
        pl_store_release32(&self.control.state, state)

    @property
    def state(self) -> int:
        """STATE_* of shm/layout/declared.py."""
        self._require_open()
        return self.control.state

    @property
    def epoch(self) -> int:
        """Number of table rebuilds."""
        self._require_open()
        return self.control.epoch

    @property
    def takeovers(self) -> int:
        """Number of take-overs in this epoch."""
        self._require_open()
        return self.control.takeovers

    @property
    def directory(self):
        """Path of the instance's directory."""
        return self.directory_path

    @property
    def ring_count(self) -> int:
        """Number of rings."""
        self._require_open()
        return self.control.ring_count

    # -- counters ---------------------------------------------------------------------------------------------------

    def counter(self, str name) -> int:
        """Return the running value of a counter of COUNTERS (readers see it after the next commit)."""
        return self.own_counters[<uint32_t>COUNTER_INDEX[name]]

    def count(self, str name, uint64_t n=1) -> None:
        """Add to a counter."""
        self.own_counters[<uint32_t>COUNTER_INDEX[name]] += n

    def set_counter(self, str name, uint64_t value) -> None:
        """Store the value of a counter that is counted elsewhere (in the kernel)."""
        self.own_counters[<uint32_t>COUNTER_INDEX[name]] = value

    # -- views: the resolver and pipeline/shm/check read them -------------------------------------------------------

    def control_memory(self) -> Segment:
        """Return the whole control segment (buffer protocol)."""
        self._require_open()
        return self.control_segment

    def control_view(self):
        """Return a live, writable view of the header. Shape (1,), dtype CONTROL."""
        self._require_open()
        return np.frombuffer(self.control_segment, layout.CONTROL, 1)

    def ring_ack_view(self):
        """Return a live, writable view. Shape (ring_count,), dtype RING_ACK."""
        self._require_open()
        return np.frombuffer(self.control_segment, layout.RING_ACK, self.control.ring_count, self.control.ring_offset)

    def commit_view(self, uint32_t index):
        """Return a live, writable view of slot 0 or 1. Shape (1,), dtype COMMIT."""
        self._require_open()
        return np.frombuffer(
            self.control_segment, layout.COMMIT, 1, self.control.commit_offset + (index & 1) * self.control.commit_bytes
        )

    def _require_open(self):
        if self.control == NULL:
            raise ValueError("the table writer is closed")

    def _require_ring(self, uint32_t ring):
        self._require_open()
        if ring >= self.control.ring_count:
            raise IndexError(f"ring {ring} of {self.control.ring_count}")
