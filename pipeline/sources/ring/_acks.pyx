"""Read what the resolver reports about a ring: how far it has applied the ring, and whether to read the ring again.

The resolver writes this to the control segment, and a shard maps the segment read-only. The file may not exist yet, and
a resolver with another layout or capacity replaces it with a new file. This module handles both cases.

It is compiled because a shard reads the segment in every cycle (see _shard.pyx).
"""

import mmap
import os

from libc.stdint cimport uint32_t, uint64_t

from pipeline.records._clock cimport CLOCK_MONOTONIC, pl_clock_ns
from pipeline.shm.layout._layout cimport PL_AUDIENCE_NOBODY
from pipeline.sources.ring._shared cimport ControlView


#: How often the file's identity is checked while the control segment does not report a successor.
cdef double _RECHECK_S = 1.5
#: While there are records to read, the check waits for a cycle without records, but no longer than this.
cdef double _RECHECK_BUSY_S = 1.0
#: How often to retry a file that does not exist or is not ready.
cdef double _RETRY_S = 0.02


cdef class ControlAcks:
    """Acknowledgements from the control segment of an instance: an `acks.AckReader`.

    Attributes:
        reopened_total: control files opened after the first.
    """

    def __init__(self, path, *, uint64_t capture_id, clock=None):
        """Remember the path of the file, which need not exist yet.

        Args:
            path: the control file.
            capture_id: id of the rings' capture. A file with another id is ignored.
            clock: returns seconds; None for the monotonic clock.
        """
        self._path, self._capture_id, self._clock = path, capture_id, clock
        self._identity = (0, 0)

    cdef double _now(self) except -1.0:
        return <double>pl_clock_ns(CLOCK_MONOTONIC) / 1e9 if self._clock is None else <double>self._clock()

    def refresh(self) -> None:
        """Open the file if it is not open, or if another file has replaced it."""
        self.follow()
        self.check(False)

    cdef int follow(self) except -1:
        """Open the successor of this control file if this file reports one."""
        if self._view is not None and self._view.has_successor():
            self._check_file()
        return 0

    cdef int check(self, bint is_busy) except -1:
        """Check the file's identity if the check is due.

        With cold caches the check takes longer than the processing of a small frame, and ZeroMQ's thread, which holds
        the frame, may be waiting for this CPU.
        """
        if self._now() >= self._due + (_RECHECK_BUSY_S if is_busy and self._view is not None else 0.0):
            self._check_file()
        return 0

    cdef int _check_file(self) except -1:
        self._due = self._now() + (_RECHECK_S if self._view is not None else _RETRY_S)
        try:
            # The resolver takes every opening of the file for a new reader, so only another file is opened.
            status = os.stat(self._path)
            if self._view is not None and (status.st_dev, status.st_ino) == self._identity:
                return 0
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # The file is missing, for a moment or for good. Its last content is still valid for the rings.
            return 0
        try:
            self._open(fd, os.fstat(fd))
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
            # The file is incomplete or has another version: it is still being written, or another resolver wrote it.
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

    cdef uint32_t audience(self) noexcept:
        """Return which programs wait for events, AUDIENCE_*; none while no resolver has started."""
        return self._view.audience() if self._view is not None else PL_AUDIENCE_NOBODY

    cdef uint32_t gather_us(self) noexcept:
        """Return for how long events may gather with readers; 0: not measured."""
        return self._view.gather_us() if self._view is not None else 0

    def ring(self, uint32_t number):
        """Return (applied_pos, wanted_pos, rewind_id) of a ring; None until a resolver of these rings has started."""
        cdef ack found
        if not self.read(number, &found):
            return None
        return found.applied_pos, found.wanted_pos, int(found.file) << 64 | found.rewind_seq

    cdef bint read(self, uint32_t number, ack *found) noexcept:
        if self._view is None or number >= self._view.ring_count:
            return False
        self._view.read(number, &found.applied_pos, &found.wanted_pos, &found.rewind_seq)
        # Each file starts its count of rewinds again, and its writer may not have received anything that was sent
        # before. Its rewind ids must therefore differ from all of the file before.
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
