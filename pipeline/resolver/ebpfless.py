"""`EBPFLessResolver`: processes keyed by pid and pid namespace, told by a tracer in a container (specification 4).

    resolver = EBPFLessResolver()
    resolver.add_fork_entry(CacheResolverKey(7, nsid), ppid=1, ts=now_ns)

Without kernel and procfs there is nothing to fall back to and nothing to repair: what the tracer says is what is known.
Entries and their operations are those of the eBPF resolver (`cache_entry`). They are kept here and not in the shared
tables, which are indexed by the pids of one namespace; a source that names host pids (the proc connector, a frame from
any tracer) goes through the tables instead and needs no such resolver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.resolver import args_views
from pipeline.resolver.argsenvs import ArgScrubber, ArgsEntry, EnvsEntry
from pipeline.resolver.cache_entry import Process, ProcessCacheEntry
from pipeline.resolver.model import (
    FILELESS_PREFIX,
    CacheResolverKey,
    ContainerContext,
    FileEvent,
    NotSupportedError,
    Source,
)
from pipeline.resolver.opts import ResolverOpts
from pipeline.resolver.stats import CACHE_SIZE, PREFIX, StatsdClient

COMM_CHARS = 16
#: An id that a message leaves as it is.
UNCHANGED = -1


class EBPFLessResolver:
    """The process cache of one tracer's containers. One lock; a callback may call back.

    Args:
        config: kept for whoever wants it.
        statsd_client: see `send_stats`; None: nothing is sent.
        scrubber: hides secrets in arguments; None: they are shown as they are.
        opts: copied.

    Timestamps are ns since the Unix epoch.
    """

    def __init__(
        self,
        config: object = None,
        statsd_client: StatsdClient | None = None,
        scrubber: ArgScrubber | None = None,
        opts: ResolverOpts | None = None,
    ) -> None:
        self.config = config
        self.statsd_client = statsd_client
        self.scrubber = scrubber
        self.opts = (opts or ResolverOpts()).copy()
        self.lock = threading.RLock()
        self._entries: dict[CacheResolverKey, ProcessCacheEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # -- events --------------------------------------------------------------------------------------------------------

    def add_fork_entry(self, key: CacheResolverKey, ppid: int, ts: int) -> ProcessCacheEntry | None:
        """Enter a forked process below its parent, if that is known. None for pid 0."""
        if key.pid == 0:
            return None
        entry = ProcessCacheEntry(
            pid=key.pid, tid=key.pid, ppid=ppid, nsid=key.nsid, fork_time=ts, source=Source.EVENT
        )
        with self.lock:
            previous = self._entries.get(key)
            if previous is not None:
                previous.exit(ts)
            parent = self._entries.get(CacheResolverKey(ppid, key.nsid)) if key.pid != 1 else None
            if parent is not None:
                parent.fork(entry)
            self._entries[key] = entry
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

        Without one before it is entered unlinked, and is no exec.
        """
        if key.pid == 0:
            return None
        entry = self.new_entry(
            key, ppid, file, argv, args_truncated, envs, envs_truncated, ctr_id, ts, tty, Source.EVENT
        )
        with self.lock:
            previous = self._entries.get(key)
            if previous is not None:
                previous.exec(entry)
                entry.credentials = previous.credentials
                if entry.ppid == 0:
                    entry.ppid = previous.ppid
            self._entries[key] = entry
        return entry

    def add_procfs_entry(
        self, key: CacheResolverKey, ppid: int, file: str, argv: Sequence[str], args_truncated: bool,
        envs: Sequence[str], envs_truncated: bool, ctr_id: str, ts: int, tty: str,
    ) -> ProcessCacheEntry | None:  # fmt: skip
        """Enter a process that the tracer found in procfs when it began. None for pid 0."""
        if key.pid == 0:
            return None
        entry = self.new_entry(
            key, ppid, file, argv, args_truncated, envs, envs_truncated, ctr_id, ts, tty, Source.PROCFS_SNAPSHOT
        )
        with self.lock:
            parent = self._entries.get(CacheResolverKey(ppid, key.nsid))
            if parent is not None:
                if parent.equals(entry):
                    entry.set_fork_parent(parent)
                else:
                    entry.set_exec_parent(parent)
            self._entries[key] = entry
        return entry

    def update_user(self, key: CacheResolverKey, uid: int, euid: int, user: str, euser: str) -> None:
        """User ids changed; -1: this one did not, and keeps its name. Fs ids are not told."""
        self._update(key, (("uid", uid, "user", user), ("euid", euid, "euser", euser)))

    def update_group(self, key: CacheResolverKey, gid: int, egid: int, group: str, egroup: str) -> None:
        """Group ids changed; -1: this one did not, and keeps its name."""
        self._update(key, (("gid", gid, "group", group), ("egid", egid, "egroup", egroup)))

    def _update(self, key: CacheResolverKey, changes: tuple[tuple[str, int, str, str], ...]) -> None:
        with self.lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            values: dict[str, int | str] = {}
            for field, number, name_field, name in changes:
                if number != UNCHANGED:
                    values[field] = number & 0xFFFFFFFF
                    values[name_field] = name
            if values:
                entry.credentials = replace(entry.credentials, **values)  # type: ignore[arg-type]

    def delete_entry(self, key: CacheResolverKey, exit_time: int) -> None:
        """Take a process out of the cache; its children keep it as ancestor."""
        with self.lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                entry.exit(exit_time)

    # -- look-ups ------------------------------------------------------------------------------------------------------

    def resolve(self, key: CacheResolverKey) -> ProcessCacheEntry | None:
        """The newest image of a process."""
        with self.lock:
            return self._entries.get(key) if key.pid else None

    def walk(self, callback: Callable[[ProcessCacheEntry], object]) -> None:
        """Call back once for each cached entry."""
        with self.lock:
            for entry in list(self._entries.values()):
                callback(entry)

    def get_process_argv_scrubbed(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Arguments after argv[0] with secrets hidden, and whether they were cut."""
        return args_views.argv_scrubbed(pr, self.scrubber)

    def get_process_envs(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Names of environment variables, with the value for allowed names, and whether they were cut."""
        return args_views.envs(pr, self.opts.envs_with_value)

    def get_process_envp(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Whole environment variables, and whether they were cut."""
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
