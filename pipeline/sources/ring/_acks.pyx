"""What the resolver says about a ring: how far it is applied, and whether it must be read again.

The answers stand in the control segment, which the resolver writes and a shard maps read-only. The file may not exist
yet, and a resolver with another layout or capacity puts another file in its place; both are followed here.

Compiled because a shard asks in each cycle (see _shard.pyx).
"""

import mmap
import os

from libc.stdint cimport uint32_t, uint64_t

from pipeline.sources.ring._shared cimport ControlView


cdef extern from "reader.h" nogil:
    uint64_t pl_clock_ns(int clock)

cdef extern from "time.h" nogil:
    int CLOCK_MONOTONIC

#: How often the file's identity is looked at when the control segment itself gives no reason to.
cdef double _RECHECK_S = 1.5
#: While there is something to read it waits for a cycle that finds nothing, but no longer than this.
cdef double _RECHECK_BUSY_S = 1.0
#: How often a file that is not there, or not ready, is tried again.
cdef double _RETRY_S = 0.02


cdef class ControlAcks:
    """Acknowledgements from the control segment of an instance: an `acks.AckSource`.

    Attributes:
        reopened_total: control files opened after the first.
    """

    def __init__(self, path, *, uint64_t capture_id, clock=None):
        """Take note of where the file is or will be.

        Args:
            path: the control file.
            capture_id: of the rings. A file that speaks of other rings is not listened to.
            clock: seconds; by default the monotonic clock.
        """
        self._path, self._capture_id, self._clock = path, capture_id, clock
        self._identity = (0, 0)

    cdef double _now(self) except -1.0:
        return <double>pl_clock_ns(CLOCK_MONOTONIC) / 1e9 if self._clock is None else <double>self._clock()

    def refresh(self) -> None:
        """Open the file if it is not, or if another one has taken its place."""
        self.follow()
        self.check(False)

    cdef int follow(self) except -1:
        """Open the file that has taken the place of this one, if this one says that one has."""
        if self._view is not None and self._view.has_successor():
            self._look_for_file()
        return 0

    cdef int check(self, bint is_busy) except -1:
        """Look for the file itself when it is time to. With cold caches that takes longer than a small frame does, and
        ZeroMQ's thread, which has the frame, may wait for this CPU."""
        if self._now() >= self._due + (_RECHECK_BUSY_S if is_busy and self._view is not None else 0.0):
            self._look_for_file()
        return 0

    cdef int _look_for_file(self) except -1:
        self._due = self._now() + (_RECHECK_S if self._view is not None else _RETRY_S)
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Gone for a moment or for good: what it said last stays true of the rings.
            return 0
        try:
            status = os.fstat(fd)
            if self._view is None or (status.st_dev, status.st_ino) != self._identity:
                self._open(fd, status)
        finally:
            os.close(fd)
        return 0

    cdef int _open(self, int fd, object status) except -1:
        cdef ControlView view
        file = None
        try:
            file = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            view = ControlView(file)
        except (OSError, ValueError):
            # Not complete yet, or of another version: whoever writes it is on its way, or is not our resolver.
            if file is not None:
                file.close()
            return 0
        if view.capture_id != self._capture_id:
            view.release()
            file.close()
            return 0
        self.close()
        self._view, self._file = view, file
        self._identity = (status.st_dev, status.st_ino)
        self._due = self._now() + _RECHECK_S
        self.reopened_total += self._opened > 0
        self._opened += 1
        return 0

    def ring(self, uint32_t number):
        """Return (applied_pos, wanted_pos, mark) of a ring; None before a resolver of these rings has begun."""
        cdef ack found
        if not self.look(number, &found):
            return None
        return found.applied_pos, found.wanted_pos, int(found.file) << 64 | found.rewind_seq

    cdef bint look(self, uint32_t number, ack *found) noexcept:
        if self._view is None or number >= self._view.ring_count:
            return False
        self._view.read(number, &found.applied_pos, &found.wanted_pos, &found.rewind_seq)
        # Another file counts its rewinds anew, and whoever wrote it may have seen nothing of what was sent: its mark
        # must differ from all those of the file before.
        found.file = self._opened
        return True

    def close(self) -> None:
        """Unmap the file; may be called twice."""
        if self._view is not None:
            self._view.release()
            self._view = None
        if self._file is not None:
            self._file.close()
            self._file = None
