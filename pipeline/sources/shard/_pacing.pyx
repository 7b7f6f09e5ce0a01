"""When a shard reads its rings again: `Pacer` decides, `RingWaiter` waits, and `run` repeats this until the stop.

The cost of an event is that of its turn: the shard and the resolver wake up with cold caches, whatever the message
carries. So a shard lets events gather, for as long as `capture.freshness_ms` permits, and reads them in one go.

Under load it reads its rings at an interval, and the kernel wakes no process. On a quiet host a timer would only keep
idle CPUs busy. There the shard sleeps until a record wakes it, lets the records that follow gather, such as the exec
and the exit of a fork, and then reads. The rate of records selects the mode: at less than one record in an interval, a
timer would not combine any records.

How long events gather depends on the programs that wait for them (AUDIENCE_*). On a quiet host a subscriber gets each
event at once; otherwise events gather for a few milliseconds, because each turn also wakes the subscriber. Readers see
tables that are at most the freshness behind: the resolver measures what remains of it for gathering. If no reader has
the tables open, events may gather for longer. When a program opens them, the resolver notices it and ends the waits of
all shards (`hurry_fd`), before that program can have read anything. It does the same when a reader asks for the state
of now.

With a freshness of 0, events do not gather: a record wakes the shard, which reads it at once. Under load the shard
reads at its shortest interval, a millisecond.

It is compiled because each cycle runs with cold caches (see the resolver's _turn.pyx).
"""

import os
import signal

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, EPERM, errno
from libc.math cimport ceil
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from posix.unistd cimport close

from pipeline.records import limits
from pipeline.host._epoll cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLET, EPOLLIN, epoll_create1, epoll_ctl, epoll_event, pl_epoll_wait,
)
from pipeline.records._clock cimport CLOCK_MONOTONIC, pl_clock_ns
from pipeline.shm.layout._layout cimport PL_AUDIENCE_NOBODY, PL_AUDIENCE_SUBSCRIBERS
from pipeline.sources.shard._shard cimport Shard


cdef extern from *:
    """
    /* Whether this is Python's only thread. Then no other thread waits for the interpreter's lock during a sleep, so
     * the lock is kept: releasing and reacquiring it would touch thirty cache lines, which are cold after a sleep. */
    static inline int pl_is_alone(void)
    {
        return !PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get()));
    }
    """
    bint pl_is_alone() noexcept

cdef enum:
    _WOKEN = 8  # events that one wait can return; their content is not used

#: The rate of records is averaged over this time, in seconds.
cdef double _RATE_WINDOW_S = 0.1
#: With subscribers, events gather for this time, in seconds, if the freshness permits it.
cdef double _SUBSCRIBED_S = 0.008
#: With subscribers and fewer records per second than this, an event is sent at once. Each is then a turn of its own,
#: which takes as long as one of a hundred events, so this bounds what low latency costs.
cdef double _AT_ONCE_RATE = 50.0
cdef double _GATHER_PART = limits.GATHER_PART
#: Under load, the rings are read at most once in this time, in seconds, however small the freshness is. A turn takes a
#: quarter of a millisecond of CPU time. In a storm, reading them every 0.4 ms instead takes a third more CPU time.
cdef double _INTERVAL_LEAST_S = 0.001
#: How long events gather while no reader has the tables open, unless the freshness permits more. Facts that are read
#: from /proc, such as the user names of a container, are missing for processes that have ended by then. The merge
#: passes over a ring that is behind for longer than merge.stall_ms (1000).
cdef double _UNSEEN_S = 0.25
#: How long a shard sleeps, in seconds, before it checks whether the resolver wants a rewind.
cdef double _SLEEP_S = 1.0
#: The same while records are not applied yet and their space must be released; doubled after each check in vain.
cdef double _UNAPPLIED_S = 0.1
cdef double _UNAPPLIED_MAX_S = 0.4


cdef class Wait:
    """How to wait. With `asleep`, any record can end the wait; otherwise only a ring that is filling up can."""

    cdef readonly double seconds
    cdef readonly bint asleep

    def __init__(self, double seconds, bint asleep):
        self.seconds, self.asleep = seconds, asleep

    def __eq__(self, other):
        return isinstance(other, Wait) and (self.seconds, self.asleep) == (other.seconds, other.asleep)

    def __repr__(self):
        return f"Wait({self.seconds}, {bool(self.asleep)})"


@cython.final
cdef class Pacer:
    """Chooses the next wait from the results of the last duty cycle. Uses no clock and no descriptor.

    Args:
        freshness_s: how far the tables may be behind, in seconds; 0: events do not gather.

    Attributes:
        rate: records per second.
        gather_s: how long to let events gather after the next wake-up, in seconds.
    """

    cdef double _freshness_s, _gathered_s, _interval_s, _unapplied_s, _seconds
    cdef uint32_t _audience, _advised_us
    cdef readonly double rate, gather_s

    def __init__(self, *, double freshness_s):
        self._freshness_s = freshness_s
        self._unapplied_s = _UNAPPLIED_S
        self._audience = UINT32_MAX
        self.attend(PL_AUDIENCE_NOBODY, 0)

    cpdef void attend(self, uint32_t audience, uint32_t gather_us) noexcept:
        """Choose waits for this audience (AUDIENCE_*) from now on.

        Args:
            audience: AUDIENCE_*.
            gather_us: for how long events may gather with readers, as the resolver has measured it; 0: unknown.
        """
        cdef double seconds = self._freshness_s * _GATHER_PART
        if audience == self._audience and gather_us == self._advised_us:
            return
        self._audience, self._advised_us = audience, gather_us
        if audience == PL_AUDIENCE_SUBSCRIBERS:
            seconds = min(seconds, _SUBSCRIBED_S)
        elif audience == PL_AUDIENCE_NOBODY:
            seconds = max(seconds, _UNSEEN_S)
        elif gather_us > 0:
            seconds = min(seconds, <double>gather_us / 1e6)
        self._gathered_s = seconds
        self._interval_s = max(seconds, _INTERVAL_LEAST_S)
        self._gather()

    cdef void _gather(self) noexcept:
        """Set `gather_s`."""
        cdef bint is_at_once = self._audience == PL_AUDIENCE_SUBSCRIBERS and self.rate < _AT_ONCE_RATE
        self.gather_s = 0.0 if is_at_once else self._gathered_s

    def choose(self, int64_t records, double elapsed_s, *, bint is_exhausted, bint is_caught_up, bint is_applied):
        """Return how long to wait, and in which mode.

        Args:
            records: number of records that the cycle read.
            elapsed_s: seconds since the previous cycle.
            is_exhausted: the cycle ended because its budget was used up.
            is_caught_up: nothing is left: no record is being written, and no frame is waiting to be sent.
            is_applied: every record that was read has been applied.
        """
        cdef bint asleep = self._choose(records, elapsed_s, is_exhausted, is_caught_up, is_applied)
        return Wait(self._seconds, asleep)

    cdef bint _choose(self, int64_t records, double elapsed_s, bint is_exhausted, bint is_caught_up, bint is_applied):
        """Set `_seconds`; returns whether to sleep until the next record."""
        cdef double elapsed = max(elapsed_s, 1e-6)
        self.rate += min(1.0, elapsed / _RATE_WINDOW_S) * (<double>records / elapsed - self.rate)
        self._gather()
        if is_exhausted:
            self._seconds = 0.0
            return False
        if is_caught_up and self.rate * self._interval_s < 1.0:
            if is_applied:
                self._unapplied_s = _UNAPPLIED_S
                self._seconds = _SLEEP_S
            else:
                self._unapplied_s = _UNAPPLIED_S if records else min(self._unapplied_s * 2, _UNAPPLIED_MAX_S)
                self._seconds = self._unapplied_s
            return True
        self._seconds = self._interval_s
        return False


cdef class RingWaiter:
    """Waits for a time to pass, for a ring's wake-up, or for SIGTERM or SIGINT. Installs the handlers of both signals.

    Only the main thread can handle signals, so this object belongs to the main thread.

    Args:
        descriptors: the rings' descriptors.
        hurry_fd: an eventfd by which somebody asks for the events of now; negative: there is none.

    Attributes:
        stopping: SIGTERM or SIGINT has arrived.
        is_hurried: the last wait ended because of `hurry_fd`.
    """

    cdef int _epoll
    cdef int _signalled, _signal
    cdef object _wakeup_before, _handlers_before
    cdef int _hurry
    cdef readonly bint stopping, is_hurried

    def __cinit__(self):
        self._epoll = -1

    def __init__(self, descriptors, int hurry_fd=-1):
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, "cannot wait on the rings")
        for fd in descriptors:
            # Edge-triggered: a ring is readable while its consumer position lags, and it lags on purpose.
            self._watch(fd, EPOLLIN | EPOLLET)
        self._hurry = hurry_fd
        if hurry_fd >= 0:
            # Each write is an edge, also if the one before was not read.
            self._watch(hurry_fd, EPOLLIN | EPOLLET)
        # A handler alone would not end a wait that begins right after the signal.
        self._signalled, self._signal = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch(self._signalled, EPOLLIN)
        self._wakeup_before = signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        self._handlers_before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)
        }

    cdef int _watch(self, int fd, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.fd = fd
        # A ring in an ordinary file cannot be waited on. Such a ring is read when the time is over.
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) != 0 and errno != EPERM:
            raise OSError(errno, f"cannot wait on descriptor {fd}")
        return 0

    def _stop(self, number, frame):
        self.stopping = True

    def wait(self, Wait wait not None) -> None:
        """Return when the time is over, or earlier after a wake-up or a signal."""
        self._sleep(wait.seconds)

    cdef int _sleep(self, double seconds) except -1:
        cdef epoll_event woken[_WOKEN]
        cdef int64_t ns = <int64_t>ceil(seconds * 1e9)
        cdef int count, i, error = 0
        self.is_hurried = False
        if self.stopping or ns <= 0:
            PyErr_CheckSignals()
            return 0
        if pl_is_alone():
            count = pl_epoll_wait(self._epoll, woken, _WOKEN, ns)
            error = errno if count < 0 else 0
        else:
            with nogil:
                count = pl_epoll_wait(self._epoll, woken, _WOKEN, ns)
                error = errno if count < 0 else 0
        if error != 0 and error != EINTR:
            raise OSError(error, "cannot wait on the rings")
        # A signal that arrived before the wait made its descriptor readable until the signal's handler has run.
        if count < 0 or count == _WOKEN:
            PyErr_CheckSignals()
        for i in range(count):
            if woken[i].data.fd == self._signalled:
                PyErr_CheckSignals()
            elif woken[i].data.fd == self._hurry:
                self.is_hurried = True
        return 0

    def close(self) -> None:
        """Restore the signal handlers and close the descriptors that were opened."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        close(self._epoll)
        self._epoll = -1
        os.close(self._signalled)
        os.close(self._signal)


def run(Shard shard not None, Pacer pacer not None, RingWaiter waiter not None, on_faults, int64_t budget) -> None:
    """Run duty cycles until the waiter reports that it is time to stop.

    Args:
        shard: the shard to run.
        pacer: chooses the wait after each cycle.
        waiter: waits, and reports when to stop.
        on_faults: called after a cycle if a ring has reported faults.
        budget: maximum number of records in one cycle.
    """
    cdef uint64_t before = pl_clock_ns(CLOCK_MONOTONIC), now
    cdef int64_t records
    cdef bint asleep
    while not waiter.stopping:
        pacer.attend(shard.audience(), shard.gather_us())
        records = shard.cycle(budget)
        now = pl_clock_ns(CLOCK_MONOTONIC)
        asleep = pacer._choose(
            records, <double>(now - before) / 1e9, records >= budget and not shard.is_blocking(),
            shard.has_caught_up(), shard.has_applied(),
        )
        before = now
        if shard.has_seen_faults():
            on_faults()
        if not asleep:
            waiter._sleep(pacer._seconds)
        elif shard.may_sleep():
            waiter._sleep(pacer._seconds)
            shard.wake_up()
            if pacer.gather_s > 0 and not waiter.is_hurried and shard.has_unread():
                waiter._sleep(pacer.gather_s)
