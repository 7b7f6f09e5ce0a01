"""Exceptions of Procline: one class for each situation to which a caller reacts differently.

A message says what failed, why, and what to do about it. The facts are also in attributes.
"""

from __future__ import annotations


class ProclineError(Exception):
    """Base class of all exceptions that Procline raises on purpose.

    Example:
        >>> try:
        ...     ProcessTable.attach("no-such-instance")
        ... except ProclineError as error:
        ...     print(type(error).__name__)
        NotRunningError
    """


class ConfigError(ProclineError):
    """A setting is wrong; the user has to correct it.

    Attributes:
        key: full name of the setting; None: it has none.
        value: the rejected value.

    Example:
        >>> ProcessTable.attach("not/a/name")
        Traceback (most recent call last):
            ...
        pipeline.errors.ConfigError: ...
    """

    def __init__(self, message: str, *, key: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.key = key
        self.value = value


class WriteError(ProclineError):
    """A requested output file cannot be written, or not completely.

    Attributes:
        path: the file.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class UnsupportedError(ProclineError):
    """This host lacks something that is needed.

    Attributes:
        feature: what cannot be used.
        needs: what it needs.
        hint: what to do about it; it is also appended to the message.

    Example:
        >>> create_tables(path="/proc/procline")
        Traceback (most recent call last):
            ...
        pipeline.errors.UnsupportedError: ...
    """

    def __init__(self, message: str, *, feature: str = "", needs: str = "", hint: str = "") -> None:
        super().__init__(message if not hint else f"{message}; {hint}")
        self.feature = feature
        self.needs = needs
        self.hint = hint


class LoadError(ProclineError):
    """The kernel rejected a BPF program.

    Attributes:
        program: name of the program.
        log_tail: the last lines of the verifier's log.
    """

    def __init__(self, message: str, *, program: str = "", log_tail: str = "") -> None:
        super().__init__(message)
        self.program = program
        self.log_tail = log_tail


class GivingUpError(ProclineError):
    """A worker process failed too often, so the daemon stops.

    Attributes:
        role: the worker, for example "resolver".
    """

    def __init__(self, message: str, *, role: str) -> None:
        super().__init__(message)
        self.role = role


class HopelessError(GivingUpError):
    """A worker process reported that a restart would fail in the same way, for example due to a wrong setting."""


class NotRunningError(ProclineError):
    """The instance does not exist or is not ready.

    Attributes:
        instance: its name.
        running: names of the instances that do run, if the message names them.

    Example:
        >>> ProcessTable.attach("no-such-instance")
        Traceback (most recent call last):
            ...
        pipeline.errors.NotRunningError: ...
    """

    def __init__(self, message: str, *, instance: str = "", running: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.instance = instance
        self.running = running


class ClosedError(ProclineError, ValueError):
    """An object was used after it was closed, or was closed while it waited.

    Example:
        >>> with Subscriber(topics=["exec"]) as subscriber:
        ...     pass
        >>> subscriber.read()
        Traceback (most recent call last):
            ...
        pipeline.errors.ClosedError: ...
    """


class InUseError(ProclineError):
    """Another thread or task is using this object at the moment. Make one for each of them.

    Example:
        >>> import asyncio
        >>> async def read_twice():
        ...     async with Subscriber(topics=["exit"]) as subscriber:
        ...         await asyncio.gather(subscriber.read_async(), subscriber.read_async())
        >>> asyncio.run(read_twice())
        Traceback (most recent call last):
            ...
        pipeline.errors.InUseError: ...
    """


class StartingError(NotRunningError):
    """The instance is starting: its tables are not complete yet.

    Example:
        >>> try:
        ...     ProcessTable.attach("no-such-instance")
        ... except StartingError:
        ...     print("it is starting: wait")
        ... except NotRunningError:
        ...     print("it is not running: start it")
        it is not running: start it
    """


class NoProcessError(ProclineError):
    """No process has a requested pid, or it is no longer retained.

    Attributes:
        pids: the pids.

    Example:
        >>> Subscriber(select=Selection(under=[4711]))
        Traceback (most recent call last):
            ...
        pipeline.errors.NoProcessError: ...
    """

    def __init__(self, message: str, *, pids: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pids = pids


class AccessError(ProclineError):
    """The caller has no permission to read this instance.

    Attributes:
        path: the file or directory that cannot be accessed.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        ...     os.chmod(directory, 0o777)  # an UntrustedError, which is an AccessError
        ...     try:
        ...         ProcessTable.attach(path=directory)
        ...     except AccessError as error:
        ...         error.path == directory
        True
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class UntrustedError(AccessError):
    """A file or directory could have been created or changed by another user.

    Attributes:
        path: the file or directory.
        owner: uid of its owner; None: unknown.
        mode: its permission bits; None: unknown.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        ...     os.chmod(directory, 0o777)
        ...     ProcessTable.attach(path=directory)
        Traceback (most recent call last):
            ...
        pipeline.errors.UntrustedError: ...
    """

    def __init__(self, message: str, *, path: str = "", owner: int | None = None, mode: int | None = None) -> None:
        super().__init__(message, path=path)
        self.owner = owner
        self.mode = mode


class WriterExistsError(ProclineError):
    """Another process already writes the tables of this instance.

    Attributes:
        tgid: the other process; 0: unknown.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory):
        ...     create_tables(path=directory)
        Traceback (most recent call last):
            ...
        pipeline.errors.WriterExistsError: ...
    """

    def __init__(self, message: str, *, tgid: int = 0) -> None:
        super().__init__(message)
        self.tgid = tgid


class LayoutError(ProclineError):
    """A segment has another magic number, version or size than this version of Procline reads.

    Attributes:
        expected: the value that this version reads.
        found: the value in the segment.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        ...     _ = pathlib.Path(directory, "control").write_bytes(b"x" * 8192)
        ...     ProcessTable.attach(path=directory)
        Traceback (most recent call last):
            ...
        pipeline.errors.LayoutError: ...
    """

    def __init__(self, message: str, *, expected: object = None, found: object = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class StaleError(ProclineError):
    """The writer is gone or behind, so the tables cannot show whether a process exists. Retry when it has recovered.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        ...     tables = create_tables(path=directory)
        ...     table = ProcessTable.attach(path=directory)
        ...     tables.close()
        ...     table.resolve(7)
        Traceback (most recent call last):
            ...
        pipeline.errors.StaleError: ...
    """


class BehindError(StaleError):
    """The instance is running, but its tables lag behind. Retry when it has caught up.

    Attributes:
        behind_ns: the lag.

    Example:
        >>> import time
        >>> def parent_of(pid):
        ...     while True:
        ...         try:
        ...             return table.resolve(pid).ppid
        ...         except BehindError as error:
        ...             time.sleep(error.behind_ns / 1e9)
        >>> parent_of(901)
        1
    """

    def __init__(self, message: str, *, behind_ns: int = 0) -> None:
        super().__init__(message)
        self.behind_ns = behind_ns


class BusyError(ProclineError):
    """A row was being written for longer than a reader waits. Retry.

    Example:
        >>> def parent_of(pid):
        ...     while True:
        ...         try:
        ...             return table.resolve(pid).ppid
        ...         except BusyError:
        ...             pass
        >>> parent_of(901)
        1
    """


class WaitTimeoutError(ProclineError, TimeoutError):
    """A process was still running at the end of the time that a caller wanted to wait.

    Attributes:
        timeout: that time in seconds.

    Example:
        >>> table.wait_exit(1, timeout=0.1)
        Traceback (most recent call last):
            ...
        pipeline.errors.WaitTimeoutError: ...
    """

    def __init__(self, message: str, *, timeout: float = 0.0) -> None:
        super().__init__(message)
        self.timeout = timeout


class TooOldError(ProclineError):
    """The requested time is before the retained history.

    Attributes:
        horizon_unix_ns: the earliest time that can be requested.

    Example:
        >>> table.resolve(901, at=table.boot_unix_ns - 1)
        Traceback (most recent call last):
            ...
        pipeline.errors.TooOldError: ...
    """

    def __init__(self, message: str, *, horizon_unix_ns: int = 0) -> None:
        super().__init__(message)
        self.horizon_unix_ns = horizon_unix_ns


class DetachedError(ProclineError):
    """An entry that was pickled has no table, so it cannot find other processes.

    Example:
        >>> import pickle
        >>> pickle.loads(pickle.dumps(entry)).children()
        Traceback (most recent call last):
            ...
        pipeline.errors.DetachedError: ...
    """


class FrameError(ProclineError):
    """A peer sent a frame that cannot be decoded; the whole frame was rejected.

    Attributes:
        peer: the sender.
        reason: what is wrong with the frame.

    Example:
        >>> with ContextSender("my-agent") as sender:
        ...     sender.send("no-such-kind", 901)
        Traceback (most recent call last):
            ...
        pipeline.errors.FrameError: ...
    """

    def __init__(self, message: str, *, peer: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.reason = reason


class InvariantError(ProclineError):
    """A rule that the tables must satisfy is violated. Raised by `validate_*` functions only.

    Attributes:
        rule: the violated rule.
        row: the row that violates it; None: no single row.
    """

    def __init__(self, message: str, *, rule: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.row = row


class ResolverError(ProclineError):
    """The resolver rejected a call or cannot provide the requested facts.

    Example:
        >>> import tempfile, time
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     EBPFLessResolver(tables=tables).add_fork_entry(CacheResolverKey(pid=-7, nsid=0), 1, time.time_ns())
        Traceback (most recent call last):
            ...
        pipeline.errors.ResolverError: ...
    """


class NoProcessContextError(ResolverError):
    """The process of an event could not be resolved.

    Example:
        >>> is_valid, error = table.has_valid_lineage(4711)
        >>> error
        NoProcessContextError('pid 4711 is not in the table')
    """


class LineageError(ResolverError):
    """The chain of ancestors of a process is broken.

    Attributes:
        pid: pid of the entry at which the chain breaks.
        ppid: its parent.
        container_id: its container.

    Example:
        >>> is_valid, error = ProcessCacheEntry(pid=7, ppid=3).has_valid_lineage()
        >>> isinstance(error, LineageError), error.pid, error.ppid
        (True, 7, 3)
    """

    def __init__(self, message: str, *, pid: int = 0, ppid: int = 0, container_id: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.ppid = ppid
        self.container_id = container_id


class ProcessMissingParentNodeError(LineageError):
    """An entry of the chain has another parent or previous image than expected.

    Example:
        >>> ProcessCacheEntry(pid=7, ppid=3, is_parent_missing=True).has_valid_lineage()
        (False, ProcessMissingParentNodeError('the parent of pid 7 is missing'))
    """


class ProcessWrongParentNodeError(LineageError):
    """Pid 1 has an ancestor; `ppid` is the pid of that ancestor.

    Example:
        >>> ProcessCacheEntry(pid=1, ppid=4, ancestor=ProcessCacheEntry(pid=4)).has_valid_lineage()
        (False, ProcessWrongParentNodeError('pid 1 has an ancestor, pid 4'))
    """


class ProcessIncompleteLineageError(LineageError):
    """The chain ended before pid 1.

    Example:
        >>> ProcessCacheEntry(pid=7, ppid=3).has_valid_lineage()
        (False, ProcessIncompleteLineageError('the lineage ends at pid 7'))
    """
