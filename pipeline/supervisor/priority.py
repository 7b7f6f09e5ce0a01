"""The priority of a start: the unit starts the daemon with a higher one (``Nice=``), which it drops when ready.

A restart makes look-ups stale until the tables are complete again, which takes about two seconds of CPU time. At the
priority of all other programs that would be many seconds on a busy host. Any process may lower its own priority.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

#: A process with this nice value has no advantage over others.
NORMAL = 0
#: Threads that start while the list is read have the priority of the thread that started them, so it is read again.
_PASSES = 3


def was_raised(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether systemd started this process with a higher priority. One that a person chose is left alone."""
    return "NOTIFY_SOCKET" in environ and os.getpriority(os.PRIO_PROCESS, 0) < NORMAL


def settle(pids: Iterable[int]) -> None:
    """Give all threads of these processes normal priority, unless theirs is lower already."""
    processes = tuple(pids)
    for _ in range(_PASSES):
        raised = [thread for pid in processes for thread in _threads(pid) if _nice(thread) < NORMAL]
        if not raised:
            return
        for thread in raised:
            with contextlib.suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, thread, NORMAL)


def _threads(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _nice(thread: int) -> int:
    with contextlib.suppress(OSError):
        return os.getpriority(os.PRIO_PROCESS, thread)
    return NORMAL
