"""`EBPFLessResolver`: processes keyed by pid and pid namespace, told by a tracer in a container (specification 4).

    resolver = EBPFLessResolver(tables=tables)
    resolver.add_fork_entry(CacheResolverKey(7, nsid), ppid=1, ts=now_ns)

Without kernel and procfs there is nothing to fall back to and nothing to repair: what the tracer says is what is known.
Each method makes the record that a tracer's frame would have held, and applies it as the daemon does (`keyed_frames`,
then the applier): entries are rows of the shared tables, which every reader sees, and events of the stream.

What differs from the reference, and why, is in docs/parity.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import fsencode

import numpy as np

from pipeline.host import boot
from pipeline.records import kinds as events
from pipeline.resolver.api.stats import CACHE_SIZE, PREFIX, StatsdClient
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import args_views
from pipeline.resolver.entries import entry_records as records
from pipeline.resolver.entries.cache_entry import Process, ProcessCacheEntry
from pipeline.resolver.entries.entry_rows import is_number
from pipeline.resolver.entries.keyed_rows import COMM_CHARS, KeyedBook, is_key
from pipeline.resolver.entries.model import (
    FILELESS_PREFIX,
    CacheResolverKey,
    ContainerContext,
    FileEvent,
    NotSupportedError,
    ResolverError,
    Source,
)
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.resolver.merge.keyed_frames import KeyedFrames
from pipeline.secrets.argsenvs import ArgScrubber, ArgsEntry, EnvsEntry
from pipeline.shm.layout import tables as layout
from pipeline.shm.writer._writer import TableWriter
from pipeline.shm.writer.keyspace import KeySpace

#: An id that a message leaves as it is.
UNCHANGED = -1


class EBPFLessResolver:
    """The process cache of tracers' containers. One lock; a callback may call back.

    Args:
        config: kept for whoever wants it.
        statsd_client: see `send_stats`; None: nothing is sent.
        scrubber: hides secrets in arguments before they are stored; None: the built-in one, unless raw values are
            asked for.
        opts: copied.
        tables: of this instance; this process is their writer.
        applier: of these tables, shared with the live batches; None: an own one.
        now_boot_ns: the boot clock.

    Timestamps are ns since the Unix epoch, namespaces inode numbers (32 bits).
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
        self.statsd_client = statsd_client
        self.opts = (opts or ResolverOpts()).copy()
        self.scrubber = args_views.scrubber_or_default(scrubber, self.opts)
        self.lock = threading.RLock()
        self.applier = applier or Applier(tables)
        self._now_boot_ns = now_boot_ns
        space = KeySpace(tables, now_boot_ns, is_awaited=self.applier.py_is_awaited)
        self._frames = KeyedFrames(tables, space)
        self._tables = tables
        offset_ns = int(tables.control_view()[0]["boot_unix_ns"])
        self.book = KeyedBook(tables, self.applier, offset_ns, now_boot_ns)
        self.book.space = space

    def __len__(self) -> int:
        with self.lock:
            return self.book.count()

    # -- events --------------------------------------------------------------------------------------------------------

    def add_fork_entry(self, key: CacheResolverKey, ppid: int, ts: int) -> ProcessCacheEntry | None:
        """Enter a forked process below its parent, if that is known. None for pid 0.

        Raises:
            ResolverError: there is no room for it, or no process can have the key.
        """
        if key.pid == 0:
            return None
        self._require_key(key, ppid)
        with self.lock:
            time_ns = self.book.to_boot(ts)
            parent = self._parent_at(key, ppid, time_ns)
            named = self._named_parent(key, ppid, parent)
            head = records.head(events.KIND_FORK, key.pid, key.pid, time_ns, time_ns, *named)
            row = self._apply(key, head, body=records.fork(ProcessCacheEntry(), *named))
            entry = self.book.entry(self.applier.py_root(row))
            image = entry.ancestor
            if image is not None:
                entry.inherit_from(image)
        return entry

    def new_entry(
        self, key: CacheResolverKey, ppid: int, file: str, argv: Sequence[str], args_truncated: bool,
        envs: Sequence[str], envs_truncated: bool, ctr_id: str, ts: int, tty: str, source: int,
    ) -> ProcessCacheEntry:  # fmt: skip
        """An entry of what a message says, not in the cache."""
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
        """Enter an image on top of the one before, whose credentials it keeps. None for pid 0.

        Without one before it is entered below its parent, if that is known, and marked: something was not told.

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
                return self._exec(key, entry, time_ns, previous.start_boot_ns, (ppid or previous.ppid, 0))
            parent = self._parent_at(key, ppid, time_ns)
            return self._exec(key, entry, time_ns, time_ns - 1, self._named_parent(key, ppid, parent))

    def add_procfs_entry(
        self, key: CacheResolverKey, ppid: int, file: str, argv: Sequence[str], args_truncated: bool,
        envs: Sequence[str], envs_truncated: bool, ctr_id: str, ts: int, tty: str,
    ) -> ProcessCacheEntry | None:  # fmt: skip
        """Enter a process that the tracer found in procfs when it began. None for pid 0.

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
            # An exec at the time of the start: that is how a record says "found".
            time_ns = self.book.to_boot(ts)
            parent = self._parent_at(key, ppid, time_ns)
            return self._exec(key, entry, time_ns, time_ns, self._named_parent(key, ppid, parent))

    def update_user(self, key: CacheResolverKey, uid: int, euid: int, user: str, euser: str) -> None:
        """User ids changed; -1: this one did not, and keeps its name. Fs ids are not told."""
        self._update(key, (("uid", uid, "user", user), ("euid", euid, "euser", euser)))

    def update_group(self, key: CacheResolverKey, gid: int, egid: int, group: str, egroup: str) -> None:
        """Group ids changed; -1: this one did not, and keeps its name."""
        self._update(key, (("gid", gid, "group", group), ("egid", egid, "egroup", egroup)))

    def _update(self, key: CacheResolverKey, changes: tuple[tuple[str, int, str, str], ...]) -> None:
        with self.lock:
            entry = self.book.of_key(key)
            if entry is None:
                return
            values: dict[str, int | str] = {}
            for field, number, name_field, name in changes:
                if number != UNCHANGED:
                    values[field] = number & 0xFFFFFFFF
                    values[name_field] = name
            if not values:
                return
            wanted = replace(entry.credentials, **values)  # type: ignore[arg-type]
            told = records.credentials_task(entry, wanted, layout.KNOWN_CREDS)
            # Nobody tells when: after all that was told of the process, whatever clock its tracer has.
            time_ns = max(self._now_boot_ns(), entry.start_boot_ns, self.book.to_boot(entry.exec_time))
            self._apply(key, records.head(events.KIND_CRED, key.pid, key.pid, time_ns, entry.start_boot_ns), told)
            records.keep_names(entry, wanted)

    def delete_entry(self, key: CacheResolverKey, exit_time: int) -> None:
        """Take a process out of the cache; its children keep it as ancestor.

        Nothing happens where who has the key began later than that: another process ended then.
        """
        with self.lock:
            entry, time_ns = self.book.of_key(key), self.book.to_boot(exit_time)
            if entry is None or entry.start_boot_ns > time_ns:
                return
            head = records.head(events.KIND_EXIT, key.pid, key.pid, time_ns, entry.start_boot_ns)
            # Nobody tells the exit code, so the record has no body.
            head["flags"] = events.FLAG_HEAD_ONLY
            self._apply(key, head)

    def _require_key(self, key: CacheResolverKey, ppid: int) -> None:
        if not is_key(key):
            self._tables.count("keys_refused")
            raise ResolverError(f"pid {key.pid} of namespace {key.nsid}: both are numbers of 32 bits, and not 0")
        if not is_number(ppid):
            raise ResolverError(f"pid {key.pid} of namespace {key.nsid}: no parent can have the pid {ppid}")

    # -- records -------------------------------------------------------------------------------------------------------

    def _exec(
        self, key: CacheResolverKey, entry: ProcessCacheEntry, time_ns: int, start_ns: int, parent: tuple[int, int]
    ) -> ProcessCacheEntry:
        kept = args_views.kept(entry.args_entry, entry.envs_entry, self.scrubber, self.opts)
        body, strings = records.image(entry, *kept)
        container = fsencode(entry.container.container_id)
        head = records.head(
            events.KIND_EXEC, key.pid, key.pid, time_ns, start_ns, *parent, len(strings) + len(container)
        )
        head["flags"] = events.FLAG_CONTAINER if container else 0
        task = np.zeros(1, events.TASK)
        task["comm"], task["tty"] = fsencode(entry.comm)[:COMM_CHARS], fsencode(entry.tty_name)[:15]
        told = records.TaskRecord(task, layout.KNOWN_COMM | (layout.KNOWN_TTY if entry.tty_name else 0))
        row = self._apply(key, head, told, body, strings + container, entry.source)
        return self.book.attach(entry, row)

    def _apply(
        self, key: CacheResolverKey, head: records.Column, told: records.TaskRecord | None = None,
        body: records.Column | None = None, strings: bytes = b"", source: Source = Source.EVENT,
    ) -> int:  # fmt: skip
        """Apply a record of a process; returns the row of its newest image.

        Raises:
            ResolverError: there is no room for the process.
        """
        task, known = told or records.TaskRecord(np.zeros(1, events.TASK), 0)
        task["pid_ns"] = key.nsid
        fork = body if int(head["kind"][0]) == events.KIND_FORK else None
        if not self._frames.record(head, task, fork):
            raise ResolverError(f"pid {key.pid} of namespace {key.nsid}: no slot is free")
        is_whole = not int(head["flags"][0]) & events.FLAG_HEAD_ONLY
        row = self.applier.apply_records(
            head, task if is_whole else None, body, strings, known=known | layout.KNOWN_NS, source=int(source)
        )
        if not row:
            raise ResolverError(f"pid {key.pid} of namespace {key.nsid}: the table is full")
        return row

    def _parent_at(self, key: CacheResolverKey, ppid: int, time_ns: int) -> ProcessCacheEntry | None:
        """Who had the parent's pid then: a cached process, or one whose exit was told before its child's fork."""
        slot = self.book.space.find(ppid, key.nsid) if key.pid != 1 else 0
        return self.book.owner_at(slot, time_ns) if slot else None

    def _named_parent(self, key: CacheResolverKey, ppid: int, parent: ProcessCacheEntry | None) -> tuple[int, int]:
        """Pid and start of the parent for a record; nobody, where the pid's last owner had ended before."""
        if parent is not None:
            return ppid, parent.start_boot_ns
        slot = self.book.space.find(ppid, key.nsid)
        return (0 if key.pid == 1 or (slot and self._tables.py_head(slot)) else ppid), 0

    # -- look-ups ------------------------------------------------------------------------------------------------------

    def resolve(self, key: CacheResolverKey) -> ProcessCacheEntry | None:
        """The newest image of a process."""
        with self.lock:
            return self.book.of_key(key) if key.pid else None

    def walk(self, callback: Callable[[ProcessCacheEntry], object]) -> None:
        """Call back once for each cached entry."""
        with self.lock:
            for entry in list(self.book.heads()):
                callback(entry)

    def get_process_argv_scrubbed(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Arguments after argv[0] with secrets hidden, and whether they were cut."""
        with self.lock:  # a scrubber serves one at a time
            return args_views.argv_scrubbed(pr, self.scrubber)

    def get_process_envs(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Names of environment variables, with the value for allowed names, and whether they were cut."""
        return args_views.envs(pr, self.opts.envs_with_value)

    def get_process_envp(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Environment variables as they are stored, and whether they were cut."""
        return args_views.envp(pr)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def send_stats(self) -> None:
        """Send the number of cached entries. Raises whatever the client raises."""
        if self.statsd_client is not None:
            self.statsd_client.gauge(PREFIX + CACHE_SIZE, float(len(self)), [])

    def start(self, ctx: object = None) -> None:
        """Nothing runs in the background."""

    def snapshot(self) -> None:
        """The tracer tells of what ran before it; there is nothing to take."""

    def dump(self, with_args: bool = False) -> str:
        """Raises NotSupportedError, always."""
        raise NotSupportedError("the eBPF-less resolver makes no dumps")
