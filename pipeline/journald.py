"""Lines for journald on standard error: how to recognise the journal, and the priority in front of a line.

journald reads ``<N>`` at the start of a line as the priority of syslog(3) (SyslogLevelPrefix= of systemd.exec(5)). The
daemon's log and the last line of a command that fails use this. Standard library only, because every command imports
it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

DEBUG, INFO, WARNING, ERROR, CRITICAL = 7, 6, 4, 3, 2


def is_journal(stream: TextIO | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether `stream` is journald's: JOURNAL_STREAM of systemd.exec(5) has its device and inode.

    The interpreter's streams are None if it was started with their descriptors closed.
    """
    if stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def prefixed(text: str, priority: int) -> str:
    """Return `text` with the priority in front of each of its lines, as journald stores each line by itself."""
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines() or [""])
