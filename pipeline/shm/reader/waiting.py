"""Wait until a process, or a process and all of its descendants, have ended.

The tables are read again and again, with a pause that grows from 1 to 20 ms (`capture.freshness_ms` is 20 by default).
A look-up takes less than a microsecond, so waiting costs almost no CPU time. It works for every process that the tables
show: also for one of another user, in another pid namespace, or in a recording.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import BehindError, BusyError, StaleError, TooOldError, WaitTimeoutError
from pipeline.shm.reader._entry import Entry

if TYPE_CHECKING:
    from pipeline.shm.reader._reader import TableReader

_T = TypeVar("_T")

#: First and longest pause between two readings.
_PAUSE_MIN_S = 0.001
_PAUSE_MAX_S = 0.02
#: How long a process that was just forked may take to appear in the tables.
_APPEARS_MS = 500
#: A resolver that was killed is replaced within this time. Only then is a table without a writer an error.
_REPLACED_S = 10.0
#: Searches for descendants are followed by a pause of this many times their CPU time, so they use 5 % of a CPU.
_SEARCHES = 20


class _Clock:
    """The time that is left, and the pauses between two readings."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end_s = None if timeout is None else time.monotonic() + timeout
        self._pause_s = _PAUSE_MIN_S

    def left_s(self) -> float | None:
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def pause(self, what: str, at_least_s: float = 0.0) -> None:
        """Sleep, or raise WaitTimeoutError if the time is up."""
        left = self.left_s()
        if left == 0.0:
            raise WaitTimeoutError(f"{what} after {self._timeout:g} s", timeout=self._timeout or 0.0)
        pause = max(self._pause_s, at_least_s)
        time.sleep(pause if left is None else min(pause, left))
        self._pause_s = min(2 * self._pause_s, _PAUSE_MAX_S)

    def rest(self, pause_s: float) -> None:
        """Sleep, but not longer than the time that is left."""
        left = self.left_s()
        time.sleep(max(0.0, pause_s if left is None else min(pause_s, left)))

    def restart(self) -> None:
        """Begin with short pauses again: something has happened."""
        self._pause_s = _PAUSE_MIN_S


def wait_exit(table: TableReader, process: int | Entry, timeout: float | None) -> Entry | None:
    """Implement `ProcessTable.wait_exit`."""
    clock = _Clock(timeout)
    entry = _begun(table, process, clock)
    return None if entry is None else _ended(table, entry, clock)


def wait_tree(table: TableReader, process: int | Entry, timeout: float | None) -> Entry | None:
    """Implement `ProcessTable.wait_tree`."""
    clock = _Clock(timeout)
    entry = _begun(table, process, clock)
    if entry is None:
        return None
    root = _ended(table, entry, clock)
    former: bytes | None = None
    cost_s = 0.0  # CPU time of the searches since the last pause
    while True:
        is_last = clock.left_s() == 0.0
        began_s = time.thread_time()
        members, alive = _patiently(lambda: table._tree(root), clock)
        cost_s += time.thread_time() - began_s
        if alive:
            former = None
            waits_s = time.monotonic()
            _wait_for_image(table, alive, root.pid, clock)
            if is_last:
                clock.pause(f"descendants of pid {root.pid} were still running")
            clock.rest(cost_s * _SEARCHES - (time.monotonic() - waits_s))
            cost_s = 0.0
            continue
        # Rows are read one after the other, so a process that was forked meanwhile can be missing if its parent was
        # read before the fork and ended after it. A second search shows such a process, dead or alive. It follows at
        # once, so that a tree that has ended is reported without a pause, also if no time is left.
        if members == former:
            return root
        if former is not None:
            clock.pause(f"pid {root.pid} still had new descendants", cost_s * _SEARCHES)
            cost_s = 0.0
        former = members


def _wait_for_image(table: TableReader, link: int, root_pid: int, clock: _Clock) -> None:
    """Wait until the process of an image has ended."""
    image = _patiently(lambda: table.image(link), clock)
    if image is None:
        clock.pause(f"descendants of pid {root_pid} are still running")
        return
    with suppress(TooOldError):  # it has ended
        _ended(table, image, clock, f"pid {image.pid}, a descendant of pid {root_pid}, is still running")


def _begun(table: TableReader, process: int | Entry, clock: _Clock) -> Entry | None:
    """Return the process to wait for; a pid means its present owner, which may have been forked just now."""
    if isinstance(process, Entry):
        return process
    left = clock.left_s()
    wait_ms = _APPEARS_MS if left is None else min(_APPEARS_MS, int(left * 1000))
    return _patiently(lambda: table.resolve(process, wait_ms=wait_ms), clock)


def _ended(table: TableReader, entry: Entry, clock: _Clock, what: str = "") -> Entry:
    """Return the last image of a process when it has ended."""
    clock.restart()
    while True:
        newest = _patiently(lambda: table.newest(entry), clock)
        if newest is None:
            if entry.is_exited:
                return entry
            raise TooOldError(f"pid {entry.pid} has ended, but its entry is not retained any more")
        if newest.is_exited:
            return newest
        clock.pause(what or f"pid {entry.pid} is still running")


def _patiently(read: Callable[[], _T], clock: _Clock) -> _T:
    """Call `read` until the tables can answer.

    A table that is behind becomes current again, and a resolver that was killed is replaced.
    """
    since_s: float | None = None
    while True:
        try:
            return read()
        except (StaleError, BusyError) as error:
            now_s = time.monotonic()
            since_s = now_s if since_s is None else since_s
            if now_s - since_s > _REPLACED_S and not isinstance(error, BehindError):
                raise
            clock.pause(f"the tables could not answer ({error})")
