"""The live processes that a source without eBPF must track: the start time of each, and its threads.

The proc connector identifies a process only by its number, and reports every thread. So this module keeps the start
time of each process, which with the number is its identity. It also keeps the threads of processes that have several,
because a process ends with its last thread and not with its leader. Both come from fork and exit events. Processes that
started before the first event, or during a loss, come from one pass over ``/proc`` (`survey`). `pipeline.procfs` reads
the other facts.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from pipeline import proc_text
from pipeline.host.boot import TICK_NS
from pipeline.records.limits import PF_KTHREAD

_OPEN = os.O_RDONLY | os.O_CLOEXEC


class Stat(NamedTuple):
    """The fields of ``/proc/PID/stat`` that this module uses."""

    has_ended: bool  #: its main thread; other threads may be left
    task_flags: int
    thread_count: int
    start_boot_ns: int  #: first ns of the tick


class Living:
    """The known live processes.

    Args:
        proc: the mount of procfs.

    Attributes:
        starts: start of each process by its tgid, boot ns. It is exact to the tick of ``/proc`` (10 ms). Within the
            tick it is the time of the fork event if there was one, which distinguishes two processes that had the same
            pid in one tick.
        threads: the live threads, by tgid, of processes with threads besides the leader.
        is_sure: no event has been lost since the last `survey`.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = os.open(proc, _OPEN | os.O_DIRECTORY)
        self.starts: dict[int, int] = {}
        self.threads: dict[int, set[int]] = {}
        self.is_sure = False
        self._missing: set[int] = set()

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1

    def survey(self) -> None:
        """Read all processes from ``/proc``. Events that arrive during or after the pass may repeat what it found."""
        before, self.starts, self.threads = self.starts, {}, {}
        missing_before = self._missing
        for name in os.listdir(self._proc):  # noqa: PTH208 - a descriptor, not a path
            if not name.isdigit():
                continue
            tgid = int(name)
            stat = self.stat(tgid)
            if stat is None or stat.task_flags & PF_KTHREAD or (stat.has_ended and stat.thread_count <= 1):
                continue
            self.starts[tgid] = self._better(before.get(tgid, 0), stat.start_boot_ns)
            if stat.thread_count > 1:
                self._list_threads(tgid, stat)
        # A process that is missing has ended. Its last events may still arrive, so it is removed only after it has been
        # missing twice.
        self._missing = before.keys() - self.starts.keys()
        for tgid in self._missing - missing_before:
            self.starts[tgid] = before[tgid]
        self.is_sure = True

    @staticmethod
    def _better(known: int, tick: int) -> int:
        return known if known // TICK_NS == tick // TICK_NS else tick

    def _list_threads(self, tgid: int, stat: Stat) -> None:
        threads = self._tids(tgid)
        if stat.has_ended:
            threads.discard(tgid)  # the leader has ended; /proc lists it until the whole process has ended
        if threads and threads != {tgid}:
            self.threads[tgid] = threads

    def _tids(self, tgid: int) -> set[int]:
        try:
            fd = os.open(f"{tgid}/task", _OPEN | os.O_DIRECTORY, dir_fd=self._proc)
        except OSError:
            return set()
        try:
            return {int(name) for name in os.listdir(fd)}  # noqa: PTH208
        except OSError:
            return set()
        finally:
            os.close(fd)

    def stat(self, tgid: int) -> Stat | None:
        """Read ``/proc/PID/stat``; return None if there is no such process."""
        text = self._read(b"%d/stat" % tgid)
        if text is None:
            return None
        try:
            fields = proc_text.stat_fields(text)
        except ProcessLookupError:
            return None
        return Stat(
            proc_text.has_ended(fields),
            int(fields[proc_text.TASK_FLAGS]),
            int(fields[proc_text.THREADS]),
            int(fields[proc_text.START_TICKS]) * TICK_NS,
        )

    def is_in_inner_namespace(self, tgid: int) -> bool:
        """Whether the process has a number of its own in a pid namespace below this one."""
        text = self._read(b"%d/status" % tgid)
        if text is None:
            return False
        return b"\t" in proc_text.status_value(text, b"NSpid")

    def _read(self, path: bytes) -> bytes | None:
        try:
            fd = os.open(path, _OPEN, dir_fd=self._proc)
        except OSError:
            return None
        try:
            return os.read(fd, 4096)
        except OSError:
            return None
        finally:
            os.close(fd)

    # -- events --------------------------------------------------------------------------------------------------------

    def start_of(self, tgid: int, time_boot_ns: int) -> int:
        """Return the start of the process that had this pid at that time; 0: unknown."""
        start = self.starts.get(tgid, 0)
        # A start after that time belongs to a later owner of the pid.
        return start if start <= time_boot_ns else 0

    def forked(self, tgid: int, time_boot_ns: int, stat: Stat | None) -> int:
        """Record a new process; return its start in boot ns.

        Args:
            tgid: the process.
            time_boot_ns: time of the fork event.
            stat: read after the event. If the process has ended, or its pid has another owner, the time of the event
                is used as the start.
        """
        start = time_boot_ns
        if stat is not None and stat.start_boot_ns <= time_boot_ns:
            # The kernel reads the start time up to 70 us before the event, perhaps in the previous tick.
            start = min(time_boot_ns, stat.start_boot_ns + TICK_NS - 1)
        self.starts[tgid] = start
        self.threads.pop(tgid, None)
        return start

    def thread_forked(self, tgid: int, tid: int) -> None:
        """Record a new thread."""
        self.threads.setdefault(tgid, {tgid}).add(tid)

    def execed(self, tgid: int, start_boot_ns: int) -> int:
        """Record an exec, which ends all threads except the leader, and the start from ``/proc``; return the start."""
        self.threads.pop(tgid, None)
        start = self.starts[tgid] = self._better(self.starts.get(tgid, 0), start_boot_ns)
        return start

    def thread_ended(self, tgid: int, tid: int) -> bool:
        """Record the end of a thread, which may be the leader; return whether the process has ended with it."""
        threads = self.threads.get(tgid)
        if threads is not None:
            threads.discard(tid)
            if threads == {tgid}:
                del self.threads[tgid]
            if threads:
                return False
        elif tid != tgid or not self.is_sure:
            # A thread, or a process with threads, for which no event was received.
            stat = self.stat(tgid)
            if stat is not None and stat.start_boot_ns <= self.starts.get(tgid, stat.start_boot_ns):
                if not stat.has_ended:
                    return False
                if stat.thread_count > 1:
                    threads = self._tids(tgid) - {tgid, tid}
                    if threads:
                        self.threads[tgid] = threads
                        return False
        self.threads.pop(tgid, None)
        return True

    def ended(self, tgid: int) -> None:
        """Remove a process."""
        self.starts.pop(tgid, None)
