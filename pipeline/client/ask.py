"""Ask the resolver about a process that is not in the tables.

The resolver searches the kernel's maps and ``/proc`` and adds the process to the tables. The caller then reads the
tables again; only the resolver writes them.

    with ProcessTable.attach() as table:
        entry = resolve(table, 4711)
        now = resolve(table, 4711, fresh=True)
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

#: Default time for an answer.
TIMEOUT_MS = 1000


def ask(directory: Path, pid: int, timeout_ms: int = TIMEOUT_MS, *, fresh: bool = False) -> Answer:
    """Ask an instance to find a process.

    Args:
        directory: the instance's runtime directory.
        pid: tgid in the daemon's pid namespace.
        timeout_ms: how long to wait for the answer.
        fresh: the answer waits until everything that happened before the call is in the tables. The shards read their
            rings at once for it.

    Returns:
        The answer. If ``found`` is true, the process is in the tables now.

    Raises:
        NotRunningError: the instance is not running.
        AccessError: this user may not send requests.
        UntrustedError: another user could have created the socket.
        StaleError: no answer arrived in time, or the tables are not complete yet.
        FrameError: the resolver has another version.
        BusyError: the resolver has too many requests to answer this one in time.
    """
    answer = exchange(paths.requests_socket(directory), pid, timeout_ms, fresh=fresh)
    if answer.reason == FILLING:
        raise StaleError("the tables are not complete yet: ask again")
    if answer.reason == BUSY:
        raise BusyError(f"the resolver had too many requests for {timeout_ms} ms to search for {pid}: ask again")
    return answer


def resolve(
    table: ProcessTable, pid: int, *, wait_ms: int = 0, timeout_ms: int = TIMEOUT_MS, fresh: bool = False
) -> Entry | None:
    """Look up `pid` in the table; if it is not there, ask the resolver.

    The resolver reads ``/proc`` for the same pid only once in a while. Until it may read again, the result is None; use
    `ask` and `Answer.reason` to distinguish this case.

    Args:
        table: the table of the instance.
        pid: tgid in the daemon's pid namespace.
        wait_ms: as in `ProcessTable.resolve`.
        timeout_ms: how long to wait for the resolver's answer.
        fresh: return the process as it is now. The tables may be `capture.freshness_ms` behind, so the resolver is
            asked first, whether the process is in the table or not.

    Returns:
        The entry, or None if the process was not found.

    Raises:
        ProclineError: any error of `ProcessTable.resolve` or `ask`.
    """
    entry = None if fresh else table.resolve(pid, wait_ms=wait_ms)
    if entry is not None:
        return entry
    answer = ask(Path(table.directory), pid, timeout_ms, fresh=fresh)
    return table.resolve(pid) if answer.found or fresh else None
