"""When a shard reads its rings again: `Pacer` decides, `RingWaiter` waits, and `run` repeats this until the stop.

A wake-up for each record costs more than the rest of the work for a small record. Under load, the kernel therefore
sends none, and a shard reads its rings every few milliseconds. On a quiet host, a timer would delay every event and
keep idle CPUs busy: there the shard sleeps, and the next record wakes it. The rate of records selects the mode: at less
than one record in the shortest interval, a timer would not combine any records.

It is compiled because each cycle runs with cold caches (see the resolver's _turn.pyx).
"""

import os
import signal

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, EPERM, errno
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport close

from pipeline.host._epoll cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLET, EPOLLIN, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
)
from pipeline.sources.shard._shard cimport Shard


cdef extern from "reader.h" nogil:
    uint64_t pl_clock_ns(int clock)

cdef extern from "time.h" nogil:
    int CLOCK_MONOTONIC

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
    _WOKEN = 8  # events that one epoll_wait can return; their content is not used

#: The rate of records is averaged over this time, in seconds.
cdef double _RATE_WINDOW_S = 0.1
#: At this rate, in records per second, the interval is longest.
cdef double _BUSY_RATE = 10_000.0
#: How long a shard sleeps, in seconds, before it checks whether the resolver wants a rewind.
cdef double _SLEEP_S = 1.0
#: The same while records are not applied yet and their space must be released; doubled after each check in vain.
cdef double _UNAPPLIED_S = 0.02
cdef double _UNAPPLIED_MAX_S = 0.2


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


cdef class Pacer:
    """Chooses the next wait from the results of the last duty cycle. Uses no clock and no descriptor.

    Attributes:
        rate: records per second.
    """

    cdef double _min_s, _max_s, _unapplied_s, _seconds
    cdef readonly double rate

    def __init__(self, *, double interval_min_s, double interval_max_s):
        self._min_s = interval_min_s
        self._max_s = max(interval_min_s, interval_max_s)
        self._unapplied_s = _UNAPPLIED_S

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
        if is_exhausted:
            self._seconds = 0.0
            return False
        if is_caught_up and self.rate * self._min_s < 1.0:
            if is_applied:
                self._unapplied_s = _UNAPPLIED_S
                self._seconds = _SLEEP_S
            else:
                self._unapplied_s = _UNAPPLIED_S if records else min(self._unapplied_s * 2, _UNAPPLIED_MAX_S)
                self._seconds = self._unapplied_s
            return True
        self._seconds = self._min_s + (self._max_s - self._min_s) * min(1.0, self.rate / _BUSY_RATE)
        return False


cdef class RingWaiter:
    """Waits for a time to pass, for a ring's wake-up, or for SIGTERM or SIGINT. Installs the handlers of both signals.

    Only the main thread can handle signals, so this object belongs to the main thread.

    Args:
        descriptors: the rings' descriptors.

    Attributes:
        stopping: SIGTERM or SIGINT has arrived.
    """

    cdef int _epoll
    cdef int _signalled, _signal
    cdef object _wakeup_before, _handlers_before
    cdef readonly bint stopping

    def __cinit__(self):
        self._epoll = -1

    def __init__(self, descriptors):
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, "cannot wait on the rings")
        for fd in descriptors:
            # Edge-triggered: a ring is readable while its consumer position lags, and it lags on purpose.
            self._watch(fd, EPOLLIN | EPOLLET)
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
        cdef int ms = <int>ceil(seconds * 1000), count, i, error = 0
        if self.stopping or ms <= 0:
            PyErr_CheckSignals()
            return 0
        if pl_is_alone():
            count = epoll_wait(self._epoll, woken, _WOKEN, ms)
            error = errno if count < 0 else 0
        else:
            with nogil:
                count = epoll_wait(self._epoll, woken, _WOKEN, ms)
                error = errno if count < 0 else 0
        if error != 0 and error != EINTR:
            raise OSError(error, "cannot wait on the rings")
        # A signal that arrived before the wait made its descriptor readable until the signal's handler has run.
        if count < 0 or count == _WOKEN:
            PyErr_CheckSignals()
        for i in range(count):
            if woken[i].data.fd == self._signalled:
                PyErr_CheckSignals()
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
