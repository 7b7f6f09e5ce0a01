"""Count and log that the tables cannot grow because their file system is full.

The writer continues as at a ceiling (`_segment.pyx`): it evicts exited processes early and drops what it cannot store.
Without the counter and the log, the tables would look complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.host.rate_limiter import RateLimiter

#: Time between two log lines while the condition lasts.
LOG_AGAIN_NS = 60_000_000_000


class Tables(Protocol):
    """The methods of a TableWriter that are used here."""

    def growth_refused(self) -> tuple[int, list[str]]:
        """Return how often growth was rejected, and the segments that wait for it."""
        ...

    def counter(self, name: str) -> int:
        """Return a counter of the tables."""
        ...

    def set_counter(self, name: str, value: int) -> object:
        """Set a counter of the tables."""
        ...


class GrowthWatch:
    """Watches for growth that the file system rejected. A part of the resolver's housekeeping.

    Args:
        tables: of this process; this object sets their counter `growth_refused`.
        directory: of the tables.
        warn: logs one line.
    """

    def __init__(self, tables: Tables, directory: Path, warn: Callable[[str], None]) -> None:
        self._tables = tables
        self._directory = directory
        self._warn = warn
        self._before = tables.counter("growth_refused")  # a predecessor's
        self._seen = 0
        self._limiter: RateLimiter[None] = RateLimiter(1, LOG_AGAIN_NS)

    def __call__(self, now_boot_ns: int) -> None:
        """Count new refusals, and log them if a line is due."""
        refused, waiting = self._tables.growth_refused()
        if refused == self._seen:
            return
        self._seen = refused
        self._tables.set_counter("growth_refused", self._before + refused)
        if self._limiter.allow(None, now_boot_ns):
            self._warn(self._described(waiting))

    def _described(self, waiting: list[str]) -> str:
        try:
            status = os.statvfs(self._directory)
            unit = status.f_frsize
            room = f"{status.f_bavail * unit >> 10} KiB of {status.f_blocks * unit >> 10} KiB are free"
        except OSError as error:
            room = str(error.strerror)
        return (
            f"{self._directory}: the tables cannot grow ({', '.join(waiting) or 'several'}): the file system is full "
            f"({room}), so exited processes are evicted early, and what does not fit is dropped; free space, mount it "
            "with a larger size, or lower tables.max_entries and the *_bytes of [tables]"
        )
