"""`ProcessTable`: the processes of this host, read from the tables of a running instance.

    >>> with ProcessTable.attach() as table:
    ...     entry = table.resolve(8675)
    ...     print(entry.comm, entry.path, [ancestor.pid for ancestor in table.ancestors(8675, by="parent")])
    date /usr/bin/date [8674, 901, 1]

FIELDS has the names of all fields that `Entry.to_dict`, `ProcessTable.batch` and `ProcessTable.columns` return:

    >>> "start_time_ns" in FIELDS, "duration" in FIELDS  # `duration` is an attribute, which they accept too
    (True, False)

TableReader (_reader.pyx) implements the look-ups, which need neither a lock nor a system call. This module finds an
instance by name. It imports nothing that a look-up does not need, so that a single look-up from a shell is quick, and a
reader small. It needs no daemon module, not numpy, and neither pathlib nor typing of the standard library.
"""

from __future__ import annotations

import os

from pipeline import paths
from pipeline.errors import AccessError, LineageError, NoProcessContextError, NotRunningError
from pipeline.shm.reader import lineage
from pipeline.shm.reader._entry import FIELDS, Entry
from pipeline.shm.reader._reader import CHAIN_MAX, PROCESS_BYTES, TableReader, pids_of
from pipeline.shm.reader.arguments import number_of, seconds_of, texts_of

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Never, Self

    import numpy.typing as npt
    from typing_extensions import Buffer

    from pipeline.shm.reader.columns import Columns
    from pipeline.shm.reader.statistics import Stats
    from pipeline.shm.reader.values import Batch

__all__ = ["CHAIN_MAX", "FIELDS", "Entry", "ProcessTable"]


#: Methods and properties for other parts of Procline. They work, but `help` and completion do not list them.
_INTERNAL = frozenset({"busy_retries", "commit", "copies", "slots", "status", "view"})


class _Public(type):
    """Leaves out of `dir` what is not for programs that use the class."""

    def __dir__(cls) -> list[str]:
        return [name for name in super().__dir__() if name not in _INTERNAL]


class ProcessTable(TableReader, metaclass=_Public):
    """Lock-free access to one instance's tables; `TableReader` documents the look-ups and their errors.

    As a collection, a table contains the running processes: `len` counts them, ``for`` iterates over them by pid, and
    ``in`` says whether a pid or the process of an entry is running. `walk` also returns the exited ones.

    Numbers must be integers. Any other type is a TypeError (True and 1.0 are not pids), and a number out of range is a
    ValueError.

    Example:
        >>> print([entry.pid for entry in table][:3], 901 in table, 8675 in table)
        [1, 901, 2000] True False
    """

    @classmethod
    def attach(
        cls, name: str | None = None, *, path: str | os.PathLike[str] | None = None, max_age_ms: int = 10_000
    ) -> Self:
        """Open the tables of a running instance.

        Args:
            name: the instance's name; None: ``PROCLINE_INSTANCE`` of the environment, otherwise ``default``.
            path: the directory of this instance, such as ``/run/procline/default``. With ``PROCLINE_RUNTIME_DIR`` in
                the environment it is ``$PROCLINE_RUNTIME_DIR/NAME``, which is found without `path`.
            max_age_ms: how long entries are still returned after the writer's last heartbeat.

        Raises:
            NotRunningError: the instance does not exist, is not ready, or its writer has ended. (An instance that is
                only behind is opened.) The message names the instances that do run.
            AccessError: the caller may not read it.
            UntrustedError: another user could have created the tables.
            LayoutError: another version created the tables.
            ConfigError: `name` is not a valid instance name.

        Example:
            >>> with ProcessTable.attach() as table:
            ...     print(table.resolve(901).argv)
            ['sshd', '-D']
        """
        number_of("max_age_ms", max_age_ms)
        if path is not None:
            return cls(path, name or paths.DEFAULT_INSTANCE, max_age_ms=max_age_ms)
        name = paths.chosen_instance(name)
        try:
            return cls(paths.instance_directory(name), name, max_age_ms=max_age_ms)
        except NotRunningError as error:
            from pipeline.host.instances import name_others

            raise name_others(error) from None

    @classmethod
    def open(cls, recording: str | os.PathLike[str], *, partial: bool = False) -> Self:
        """Open a recording of `procline record` like an instance: all methods answer from it.

        Its processes are as they were at its end, and `resolve(pid, at=...)` looks into the past. An instance of this
        user replays the file into tables in memory, which takes some seconds, and ends with `close`, or when this
        process ends. Its memory has the ceilings of every instance (`tables.max_entries`): of a recording that does not
        fit, the processes that ended first are left out.

        Args:
            recording: the file.
            partial: accept a file that is cut off or damaged, and read what is before that place.

        Raises:
            ConfigError: the file cannot be read.
            FrameError: it is not a recording, it is empty, or it is cut off; the message says where.
            UnsupportedError, ProclineError: it cannot be replayed here. That needs the packages of `procline[daemon]`.

        Example:
            >>> ProcessTable.open("/no/such/file.rec")
            Traceback (most recent call last):
                ...
            pipeline.errors.ConfigError: ...
            >>> with ProcessTable.open("storm.rec") as table:  # doctest: +SKIP
            ...     before = table.recorded_until_ns - 5 * 10**9
            ...     print(len(table), table.resolve(1, at=before))
        """
        import weakref
        from pathlib import Path

        from pipeline.shm.reader.recorded import Replay

        file = Path(recording)
        replay = Replay(file, partial=partial)
        try:
            table = cls(replay.directory, replay.directory.name)
        except BaseException:
            replay.stop()
            raise
        table._recording = file
        table._last_boot_ns = replay.last_boot_ns
        # Also called when the table is collected or this process ends.
        table._end_replay = weakref.finalize(table, replay.stop)
        return table

    _recording: Path | None = None
    _last_boot_ns = 0
    _end_replay: Callable[[], object] | None = None

    @property
    def recorded_until_ns(self) -> int | None:
        """Unix time of the last event of a recording, ns; None: this is not a recording.

        Example:
            >>> print(table.recorded_until_ns)
            None
        """
        return None if self._recording is None else self.boot_unix_ns + self._last_boot_ns

    def close(self) -> None:
        """Release the segments. Entries stay usable; they keep mapped what they need.

        Example:
            >>> table = ProcessTable.attach()
            >>> entry = table.resolve(901)
            >>> table.close()
            >>> entry.path
            '/usr/sbin/sshd'
        """
        super().close()
        if self._end_replay is not None:
            self._end_replay()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        what = repr(self.instance) if self._recording is None else f"of {str(self._recording)!r}"
        return f"<ProcessTable {what}{' closed' if self.closed else ''}>"

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _INTERNAL]

    if not TYPE_CHECKING:  # type checkers know the names

        def __getattr__(self, name: str) -> object:
            """Raise the error for an attribute that does not exist, with a suggestion."""
            hint = ""
            if not name.startswith("_"):
                from pipeline.shm.layout import near_names

                known = [each for each in dir(type(self)) if not each.startswith("_")]
                hint = near_names.suggestion(name, known, of=near_names.TABLE)
            raise AttributeError(f"a ProcessTable has no attribute {name!r}{hint}")

    def refresh(self, timeout_ms: int = 1000) -> None:
        """Wait until everything that happened before this call is in the tables.

        The tables may be `capture.freshness_ms` behind, so a process that was started just now may be missing. Call
        this before ``in``, iteration, `batch`, `columns`, `find` or `resolve_many` if such a process must not be
        missing. For one process, ``resolve(pid, fresh=True)`` does the same. It is a question to the resolver, which
        takes a millisecond or more. In a recording nothing more happens, so the call returns at once.

        Args:
            timeout_ms: how long to wait for the resolver's answer.

        Raises:
            AccessError: this user may not ask the resolver. Reading does not need this permission, so you can continue
                with what the tables have, or let the administrator change `access.requests_mode`.
            StaleError, BusyError: the resolver did not answer in time.
            NotRunningError: the instance has been stopped.
            TypeError, ValueError: `timeout_ms` is no number, or out of range.

        Example:
            >>> import subprocess
            >>> child = subprocess.Popen(["sleep", "60"])  # doctest: +SKIP
            >>> table.refresh()  # doctest: +SKIP
            >>> child.pid in table  # doctest: +SKIP
            True
        """
        number_of("timeout_ms", timeout_ms, low=1)
        if self._recording is None or self.closed:  # a closed table raises the error
            self._ask(1, timeout_ms)  # pid 1 is always known, so the resolver searches for nothing

    # -- the running processes as a collection -------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.copies(running=True))

    def __bool__(self) -> bool:
        return True  # a table is no empty list, even if no process of it is running

    def __iter__(self) -> Iterator[Entry]:
        return self.walk(exited=False)

    def __contains__(self, process: int | Entry) -> bool:
        entry = self.newest(process) if isinstance(process, Entry) else self.resolve(process)
        return entry is not None and not entry.is_exited

    def find(
        self,
        *,
        name: str | Collection[str] | None = None,
        path: str | Collection[str] | None = None,
        argv: str | Collection[str] | None = None,
        user: str | int | Collection[str | int] | None = None,
        container: str | Collection[str] | None = None,
        unit: str | Collection[str] | None = None,
        exited: bool = False,
        **unknown: Never,
    ) -> list[Entry]:
        """Return the processes that match everything that is given, by pid; without anything, all of them.

        Each argument is a text or several; of several, one must match. They mean what the options of `procline ps`
        mean. ``*``, ``?`` and ``[...]`` in a name, path, argument or unit are wildcards for the whole of it, as in
        fnmatch(3). Upper and lower case differ. To find such a character itself, write it in brackets: ``[*]``.

        Args:
            name: of the program: of the script, of the executable, or of the process (comm). A process can choose it.
            path: of the executable or the script. A pattern without a slash is compared with the last part.
            argv: one argument; the first argument, which names the program, counts too.
            user: name or number of the user or effective user.
            container: id of the container, or its first characters (at least 4).
            unit: name of the systemd unit; ``.service`` may be omitted. Or the path of a cgroup, as in `Entry.cgroup`
                or below ``/sys/fs/cgroup``: this selects the processes of all cgroups below it too.
            exited: include exited processes that are retained.
            **unknown: raises TypeError.

        Raises:
            TypeError, ValueError: an argument is unknown, has another type, is empty, or is too short.
            AccessError: `argv` is given, and this user may not read arguments.
            StaleError, BusyError: as in `walk`.

        Example:
            >>> [entry.pid for entry in table.find(path="/usr/sbin/*", user="root")]
            [901, 2000]
            >>> [entry.pid for entry in table.find(name="date", argv="+%s", exited=True)]
            [8675]
        """
        from pipeline.select.selection import Selection

        if unknown:
            raise _unknown_argument(next(iter(unknown)))
        selection = Selection(
            users=texts_of("user", user, with_numbers=True),
            units=texts_of("unit", unit),
            containers=texts_of("container", container),
            paths=texts_of("path", path),
            names=texts_of("name", name),
            args=texts_of("argv", argv),
        )
        if selection.args:
            self._require_arguments()
        found = self.batch(selection.fields, running=not exited)
        if not selection:
            return [found.entry(place) for place in range(len(found))]
        return [found.entry(place) for place, fields in enumerate(found.dicts()) if selection.matches(fields)]

    def _require_arguments(self) -> None:
        arguments = os.path.join(self.directory, paths.ARGS)  # noqa: PTH118
        if not os.access(arguments, os.R_OK, effective_ids=True):
            raise AccessError(
                f"this user may not read the arguments of instance {self.instance!r}, so no process can be found by "
                "them: find it by name or path",
                path=arguments,
            )

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait_exit(self, process: int | Entry, timeout: float | None = None) -> Entry | None:
        """Wait until a process has ended, and return its last image, with `exit_code` and `exit_time_ns`.

        The table is read every 20 ms or more often; Ctrl-C ends the call. Another process that gets the same pid in the
        meantime changes nothing.

        Args:
            process: an Entry, or a pid: the process that has it now, even if it was forked just now. If no running
                process has the pid, the last one that had it, which has ended, is returned at once.
            timeout: how long to wait at most, s; None: without a limit. In a recording nothing more happens, so there
                is no wait.

        Returns:
            Entry; None if no process in the table has the pid.

        Raises:
            WaitTimeoutError: the process is still running. It is also a TimeoutError.
            TooOldError: the process has ended, but its entry is not retained any more.
            StaleError, NotRunningError: the instance ends, and no other one continues it.

        Example:
            >>> table.wait_exit(8675, timeout=10).exit_status
            0
        """
        from pipeline.shm.reader.waiting import wait_exit

        return wait_exit(self, process, self._patience(timeout))

    def wait_tree(self, process: int | Entry, timeout: float | None = None) -> Entry | None:
        """Wait until a process and all of its descendants have ended, and return the last image of the process.

        A process descends from its current parent and from its creator, so a daemon that was adopted by init counts.
        ``descendants(by="origin", exited=True)`` of the result lists the descendants, as long as they are retained.

        Args:
            process: as in `wait_exit`.
            timeout: as in `wait_exit`.

        Returns:
            Entry; None if no process in the table has the pid.

        Raises:
            WaitTimeoutError: the process or a descendant is still running; the message names it.
            TooOldError, StaleError, NotRunningError: as in `wait_exit`.

        Example:
            >>> ended = table.wait_tree(8675, timeout=10)
            >>> ended.exit_status, ended.descendants(by="origin", exited=True)
            (0, [])
        """
        from pipeline.shm.reader.waiting import wait_tree

        return wait_tree(self, process, self._patience(timeout))

    def _patience(self, timeout: object) -> float | None:
        """Return how long to wait: nothing more happens in a recording."""
        seconds = seconds_of("timeout", timeout)
        return seconds if self._recording is None else 0.0

    @property
    def boot_unix_ns(self) -> int:
        """Unix time of boot-clock zero in ns, as this instance determined it; all entry times are relative to it.

        Example:
            >>> import time
            >>> now_ns = table.boot_unix_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            >>> entry.exit_time_ns < now_ns
            True
        """
        return int(self.view.boot_unix_ns)

    @property
    def complete_from_ns(self) -> int | None:
        """Since when every process that ended is still in the table, ns since the Unix epoch; None: it is not known.

        Every process that ended later is in the table until it is evicted. This moment follows the clock at the
        distance of the setting ``tables.retention_s``, and is later if a table is full, or if the daemon has not run
        for this time. A recording evicts nothing by age, so it has None.

        Example:
            >>> started_ns = table.stats()["started_ns"]
            >>> table.complete_from_ns is None or table.complete_from_ns >= started_ns
            True
        """
        from pipeline.shm.reader.horizon import horizon

        found = horizon(self.directory)
        return None if found is None else found.time_ns

    @property
    def complete_from(self) -> datetime | None:
        """`complete_from_ns` as a datetime in UTC.

        Example:
            >>> from datetime import UTC, datetime
            >>> since = table.complete_from
            >>> since is None or since < datetime.now(UTC)  # processes that ended before may be missing
            True
        """
        from datetime import UTC, datetime, timedelta

        ns = self.complete_from_ns
        return None if ns is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)

    # -- many processes at once --------------------------------------------------------------------------------------

    def batch(self, fields: Sequence[str], *, running: bool = False, links: Buffer | None = None) -> Batch:
        """Read fields of all processes at once.

        The result is that of `Entry.as_dict` for each entry of `walk`, but takes a small part of the time. Each row is
        copied once, together with its strings, and values that rows have in common are computed once.

        Args:
            fields: names of `pipeline.FIELDS`, or of other attributes of `Entry` that say something about the process
                itself, such as ``start_time``, ``age``, ``duration`` or ``exit_status``.
            running: leave out exited processes.
            links: read these images instead, a buffer of uint64 with links as `image` takes them. Those that are not
                retained are left out.

        Raises:
            ValueError: a name is not a field; the message suggests the right one, also for a name of psutil.
            TypeError: `fields` is a str, or `links` has other elements.
            StaleError, BusyError: as in `walk`.

        Example:
            >>> batch = table.batch(["pid", "comm"], running=True)
            >>> list(batch.dicts())[1]
            {'pid': 901, 'comm': 'sshd'}
        """
        from pipeline.shm.reader import values

        values.check(fields)
        kinds, cold = values.needs(fields)
        return values.Batch(self.copies(links=links, kinds=kinds, cold=cold, running=running), fields)

    def batches(self, fields: Sequence[str], *, running: bool = False, size: int = 1024) -> Iterator[Batch]:
        """Read all processes as `batch` does, about `size` at a time. This reads a large table with little memory.

        Example:
            >>> sum(len(batch) for batch in table.batches(["pid"], running=True, size=4))
            6
        """
        from pipeline.shm.reader import values

        values.check(fields)
        return self._batches(fields, running, number_of("size", size, low=1))

    def _batches(self, fields: Sequence[str], running: bool, size: int) -> Iterator[Batch]:
        from pipeline.shm.reader import values

        kinds, cold = values.needs(fields)
        whole = memoryview(self.slots() if running else self._processes())
        step = size * (4 if running else PROCESS_BYTES)
        for begin in range(0, len(whole), step):
            part = whole[begin : begin + step]
            rows = self.copies(
                slots=part if running else None, processes=None if running else part,
                kinds=kinds, cold=cold, running=running,
            )  # fmt: skip
            yield values.Batch(rows, fields)

    def columns(self, names: Sequence[str], *, running: bool = True, pids: npt.ArrayLike | None = None) -> Columns:
        """Return fields of many processes as numpy arrays; `Columns` also makes tables for other libraries.

        Args:
            names: as in `batch`: names of FIELDS, or of other attributes. Times that end with ``_ns`` also have a form
                without ``_ns``: datetime64, or timedelta64 of ``age`` and ``duration``.
            running: only live processes; otherwise also the exited ones that are retained.
            pids: these processes instead, in this order. A pid that is not in the table has a row too: ``pid`` is the
                requested number, everything else is unknown, and `Columns.found` is false.

        Raises:
            ValueError: a name is not a column (the message suggests the right one), or a pid is out of range.
            TypeError: `names` is a str, or pids are not integers.
            StaleError, BusyError: as in `walk`; with pids, StaleError as in `resolve_many`.

        Example:
            >>> with ProcessTable.attach() as table:
            ...     columns = table.columns(["pid", "ppid", "path", "argv", "user", "start_time"])
            ...     print(columns.count, columns["path"][0])
            6 /usr/lib/systemd/systemd
        """
        from pipeline.shm.reader import columns, values

        values.check(names)
        kinds, cold = values.needs(names)
        numbers = None if pids is None else pids_of(pids)
        rows = self.copies(pids=numbers, kinds=kinds, cold=cold, running=running and pids is None)
        return columns.Columns(rows, names)

    # -- lineage (specification 5.10, 5.11), with the same results as the resolver's own entries -----------------------

    def has_valid_lineage(
        self, process: int | Entry, *, pid_ns: int | None = None
    ) -> tuple[bool, LineageError | NoProcessContextError | None]:
        """Return whether the chain of a process (or of one of its images) leads to pid 1 without a gap, and why not.

        Args:
            process: as in `ancestors`, which also lists the exceptions; the other methods here raise the same.
            pid_ns: as in `ancestors`.

        Returns:
            (True, None), or False and a ProcessMissingParentNodeError, ProcessWrongParentNodeError or
            ProcessIncompleteLineageError, each with the entry's ``pid``, ``ppid`` and ``container_id``, or a
            NoProcessContextError if the process does not exist. These errors are returned, not raised.

        Example:
            >>> table.has_valid_lineage(8675)
            (True, None)
            >>> table.has_valid_lineage(4711)
            (False, NoProcessContextError('pid 4711 is not in the table'))
        """
        chain = self._chain(process, pid_ns)
        if not chain:
            return False, NoProcessContextError(f"pid {process} is not in the table")
        fault = lineage.fault(chain, _container)
        return fault is None, fault

    def has_complete_lineage(self, process: int | Entry, *, pid_ns: int | None = None) -> bool:
        """Return whether pid 1 is on the chain, regardless of gaps below it.

        Example:
            >>> table.has_complete_lineage(8675)
            True
        """
        return any(entry.pid == 1 for entry in self._chain(process, pid_ns))

    def get_ancestors_pids(self, process: int | Entry, *, pid_ns: int | None = None) -> list[int]:
        """Return the distinct pids of the chain, the process' own first; empty if the process does not exist.

        Example:
            >>> table.get_ancestors_pids(8675)
            [8675, 8674, 901, 1]
        """
        return lineage.pids(self._chain(process, pid_ns))

    def get_container_pids(self, process: int | Entry, *, pid_ns: int | None = None) -> tuple[list[int], list[str]]:
        """Return pids and executables up the chain while it is in a container, by the newest image of each process.

        Example:
            >>> table.get_container_pids(2001)
            ([2001], ['/usr/sbin/nginx'])
        """
        return lineage.in_container(self._chain(process, pid_ns), _container, lambda entry: entry.path or "")

    def is_container_root(self, process: int | Entry, *, pid_ns: int | None = None) -> bool:
        """Return whether the process is in a container and its ancestor is not.

        Example:
            >>> table.is_container_root(2001), table.is_container_root(2000)
            (True, False)
        """
        entry = process if isinstance(process, Entry) else self.resolve(process, pid_ns=pid_ns)
        if entry is None or not entry.container_id:
            return False
        ancestors = self.ancestors(entry, limit=1)
        return bool(ancestors) and not ancestors[0].container_id

    def _chain(self, process: int | Entry, pid_ns: int | None) -> list[Entry]:
        """Return a process and all its ancestors, newest first; empty if the process does not exist."""
        entry = process if isinstance(process, Entry) else self.resolve(process, pid_ns=pid_ns)
        return [] if entry is None else [entry, *self.ancestors(entry)]

    def stats(self) -> Stats:
        """Return what the instance has done and holds, as `procline stat --json` shows it.

        The counts are of one commit. `events` and `lost` are by kind. `entries` counts processes, `images` counts rows.
        `watermark_lag_ns` is how far the tables are behind the clock (None before the first commit). `behind_ns` is the
        same or the age of the heartbeat; it is 0 unless it exceeds what an idle instance can have. `processes` have
        `cpu_seconds` and `pss_bytes`, None if the caller may not read it. `readers` counts processes with open
        tables; if `readers_complete` is false, it is a lower limit (a user holds other locks on the tables).
        `started_ns` is when the capture began (Unix time), so an older process has no creator; `retention_s` is how
        long an exited process is kept, and `complete_from_ns` since when all of them are here. Each of these three is
        None if it is not known, as in a recording. `sampling_interval_s` is within which time a comparison finds a
        change of credentials or session: `capture.sampling_interval_s`, or more with many processes; None if the
        instance sees such changes when they happen, or not at all.

        Raises:
            StaleError, NotRunningError: the instance has been stopped, or is being replaced. Statistics are available
                while the table is being filled and while it is behind.

        Example:
            >>> stats = table.stats()
            >>> stats["instance"], stats["state"], stats["entries"]["live"]
            ('default', 'ready', 6)
        """
        from pipeline.shm.reader.statistics import statistics

        return statistics(self)


def _container(entry: Entry) -> str | None:
    return entry.container_id


def _unknown_argument(wrong: str) -> TypeError:
    """Return the error about an argument that `ProcessTable.find` does not have."""
    from pipeline.shm.layout import near_names

    known = ("name", "path", "argv", "user", "container", "unit", "exited")
    hint = near_names.suggestion(wrong, known, of=near_names.FIND, otherwise=f"it has {', '.join(known)}")
    return TypeError(f"find has no argument {wrong!r}{hint}")
