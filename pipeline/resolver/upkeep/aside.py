"""A thread beside the duty cycle, which reads what could block, and the files in which its answers reach readers.

Names, details of containers, facts of scripts, packages and hashes of executables are all found in this way: no row,
event or reader waits for them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Generic, TypeVar

from pipeline import files

#: The time between two sweeps is at least SWEEP_NS, and SWEEP_SHARE times the CPU time of one (about 10 ns a row).
SWEEP_NS = 2_000_000_000
SWEEP_SHARE = 500

Answer = TypeVar("Answer")

#: Turn, number, whether the thread rests after it, and the function to call; None ends the thread.
_Job = tuple[int, int, bool, Callable[[], Answer | None] | None]


class Aside(Generic[Answer]):
    """A thread that runs jobs in the order of their turns, and keeps their answers.

    A job that raises an exception, or returns None, has no answer.

    Args:
        name: of the thread.
        jobs_max: further jobs are rejected.
        cpu_share: after a job the thread rests, so that it takes at most this share of a CPU.
        pause_max_s: it rests no longer than this.
    """

    def __init__(self, name: str, *, jobs_max: int, cpu_share: float = 0.2, pause_max_s: float = 2.0) -> None:
        self._name = name
        self._rest_factor = 1 / cpu_share - 1
        self._pause_max_s = pause_max_s
        self._jobs: queue.PriorityQueue[_Job[Answer]] = queue.PriorityQueue(jobs_max)
        self._numbers = count()
        self._answers: deque[Answer] = deque()
        self.closing = threading.Event()  #: set when the thread must end; long jobs check it
        self._thread: threading.Thread | None = None

    def ask(self, job: Callable[[], Answer | None], turn: int = 0, *, rests: bool = True) -> bool:
        """Request that a job is run, before those with a greater turn; False: there are too many, or no thread starts.

        Args:
            job: what the thread calls.
            turn: the least come first.
            rests: the thread rests after it. The host's own work does not depend on what users do, so it need not.
        """
        if self._thread is None:
            # A daemon thread: a file system that hangs must not keep the process from ending.
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no pid or no memory is left; the next request tries again
                return False
            self._thread = thread
        try:
            self._jobs.put_nowait((turn, next(self._numbers), rests, job))
        except queue.Full:
            return False
        return True

    @property
    def has_answers(self) -> bool:
        """Whether `take` would yield anything."""
        return bool(self._answers)

    def take(self, limit: int) -> Iterator[Answer]:
        """Yield and remove at most `limit` answers."""
        for _ in range(min(len(self._answers), limit)):
            yield self._answers.popleft()

    def wait(self, timeout_s: float) -> bool:
        """Wait for an answer; False: there is none yet, and there may be one later."""
        if self._answers or self._thread is None or not self._thread.is_alive():
            return True
        self._thread.join(timeout_s)
        return bool(self._answers)

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread, and abandon what it is reading."""
        self.closing.set()
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait((-1, next(self._numbers), False, None))
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            _, _, rests, job = self._jobs.get()
            if job is None or self.closing.is_set():
                return
            began = time.thread_time()
            answer = None
            # A user may have chosen what is read, so no exception may end the thread.
            with contextlib.suppress(Exception):
                answer = job()
            if answer is not None:
                self._answers.append(answer)
            if rests:
                self.closing.wait(min(self._pause_max_s, (time.thread_time() - began) * self._rest_factor))
            del job, answer  # nothing is kept while the next job is awaited


class ReadersFiles:
    """A directory below the instance's, whose files the resolver replaces as a whole.

    Args:
        directory: the directory.
        mode: of the files. Their group is that of the directory above, if it has the set-group-id bit.
    """

    def __init__(self, directory: Path, mode: int) -> None:
        self.path = directory
        self._mode = mode

    def begin(self, *, keeps: bool) -> None:
        """Make the directory. The files of a predecessor are kept where `keeps` says so.

        Raises:
            OSError: the directory cannot be made.
        """
        if not keeps:
            files.remove_tree(self.path)
        self.path.mkdir(exist_ok=True)
        self.path.chmod(0o755 | self.path.stat().st_mode & stat.S_ISGID)
        for path in self.path.glob(".*.new"):
            path.unlink(missing_ok=True)

    def has_group(self) -> bool:
        """Return whether a file in the directory of a predecessor has the group that a new one would have."""
        with contextlib.suppress(FileNotFoundError):
            above, own = self.path.parent.stat(), self.path.stat()
            group = above.st_gid if above.st_mode & stat.S_ISGID else os.getegid()
            return own.st_gid == group and not (own.st_mode ^ above.st_mode) & stat.S_ISGID
        return False

    def write(self, name: str, content: bytes) -> bool:
        """Replace a file. If the file system is full, readers lack only this one, and False is returned."""
        try:
            files.replace(self.path / name, content, self._mode)
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        (self.path / name).unlink(missing_ok=True)


class Sweeps:
    """When a part of the duty cycle searches all rows for what was not noted.

    Attributes:
        due_ns: when the next one is due.
    """

    def __init__(self) -> None:
        self.due_ns = 0
        self._cpu_ns = 0

    def begin(self) -> None:
        """Begin a sweep. On a busy host it can last long without using the CPU, so its CPU time counts."""
        self._cpu_ns = time.thread_time_ns()

    def end(self, now_ns: int) -> None:
        """End a sweep that began at `now_ns`, and schedule the next one."""
        self.due_ns = now_ns + max(SWEEP_NS, SWEEP_SHARE * (time.thread_time_ns() - self._cpu_ns))
