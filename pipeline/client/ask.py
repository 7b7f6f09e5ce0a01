"""Ask the resolver about a process that is not in the tables.

The resolver searches the kernel's maps and ``/proc`` and adds the process to the tables. The caller then reads the
tables again; only the resolver writes them.

    with ProcessTable.attach() as table:
        entry = resolve(table, 4711)

For the state as of now of a process that is in the tables, use ``table.resolve(4711, fresh=True)``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bus.requests import TIMEOUT_MS, Answer, ask

if TYPE_CHECKING:
    from pipeline.shm.reader.table import Entry, ProcessTable

__all__ = ["TIMEOUT_MS", "Answer", "ask", "resolve"]


def resolve(table: ProcessTable, pid: int, *, wait_ms: int = 0, timeout_ms: int = TIMEOUT_MS) -> Entry | None:
    """Look up `pid` in the table; if it is not there, ask the resolver.

    The resolver reads ``/proc`` for the same pid only once in a while. Until it may read again, the result is None; use
    `ask` and `Answer.reason` to distinguish this case.

    Args:
        table: the table of the instance.
        pid: tgid in the daemon's pid namespace.
        wait_ms: as in `ProcessTable.resolve`.
        timeout_ms: how long to wait for the resolver's answer.

    Returns:
        The entry, or None if the process was not found.

    Raises:
        ProclineError: any error of `ProcessTable.resolve` or `ask`.
    """
    entry = table.resolve(pid, wait_ms=wait_ms)
    if entry is not None:
        return entry
    return table.resolve(pid) if ask(Path(table.directory), pid, timeout_ms).found else None
