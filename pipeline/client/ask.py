"""Ask the resolver about a process that the tables do not have. The tables stay the resolver's to change: it looks in
the kernel's maps and in ``/proc``, enters what it finds, and the caller reads the tables again.

    with ProcessTable.attach() as table:
        entry = resolve(table, 4711)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.bus.requests import BUSY, FILLING, Answer, exchange
from pipeline.errors import BusyError, StaleError

if TYPE_CHECKING:
    from pipeline.shm.reader.table import Entry, ProcessTable

__all__ = ["TIMEOUT_MS", "Answer", "ask", "resolve"]

TIMEOUT_MS = 1000


def ask(directory: Path, pid: int, timeout_ms: int = TIMEOUT_MS) -> Answer:
    """Ask the instance whose runtime directory this is what it can find out about `pid`.

    Raises:
        NotRunningError, AccessError, StaleError, FrameError: see `pipeline.bus.requests.exchange`.
        StaleError: also if the tables are not complete yet.
        BusyError: the resolver has too many questions to answer this one in time.
    """
    answer = exchange(paths.requests_socket(directory), pid, timeout_ms)
    if answer.reason == FILLING:
        raise StaleError("the tables are not complete yet: ask again")
    if answer.reason == BUSY:
        raise BusyError(f"the resolver has had too many questions for {timeout_ms} ms to look for {pid}: ask again")
    return answer


def resolve(table: ProcessTable, pid: int, *, wait_ms: int = 0, timeout_ms: int = TIMEOUT_MS) -> Entry | None:
    """Look `pid` up, and if it is not in the table let the resolver look further.

    Args:
        table: of the instance.
        pid: tgid in the daemon's pid namespace.
        wait_ms: as of `ProcessTable.resolve`.
        timeout_ms: how long the resolver may take.

    Returns:
        The entry; None: nobody knows such a process.

    Raises:
        What `ProcessTable.resolve` and `ask` raise. A resolver that may not look again yet says "not found" too: see
        `Answer.reason`.
    """
    entry = table.resolve(pid, wait_ms=wait_ms)
    if entry is not None:
        return entry
    answer = ask(Path(table.directory), pid, timeout_ms)
    return table.resolve(pid) if answer.found else None
