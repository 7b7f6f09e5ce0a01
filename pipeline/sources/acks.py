"""What the resolver says about a ring: how far it is applied, and whether it must be read again.

The answers stand in the control segment, which the resolver writes and a shard maps read-only. The file may not exist
yet, and a resolver with another layout or capacity puts another file in its place; both are followed here.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.sources._shared import ControlView

#: How often the file's identity is looked at when the control segment itself gives no reason to.
_RECHECK_S = 0.25
#: How often a file that is not there, or not ready, is tried again.
_RETRY_S = 0.02


class AckSource(Protocol):
    """Where a shard learns what to release and what to read again."""

    def refresh(self) -> None:
        """Look whether the answers come from somewhere else now. Called once in each duty cycle."""

    def ring(self, number: int) -> tuple[int, int, int] | None:
        """Return (applied_pos, wanted_pos, mark), or None while nobody says anything about the ring.

        When `mark` changes, the ring is to be read again from `wanted_pos`.
        """


class ControlAcks:
    """Acknowledgements from the control segment of an instance.

    Attributes:
        reopened_total: control files opened after the first.
    """

    def __init__(self, path: Path, *, capture_id: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Take note of where the file is or will be.

        Args:
            path: the control file.
            capture_id: of the rings. A file that speaks of other rings is not listened to.
            clock: seconds.
        """
        self._path = path
        self._capture_id = capture_id
        self._clock = clock
        self._view: ControlView | None = None
        self._file: mmap.mmap | None = None
        self._identity = (0, 0)
        self._due = 0.0
        self._opened = 0
        self.reopened_total = 0

    def refresh(self) -> None:
        """Open the file if it is not, or if another one has taken its place."""
        if self._view is not None and not self._view.is_superseded and self._clock() < self._due:
            return
        if self._view is None and self._clock() < self._due:
            return
        self._due = self._clock() + (_RECHECK_S if self._view is not None else _RETRY_S)
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Gone for a moment or for good: what it said last stays true of the rings.
            return
        try:
            status = os.fstat(fd)
            if self._view is not None and (status.st_dev, status.st_ino) == self._identity:
                return
            self._open(fd, status)
        finally:
            os.close(fd)

    def _open(self, fd: int, status: os.stat_result) -> None:
        file = None
        try:
            file = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            view = ControlView(file)
        except (OSError, ValueError):
            # Not complete yet, or of another version: whoever writes it is on its way, or is not our resolver.
            if file is not None:
                file.close()
            return
        if view.capture_id != self._capture_id:
            view.release()
            file.close()
            return
        self.close()
        self._view, self._file = view, file
        self._identity = (status.st_dev, status.st_ino)
        self._due = self._clock() + _RECHECK_S
        self.reopened_total += self._opened > 0
        self._opened += 1

    def ring(self, number: int) -> tuple[int, int, int] | None:
        """Return (applied_pos, wanted_pos, mark) of a ring; None before a resolver of these rings has begun."""
        if self._view is None or number >= self._view.ring_count:
            return None
        applied_pos, wanted_pos, rewind_seq = self._view.ring(number)
        # Another file counts its rewinds anew, and whoever wrote it may have seen nothing of what was sent: its mark
        # must differ from all those of the file before.
        return applied_pos, wanted_pos, self._opened << 64 | rewind_seq

    def close(self) -> None:
        """Unmap the file; may be called twice."""
        if self._view is not None:
            self._view.release()
            self._view = None
        if self._file is not None:
            self._file.close()
            self._file = None
