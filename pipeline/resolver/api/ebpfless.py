"""`EBPFLessResolver`: processes keyed by pid and pid namespace, reported by a tracer in a container (specification 4).

    resolver = EBPFLessResolver(tables=tables)
    resolver.add_fork_entry(CacheResolverKey(7, nsid), ppid=1, ts=now_ns)

Without kernel and ``/proc`` there is no other source and no repair: the resolver knows what the tracer reports. Each
method applies the record that a tracer's frame would have held (`keyed_records`), so entries are rows of the shared
tables, which every reader sees, and events of the stream.

Differences from the reference, with their reasons, are in docs/parity.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.export.statsd import CACHE_SIZE
from pipeline.host import boot
from pipeline.resolver.api.keyed_records import KeyedRecorder, require_key
from pipeline.resolver.api.stats import PREFIX, StatsdClient
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import args_views, entry_records
from pipeline.resolver.entries.cache_entry import Process, ProcessCacheEntry
from pipeline.resolver.entries.keyed_rows import COMM_CHARS, KeyedBook, is_key
from pipeline.resolver.entries.model import (
    FILELESS_PREFIX,
    CacheResolverKey,
    ContainerContext,
    FileEvent,
    NotSupportedError,
    Source,
)
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.resolver.merge.keyed_frames import KeyedFrames
from pipeline.secrets.argsenvs import ArgScrubber, ArgsEntry, EnvsEntry
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace

#: An id that a message leaves unchanged.
UNCHANGED = -1


class EBPFLessResolver:
    """The process cache of tracers' containers. One lock; a callback may call back.

    Args:
        config: kept as the attribute `config`, and not used.
        statsd_client: see `send_stats`; None: nothing is sent.
        scrubber: hides secrets in arguments before they are stored; None: the built-in one, unless `opts` asks for raw
            values.
        opts: copied.
        tables: of this instance; this process is their writer.
        applier: of these tables, shared with the live batches; None: the resolver creates one.
        now_boot_ns: the boot clock.

    Timestamps are ns since the Unix epoch; namespaces are inode numbers (32 bits).

    Example:
        >>> import tempfile, time
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFLessResolver(tables=tables)
        ...     key = CacheResolverKey(pid=7, nsid=4026532000)
        ...     _ = resolver.add_fork_entry(key, 1, time.time_ns())
        ...     _ = resolver.add_exec_entry(key, 1, "/bin/date", ["date"], False, [], False, "", time.time_ns(), "")
        ...     print([image.comm for image in resolver.resolve(key).chain()])
        ['date', '']
    """

    def __init__(
        self,
        config: object = None,
        statsd_client: StatsdClient | None = None,
        scrubber: ArgScrubber | None = None,
        opts: ResolverOpts | None = None,
        *,
        tables: TableWriter,
        applier: Applier | None = None,
        now_boot_ns: Callable[[], int] = boot.now_boot_ns,
    ) -> None:
        self.config = config
        self.lock = threading.RLock()
        self._statsd_client = statsd_client
        self._opts = (opts or ResolverOpts()).copy()
        self._scrubber = args_views.scrubber_or_default(scrubber, self._opts)
        self._tables = tables
        self._now_boot_ns = now_boot_ns
        applier = applier if applier is not None else Applier(tables)
        space = KeySpace(tables, now_boot_ns, is_awaited=applier.py_is_awaited)
        offset_ns = int(tables.control_view()[0]["boot_unix_ns"])
        self.book = KeyedBook(tables, applier, offset_ns, now_boot_ns, space)
        self._recorder = KeyedRecorder(applier, self.book, KeyedFrames(tables, space), self._scrubber, self._opts)

    def __len__(self) -> int:
        with self.lock:
            return self.book.count()

    # -- events --------------------------------------------------------------------------------------------------------

    def add_fork_entry(self, key: CacheResolverKey, ppid: int, ts: int) -> ProcessCacheEntry | None:
        """Insert a forked process below its parent, if that is known. None for pid 0.

        Raises:
            ResolverError: there is no room for it, or no process can have the key.
        """
        if key.pid == 0:
            return None
        self._require_key(key, ppid)
        with self.lock:
            entry = self._recorder.fork(key, ppid, self.book.to_boot(ts))
            image = entry.ancestor
            if image is not None:
                entry.inherit_from(image)
        return entry

    def new_entry(
        self, key: CacheResolverKey, ppid: int, file: str, argv: Sequence[str], args_truncated: bool,
        envs: Sequence[str], envs_truncated: bool, ctr_id: str, ts: int, tty: str, source: int,
    ) -> ProcessCacheEntry:  # fmt: skip
        """Create an entry from a message, not in the cache."""
        if file.startswith(FILELESS_PREFIX):
            event = FileEvent().with_names("", file)
        else:
            event = FileEvent().with_names(file, file.rpartition("/")[2])
        argv0 = argv[0] if argv else ""
        entry = ProcessCacheEntry(
            pid=key.pid, tid=key.pid, ppid=ppid, nsid=key.nsid, source=Source(source), file_event=event,
            args_entry=ArgsEntry(argv, args_truncated), envs_entry=EnvsEntry(envs, envs_truncated),
            comm=argv0[:COMM_CHARS], tty_name=tty, container=ContainerContext(ctr_id), exec_time=ts,
        )  # fmt: skip
        entry.set_view("argv0", argv0)
        return entry

    def add_exec_entry(
        self, key: CacheResolverKey, ppid: int, file: str, argv: Sequence[str], args_truncated: bool,
        envs: Sequence[str], envs_truncated: bool, ctr_id: str, ts: int, tty: str,
    ) -> ProcessCacheEntry | None:  # fmt: skip
        """Insert an image above the image before it, and keep the credentials of that image. None for pid 0.

        If there is no image before, it is inserted below its parent, if that is known, and marked as incomplete.

        Raises:
            ResolverError: there is no room for it, or no process can have the key.
        """
        if key.pid == 0:
            return None
        self._require_key(key, ppid)
        entry = self.new_entry(
            key, ppid, file, argv, args_truncated, envs, envs_truncated, ctr_id, ts, tty, Source.EVENT
        )
        with self.lock:
            time_ns = self.book.to_boot(ts)
            previous = self.book.of_key(key)
            if previous is not None:
                return self._recorder.exec(key, entry, time_ns, previous.start_boot_ns, (ppid or previous.ppid, 0))
            parent = self._recorder.named_parent(key, ppid, time_ns)
            return self._recorder.exec(key, entry, time_ns, time_ns - 1, parent)

    def add_procfs_entry(
        self, key: CacheResolverKey, ppid: int, file: str, argv: Sequence[str], args_truncated: bool,
        envs: Sequence[str], envs_truncated: bool, ctr_id: str, ts: int, tty: str,
    ) -> ProcessCacheEntry | None:  # fmt: skip
        """Insert a process that the tracer found in ``/proc`` when it started. None for pid 0.

        Raises:
            ResolverError: there is no room for it, or no process can have the key.
        """
        if key.pid == 0:
            return None
        self._require_key(key, ppid)
        entry = self.new_entry(
            key, ppid, file, argv, args_truncated, envs, envs_truncated, ctr_id, ts, tty, Source.PROCFS_SNAPSHOT
        )
        with self.lock:
            time_ns = self.book.to_boot(ts)
            parent = self._recorder.named_parent(key, ppid, time_ns)
            return self._recorder.exec(key, entry, time_ns, time_ns, parent)

    def update_user(self, key: CacheResolverKey, uid: int, euid: int, user: str, euser: str) -> None:
        """Change user ids; -1: the id and its name stay. A tracer does not report fs ids."""
        self._update(key, (("uid", uid, "user", user), ("euid", euid, "euser", euser)))

    def update_group(self, key: CacheResolverKey, gid: int, egid: int, group: str, egroup: str) -> None:
        """Change group ids; -1: the id and its name stay."""
        self._update(key, (("gid", gid, "group", group), ("egid", egid, "egroup", egroup)))

    def _update(self, key: CacheResolverKey, changes: tuple[tuple[str, int, str, str], ...]) -> None:
        values: dict[str, int | str] = {}
        for field, number, name_field, name in changes:
            if number != UNCHANGED:
                values[field] = number & 0xFFFFFFFF
                values[name_field] = name
        with self.lock:
            entry = self.book.of_key(key)
            if entry is None or not values:
                return
            wanted = replace(entry.credentials, **values)  # type: ignore[arg-type]
            task_record = entry_records.credentials_task(entry, wanted, layout.KNOWN_CREDS)
            # The message has no time: it is later than every earlier message about the process, whatever clock its
            # tracer has.
            time_ns = max(self._now_boot_ns(), entry.start_boot_ns, self.book.to_boot(entry.exec_time))
            self._recorder.credentials(key, entry.start_boot_ns, time_ns, task_record)
            entry_records.keep_names(entry, wanted)

    def delete_entry(self, key: CacheResolverKey, exit_time: int) -> None:
        """Remove a process from the cache; its children keep it as ancestor.

        Nothing happens if the key's owner started after `exit_time`: then another process ended.
        """
        with self.lock:
            entry, time_ns = self.book.of_key(key), self.book.to_boot(exit_time)
            if entry is not None and entry.start_boot_ns <= time_ns:
                self._recorder.exit(key, entry.start_boot_ns, time_ns)

    def _require_key(self, key: CacheResolverKey, ppid: int) -> None:
        if not is_key(key):
            self._tables.count("keys_refused")
        require_key(key, ppid)

    # -- look-ups ------------------------------------------------------------------------------------------------------

    def resolve(self, key: CacheResolverKey) -> ProcessCacheEntry | None:
        """Return the newest image of a process."""
        with self.lock:
            return self.book.of_key(key) if key.pid else None

    def walk(self, callback: Callable[[ProcessCacheEntry], object]) -> None:
        """Call back once for each cached entry."""
        with self.lock:
            for entry in list(self.book.heads()):
                callback(entry)

    def get_process_argv_scrubbed(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Return the arguments after argv[0] with secrets hidden, and whether they were truncated."""
        with self.lock:  # a scrubber serves one thread at a time
            return args_views.argv_scrubbed(pr, self._scrubber)

    def get_process_envs(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Return names of environment variables, with values of allowed names, and whether they were truncated."""
        return args_views.envs(pr, self._opts.shown_envs)

    def get_process_envp(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Return the environment variables as they are stored, and whether they were truncated."""
        return args_views.envp(pr)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def send_stats(self) -> None:
        """Send the number of cached entries.

        Raises:
            Exception: whatever the client raises.
        """
        if self._statsd_client is not None:
            self._statsd_client.gauge(PREFIX + CACHE_SIZE, float(len(self)), [])

    def start(self, ctx: object = None) -> None:
        """Do nothing: the resolver has no background task."""

    def snapshot(self) -> None:
        """Do nothing: the tracer reports the processes that were running before it."""

    def dump(self, with_args: bool = False) -> str:
        """Raise an error: this resolver has no dump.

        Raises:
            NotSupportedError: always.
        """
        raise NotSupportedError("the eBPF-less resolver has no dump: read its entries with walk, or from the tables")
