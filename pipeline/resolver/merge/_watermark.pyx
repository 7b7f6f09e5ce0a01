"""How far each kernel ring has been received in time, and which rings are passed over. The rules are in _merger.pyx.

The module is compiled because it runs at every turn of the resolver, even without a frame: with numpy, a turn with two
rings cost more than applying sixty events.
"""

from libc.stdint cimport uint64_t

import numpy as np

cdef enum:
    #: Samples of (time, positions) that wait for their frames. At the limit, every other one is dropped.
    SAMPLES_MAX = 64


cdef class RingWatermarks:
    """Times, positions and watermarks of all rings. For one thread.

    Args:
        ring_count: rings.
        received_pos, applied_pos: shape (ring_count,), uint64; the merger's own arrays, read here.
        stall_ns, hold_ns, slack_ns: see _merger.Merger.

    Attributes:
        seen: shape (ring_count,), uint64, boot ns: received up to here.
        stalled: shape (ring_count,), bool: passed over.
        stalls: how often a ring began to be passed over.
        complete: no ring is passed over.
    """

    def __init__(
        self, int ring_count, received_pos, applied_pos, uint64_t stall_ns, uint64_t hold_ns, uint64_t slack_ns
    ):
        self.rings = ring_count
        self.received, self.applied = received_pos, applied_pos
        self.stall_ns, self.hold_ns, self.slack_ns = stall_ns, hold_ns, slack_ns
        self.seen = np.zeros(ring_count, np.uint64)
        self.stalled = np.zeros(ring_count, np.bool_)
        self.seen_view = self.seen
        self.stalled_view = self.stalled.view(np.uint8)
        self.moved_pos, self.moved_ns, self.behind_ns = np.zeros((3, ring_count), np.uint64)
        self.still, self.given_up, self.behind = np.zeros((3, ring_count), np.uint8)
        self.samples = np.zeros((SAMPLES_MAX, ring_count), np.uint64)
        self.times = np.zeros(SAMPLES_MAX, np.uint64)
        self.complete = True

    cdef void begin(self, uint64_t now) noexcept nogil:
        """Start the clock: no ring has been still or behind before."""
        cdef int r
        for r in range(self.rings):
            self.moved_ns[r] = self.behind_ns[r] = now
            self.moved_pos[r] = self.received[r]

    cdef uint64_t observe(self, uint64_t now, const uint64_t *producer, bint is_crowded) noexcept nogil:
        """Note the positions at `now`; return the time up to which all rings that are not passed over are received.

        Args:
            producer: position of each ring, read after `now`.
            is_crowded: too many events wait, so rings that are behind are passed over at once.
        """
        self._note(now, producer)
        return self._pass_over(now, is_crowded)

    cdef void _note(self, uint64_t now, const uint64_t *producer) noexcept nogil:
        cdef int r, i, reached
        cdef int passed = SAMPLES_MAX
        cdef bint any_behind = False
        for r in range(self.rings):
            self.behind[r] = self.received[r] < producer[r]
            if self.behind[r]:
                any_behind = True
        if not any_behind:
            self.sample_count = 0
            for r in range(self.rings):
                self._see(r, now)
            return
        if self.sample_count == SAMPLES_MAX:
            # A ring is behind for long: keep every other sample, and the oldest, which shows when it was current last.
            self.sample_count = SAMPLES_MAX // 2
            for i in range(self.sample_count):
                self._move_sample(i, 2 * i)
        for r in range(self.rings):
            self.samples[self.sample_count, r] = producer[r]
        self.times[self.sample_count] = now
        self.sample_count += 1
        for r in range(self.rings):
            # Positions only grow, so the first samples are those that a ring has reached.
            reached = 0
            while reached < self.sample_count and self.samples[reached, r] <= self.received[r]:
                reached += 1
            if reached:
                self._see(r, self.times[reached - 1])
            passed = min(passed, reached)
        if passed:
            self.sample_count -= passed
            for i in range(self.sample_count):
                self._move_sample(i, i + passed)

    cdef inline void _see(self, int r, uint64_t time) noexcept nogil:
        if time > self.slack_ns and time - self.slack_ns > self.seen_view[r]:
            self.seen_view[r] = time - self.slack_ns

    cdef inline void _move_sample(self, int to, int source) noexcept nogil:
        cdef int r
        for r in range(self.rings):
            self.samples[to, r] = self.samples[source, r]
        self.times[to] = self.times[source]

    cdef uint64_t _pass_over(self, uint64_t now, bint is_crowded) noexcept nogil:
        cdef int r
        cdef bint is_back = False, held_up = False, held, stalled
        cdef uint64_t limit = 0, lag
        cdef bint has_limit = False
        for r in range(self.rings):
            if self.received[r] != self.moved_pos[r] and self.still[r]:
                is_back = True
        for r in range(self.rings):
            if is_back and self.still[r] and not self.given_up[r]:
                # A shard has returned. Its rings arrive one after the other: wait for all again, so nothing is late.
                self.moved_ns[r] = self.behind_ns[r] = now
            if self.received[r] != self.moved_pos[r] or not self.behind[r]:
                self.moved_ns[r] = now
                self.moved_pos[r] = self.received[r]
            if not self.behind[r]:
                self.behind_ns[r] = now
            self.still[r] = self.behind[r] and now - self.moved_ns[r] > self.stall_ns
            if self.applied[r] < self.received[r] and not self.still[r]:
                held_up = True
        self.complete = True
        for r in range(self.rings):
            held = self.behind[r] and now - self.behind_ns[r] > self.hold_ns
            # A busy ring has more at each look, so it is always behind, but only by what it got meanwhile.
            lag = now - self.slack_ns - self.seen_view[r]
            self.given_up[r] = self.behind[r] and (
                is_crowded
                or (held and not self.still[r] and lag > self.stall_ns)
                or (self.given_up[r] and lag > self.stall_ns // 2)
            )
            # A still ring holds up no other ring as long as only its own events wait.
            stalled = self.given_up[r] or (self.still[r] and (held or held_up))
            if stalled and not self.stalled_view[r]:
                self.stalls += 1
            self.stalled_view[r] = stalled
            if stalled:
                self.complete = False
            elif not has_limit or self.seen_view[r] < limit:
                limit = self.seen_view[r]
                has_limit = True
        # If all rings are stalled, there is no limit, and no order that could be violated: wait.
        return limit

    cdef bint is_behind(self) noexcept nogil:
        """Whether some ring held more at the last `advance` than has been received."""
        cdef int r
        for r in range(self.rings):
            if self.behind[r]:
                return True
        return False

    cdef void applied_until(self, uint64_t frontier, const uint64_t *limits, uint64_t *watermarks) noexcept nogil:
        """Raise `watermarks` after the events before `frontier` have been applied.

        They stay strictly below `frontier`, because the next batch may have events of exactly that time. They stay
        within `limits`, up to which each ring is received: otherwise a successor would skip events of a stalled ring.
        """
        cdef int r
        cdef uint64_t limit
        for r in range(self.rings):
            limit = min(frontier, limits[r])
            if limit and limit - 1 > watermarks[r]:
                watermarks[r] = limit - 1
