"""For how long events may gather before the shards read them, so that readers have them in time.

`capture.freshness_ms` is the age that an event may have when it is in the tables, at the 99th percentile. An event is
delayed in two ways: it gathers, and then the message and the resolver's turn take their time. That second delay is half
a millisecond on an idle host, and many milliseconds where other programs compete for the CPU. So it is measured: the
age of the oldest event of a turn, less the time for which events gathered. The 99th percentile of these delays is
estimated, and events gather for the time that it leaves.

The estimate is a stochastic approximation: a delay above it raises it by 99 steps, any other lowers it by one. So it
rests where one delay in a hundred is above it. A value costs some additions and no memory of the delays before it, and
an outlier moves it by 99 steps at most, however large.

It is compiled because it runs at every turn (see _turn.pyx).
"""

cimport cython
from libc.math cimport floor
from libc.stdint cimport int64_t, uint32_t

from pipeline.records import limits

#: The longest and the shortest time for which events gather, as parts of the freshness. Below the shortest, a turn
#: would cost more than what it saves in age.
cdef double _MOST = limits.GATHER_PART
cdef double _LEAST = 0.4
#: The delay for which the estimate begins, and the part of the freshness that is left free, because a sleep may take
#: longer than it should.
cdef double _FIRST = 0.2
cdef double _MARGIN = 0.05
#: The time for gathering is a multiple of this part of the freshness, or of a millisecond if that is shorter. Otherwise
#: the shards would be asked to change it at each turn.
cdef double _ROUNDED = 0.05
cdef double _ROUNDED_MOST_NS = 1e6
#: Step of the estimate, as part of the freshness. With 60 turns a second it falls by 3 % of the freshness a second.
cdef double _STEP = 0.0005
cdef double _ABOVE = 99.0


@cython.final
cdef class Gathering:
    """Estimates how late events are, and chooses for how long they gather.

    Args:
        freshness_ns: how old an event may be when it is in the tables, at the 99th percentile.

    Attributes:
        gather_us: for how long events may gather, in us.
    """

    def __init__(self, double freshness_ns) -> None:
        if not freshness_ns > 0:
            raise ValueError("the freshness must be positive")
        self._freshness_ns = freshness_ns
        self._delay_ns = freshness_ns * _FIRST
        self._choose()

    @property
    def delay_ns(self) -> float:
        """The estimated 99th percentile of the delay after gathering."""
        return self._delay_ns

    cpdef bint note(self, int64_t age_ns) noexcept nogil:
        """Note the age of the oldest event of a turn; returns whether `gather_us` has changed."""
        cdef double step = self._freshness_ns * _STEP
        cdef uint32_t before = self.gather_us
        if <double>age_ns - self._gather_ns > self._delay_ns:
            self._delay_ns = min(self._delay_ns + _ABOVE * step, self._freshness_ns)
        else:
            self._delay_ns = max(self._delay_ns - step, 0.0)
        self._choose()
        return self.gather_us != before

    cdef void _choose(self) noexcept nogil:
        cdef double least = self._freshness_ns * _LEAST, rounded
        cdef double unit = min(self._freshness_ns * _ROUNDED, _ROUNDED_MOST_NS)
        self._gather_ns = self._freshness_ns * (1.0 - _MARGIN) - self._delay_ns
        self._gather_ns = min(max(self._gather_ns, least), self._freshness_ns * _MOST)
        rounded = floor(self._gather_ns / unit) * unit
        if rounded >= least:
            self._gather_ns = rounded
        self.gather_us = <uint32_t>(self._gather_ns / 1000)
