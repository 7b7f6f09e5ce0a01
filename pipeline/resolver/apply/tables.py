"""Create tables for a resolver that runs in the caller's own program, without the daemon."""

from __future__ import annotations

import os
import threading
import time
import weakref
from pathlib import Path

from pipeline import paths
from pipeline.config.schema import Tables
from pipeline.errors import ConfigError
from pipeline.host import boot
from pipeline.shm.layout import layout
from pipeline.shm.writer._opening import open_tables
from pipeline.shm.writer._writer import TableWriter

#: Readers take a writer that is silent for a second for dead.
_LIFE_S = 0.25
#: A century: in nanoseconds it fits into 63 bits.
_RETENTION_MAX_S = 3_155_760_000


def create_tables(
    name: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    max_entries: int | None = None,
    retention_s: float | None = None,
    names_bytes: int | None = None,
    args_bytes: int | None = None,
    envs_bytes: int | None = None,
    pid_capacity: int | None = None,
    key_capacity: int | None = None,
) -> TableWriter:
    """Create the tables of an instance for `EBPFResolver` or `EBPFLessResolver`; this process is their writer.

    Any process can read them meanwhile, as those of a daemon: ``ProcessTable.attach(name)``. A thread shows readers
    that the writer lives, until `close`. If an earlier process left such tables behind, they continue with their
    history. Processes that ended in between are not noticed: delete those that your source does not report any more.

    Args:
        name: of the instance; None: ``PROCLINE_INSTANCE`` of the environment, otherwise ``default``.
        path: its runtime directory, which must be on tmpfs; None: the usual one.
        max_entries: as the setting ``tables.max_entries`` of a daemon; None: its default. The same holds for the rest.
        retention_s: ``tables.retention_s``.
        names_bytes: ``tables.names_bytes``.
        args_bytes: ``tables.args_bytes``.
        envs_bytes: ``tables.envs_bytes``.
        pid_capacity: ``tables.pid_capacity``.
        key_capacity: ``tables.key_capacity``.

    Returns:
        TableWriter, a context manager. `close` ends it, and so does dropping it with all resolvers that use it; the
        files remain for the next writer, and readers get StaleError. ``close(remove=True)`` also removes the files.

    Raises:
        WriterExistsError: another process writes these tables, for example a daemon with this name.
        UnsupportedError: the directory is not on tmpfs, or has no room.
        ConfigError: the name is not valid, or a size is out of range.

    Example:
        >>> import tempfile, time
        >>> from pipeline import CacheResolverKey, EBPFLessResolver, ProcessTable, create_tables
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFLessResolver(tables=tables)
        ...     entry = resolver.add_fork_entry(CacheResolverKey(7, 4026532000), 1, time.time_ns())
        ...     with ProcessTable.attach(path=directory) as table:
        ...         print(table.resolve(7, pid_ns=4026532000).pid)
        7
    """
    default = Tables()
    directory = paths.instance_dir(paths.chosen_instance(name)) if path is None else Path(path)
    paths.check_in_memory(directory)
    retention = default.retention_s if retention_s is None else retention_s
    if not 0 <= retention <= _RETENTION_MAX_S:
        raise ConfigError(
            f"retention_s is {retention}: use 0 to {_RETENTION_MAX_S} seconds",
            key="tables.retention_s",
            value=retention,
        )
    tables = open_tables(
        directory,
        boot_id=boot.boot_id(),
        capture_id=int.from_bytes(os.urandom(8)) | 1,
        ring_count=1,
        row_capacity=default.max_entries if max_entries is None else max_entries,
        chunk_rows=default.chunk_rows,
        pid_capacity=pid_capacity or boot.pid_max(),
        key_capacity=default.key_capacity if key_capacity is None else key_capacity,
        names_bytes=default.names_bytes if names_bytes is None else names_bytes,
        args_bytes=default.args_bytes if args_bytes is None else args_bytes,
        envs_bytes=default.envs_bytes if envs_bytes is None else envs_bytes,
        boot_unix_ns=boot.BootClock.read().offset_ns,
        retention_ns=int(retention * 1e9),
        chain_max=default.chain_max,
        checked=default.checked,
    )
    tables.ends_when_dropped = True
    tables.set_state(layout.STATE_READY)
    threading.Thread(target=_show_life, args=(weakref.ref(tables),), name="procline-life", daemon=True).start()
    return tables


def _show_life(reference: weakref.ref[TableWriter]) -> None:
    """Store a heartbeat until the tables are closed or dropped."""
    while (tables := reference()) is not None:
        try:
            tables.heartbeat(boot.now_boot_ns())
        except ValueError:  # closed
            return
        del tables  # while this sleeps, it keeps nothing
        time.sleep(_LIFE_S)
