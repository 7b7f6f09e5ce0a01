"""`EBPFResolver`: the resolver's interface over the shared tables (specification 3, names of docs/parity.md).

    resolver = EBPFResolver(tables=tables, opts=ResolverOpts().with_envs_resolution_enabled())
    resolver.add_fork_entry(event, CGroupContext(), None)
    entry = resolver.resolve(pid, tid, inode, True, None)

The resolver is the writer's side: it changes the tables through the applier of the live batches, and every reader sees
the processes that it inserts. It raises a ResolverError where the reference returns an error.

This module assembles the parts, and takes the lock for them. One reentrant lock replaces the reference's read/write
lock. Every method that uses the tables holds it, and releases it while ``/proc`` is read, unless its caller holds it
too. The `..._locked` methods are for such callers, and for callbacks. In a running instance the duty cycle owns the
applier, and must hold `lock` while it applies a batch.

Differences from the reference, with their reasons, are in docs/parity.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bus.requests import ABSENT
from pipeline.errors import TooOldError
from pipeline.host import boot
from pipeline.host.rate_limiter import RateLimiter
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.proc_reader import ProcReader
from pipeline.resolver.api.completion import Completer
from pipeline.resolver.api.fields import FieldFiller, new_entry
from pipeline.resolver.api.finder import CACHE, PROCFS_DEPTH, Finder, FindResult, is_process
from pipeline.resolver.api.flushing import Flusher
from pipeline.resolver.api.insertion import Inserter
from pipeline.resolver.api.lifecycle import Lifecycle
from pipeline.resolver.api.map_entries import MapEntries
from pipeline.resolver.api.proc_access import ProcAccess
from pipeline.resolver.api.proc_entries import ProcEntries
from pipeline.resolver.api.proc_rows import ProcRows
from pipeline.resolver.api.registry import Registry
from pipeline.resolver.api.reparenting import Reparenter
from pipeline.resolver.api.state import ResolverState
from pipeline.resolver.api.stats import StatsdClient
from pipeline.resolver.api.updates import CAPABILITIES, GROUP_IDS, LOGIN_UID, USER_IDS, Updater
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import args_views
from pipeline.resolver.entries.cache_entry import Process, ProcessCacheEntry
from pipeline.resolver.entries.collaborators import (
    CGroupResolver,
    EnvVarsResolver,
    MountResolver,
    NewEntryCallback,
    PathResolver,
    ProcSource,
    TimeResolver,
    UserGroupResolver,
    UserSessionResolver,
)
from pipeline.resolver.entries.file_facts import file_fields
from pipeline.resolver.entries.kernel_maps import KernelMap, KernelMaps
from pipeline.resolver.entries.model import (
    SNAPSHOTTED,
    SNAPSHOTTING,
    AWSSecurityCredentials,
    CGroupContext,
    ContainerContext,
    FileFields,
    PIDContext,
    ResolverError,
    UserSessionContext,
)
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.secrets.argsenvs import ArgScrubber
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.resolver.entries.event import ArgsEnvsEvent, Event

#: ``/proc`` is read at most LIMITER_USES times in LIMITER_PERIOD_NS about one of the LIMITER_PIDS last pids.
LIMITER_PIDS = 128
LIMITER_USES = 1
LIMITER_PERIOD_NS = 30 * 1_000_000_000


def _ignore_cgroup(cgroup_id: int, path: bytes) -> None:
    """Do not collect the names of cgroups."""


class EBPFResolver:
    """Keeps the process cache of a host, finds processes by pid, and repairs what lost events broke.

    Args:
        manager: the kernel's maps by name ("pid_cache", "proc_cache"); None: there are none.
        config: kept as the attribute `config`, and not used.
        statsd_client: see `send_stats`; None: nothing is sent.
        scrubber: a collaborator that may be absent, as those below; see `collaborators`. Without a scrubber the
            built-in one scrubs arguments, unless `opts` asks for raw values.
        mount_resolver, cgroup_resolver, user_group_resolver, time_resolver: collaborators.
        path_resolver, env_vars_resolver, user_session_resolver: collaborators.
        opts: copied.
        tables: of this instance; this process is their writer.
        applier: of these tables, shared with the live batches; None: the resolver creates one.
        proc: reads `/proc`; None: the resolver creates a reader.
        now_boot_ns, limiter_clock: clocks in ns.
        capture_boot_ns: when the capture began. A process that the capture missed and another source reports is marked
            as a gap, or as from before the capture. 0: there is no capture.
        learn_cgroup: is called with (cgroup id, path) of each cgroup that ``/proc`` named.
        is_process: distinguishes a process from a thread.

    Attributes:
        lock: see the module.
        book: entry objects of the rows.
        stats: counters.
        clock: converts between boot and Unix time.
        maps: the kernel's maps.
        rows: enters processes that were read from ``/proc``; a daemon's repairs share it.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver(tables=tables)
        ...     resolver.set_state(SNAPSHOTTED)
        ...     entry = resolver.resolve(os.getpid(), os.getpid(), 0, use_procfs=True)
        ...     print(entry.ppid == os.getppid(), entry.source.text)
        ...     with ProcessTable.attach(path=directory) as table:  # readers see what the resolver has entered
        ...         print(table.resolve(os.getpid()).comm == entry.comm)
        True procfs_fallback
        True
    """

    def __init__(
        self,
        manager: Mapping[str, KernelMap] | None = None,
        config: object = None,
        statsd_client: StatsdClient | None = None,
        scrubber: ArgScrubber | None = None,
        mount_resolver: MountResolver | None = None,
        cgroup_resolver: CGroupResolver | None = None,
        user_group_resolver: UserGroupResolver | None = None,
        time_resolver: TimeResolver | None = None,
        path_resolver: PathResolver | None = None,
        env_vars_resolver: EnvVarsResolver | None = None,
        user_session_resolver: UserSessionResolver | None = None,
        opts: ResolverOpts | None = None,
        *,
        tables: TableWriter,
        applier: Applier | None = None,
        proc: ProcSource | None = None,
        now_boot_ns: Callable[[], int] = boot.now_boot_ns,
        limiter_clock: Callable[[], int] = time.monotonic_ns,
        capture_boot_ns: int = 0,
        learn_cgroup: Callable[[int, bytes], None] = _ignore_cgroup,
        is_process: Callable[[int], bool] = is_process,
    ) -> None:
        self.config = config
        self.learn_cgroup = learn_cgroup
        self._statsd_client = statsd_client
        self._state = state = ResolverState(
            tables, applier, (opts or ResolverOpts()).copy(), time_resolver, now_boot_ns, capture_boot_ns
        )
        self.lock, self.book, self.stats, self.clock = state.lock, state.book, state.stats, state.clock
        self.maps = KernelMaps(manager, tables.count)
        self.rows = ProcRows(tables, state.applier, self.maps, capture_boot_ns)
        self._scrubber = args_views.scrubber_or_default(scrubber, state.opts)
        access = ProcAccess(state.lock, proc if proc is not None else ProcReader())

        self._fields = FieldFiller(state, self._scrubber, user_group_resolver)
        self._registry = Registry(state, access, mount_resolver, cgroup_resolver)
        self._updater = Updater(state, cgroup_resolver)
        completer = Completer(self._fields, state.stats, mount_resolver, path_resolver)
        inserter = Inserter(state, self._fields, self._registry)
        self._mapped = MapEntries(state, self.maps, access, completer, inserter)
        self._proc_entries = ProcEntries(
            state, access, self.rows, self.maps, self._fields, self._registry, learn_cgroup, mount_resolver,
            env_vars_resolver, user_session_resolver,
        )  # fmt: skip
        self._finder = Finder(
            state, self._mapped, self._proc_entries, inserter, _procfs_limiter(limiter_clock), is_process
        )
        self._reparenter = Reparenter(state, access, self._finder, _procfs_limiter(limiter_clock))
        self._lifecycle = Lifecycle(state, self._fields, completer, self._finder, inserter, self._reparenter)
        self._flusher = Flusher(state, access, self._registry, self._reparenter)

    # -- events --------------------------------------------------------------------------------------------------------

    def add_fork_entry(
        self, event: Event, cgroup_context: CGroupContext, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """Insert the process of a fork event (`event.entry`) below its parent.

        Raises:
            ResolverError: it is a kernel thread, or has no pid: the cache has not changed. Or the table is full.
        """
        with self.lock:
            self._lifecycle.add_fork(event, cgroup_context, new_entry_cb)

    def add_exec_entry(self, event: Event, cgroup_context: CGroupContext) -> None:
        """Insert the image of an exec event (`event.entry`) above the image before it.

        An exec of the same program again (an exec bomb) creates no entry: `event.entry` is the cached one then.
        `event.exec_entry` holds the facts of the event even if the method raises, unless the event has no pid.

        Raises:
            PathResolutionError: the path of the executable or the interpreter is unknown. The event and that file have
                the error too, and the image before stays in the cache.
            ResolverError: no pid, or another fact is unknown.
        """
        with self.lock:
            self._lifecycle.add_exec(event, cgroup_context)

    def apply_exit_entry(self, event: Event, new_entry_cb: NewEntryCallback | None = None) -> bool:
        """Record the end of a process and move its children; it stays cached until `delete_entry`.

        Returns:
            False: the process is unknown, or its end was reported before, so the event is to be dropped.
        """
        with self.lock:
            return self._lifecycle.apply_exit(event, new_entry_cb)

    def delete_entry(self, pid: int, exit_time: int) -> None:
        """Remove a process from the cache; its descendants keep it as ancestor.

        Nothing happens if the pid's owner started after `exit_time`: then another process ended.

        Args:
            pid: of the process.
            exit_time: ns since the Unix epoch.
        """
        with self.lock:
            self._registry.delete(pid, exit_time)

    # -- look-ups ------------------------------------------------------------------------------------------------------

    def is_kernel_thread(self, ppid: int, pid: int) -> bool:
        """Whether these are the pids of a kernel thread. Outside the initial pid namespace no pids are."""
        return self._state.is_kernel_thread(ppid, pid)

    def get(self, pid: int) -> ProcessCacheEntry | None:
        """Return the newest image of a cached process. Counts nothing, changes nothing."""
        with self.lock:
            return self.book.head(pid)

    def resolve(
        self, pid: int, tid: int, inode: int, use_procfs: bool, new_entry_cb: NewEntryCallback | None = None
    ) -> ProcessCacheEntry | None:
        """Find a process: in the cache, then in the kernel's maps, then (rate-limited) in ``/proc``.

        Args:
            pid: of the process.
            tid: of its thread.
            inode: of the executable that it is expected to run; 0: any.
            use_procfs: whether ``/proc`` may be read.
            new_entry_cb: is informed of each entry that is inserted.
        """
        if pid == 0:
            return None
        with self.lock:
            return self._finder.find_or_insert(pid, tid, inode, use_procfs, new_entry_cb).entry

    def find_cached(self, pid: int) -> ProcessCacheEntry | None:
        """Return the current owner of the pid, if it is cached. Counts a hit, and no miss."""
        with self.lock:
            entry = self.book.head(pid)
            if entry is not None:
                self.stats.add("hits", CACHE)
            return entry

    def find(self, pid: int, use_procfs: bool = True) -> FindResult:
        """Find the current owner of a pid: `resolve` without an event, so that only a live process is meant.

        Returns:
            The entry and where it was found, or None and why not (ABSENT or LIMITED of pipeline.bus.requests). Pid 0 is
            absent, and counts as nothing.
        """
        if pid == 0:
            return FindResult(None, ABSENT)
        with self.lock:
            return self._finder.find_or_insert(pid, 0, 0, use_procfs, None, must_live=True)

    def find_at(self, pid: int, time_boot_ns: int, inode: int = 0, start_boot_ns: int = 0) -> ProcessCacheEntry | None:
        """Return the process that had the pid at a time, even if it has ended since. Counts a hit, and no miss.

        Args:
            pid: of the process.
            time_boot_ns: the time, on the boot clock.
            inode: of the executable that it is expected to run; 0: any.
            start_boot_ns: of the process, at least to the tick; 0: unknown.

        Returns:
            None: the tables have no such process; `resolve` may find it elsewhere.
        """
        with self.lock:
            return self._finder.find_at(pid, time_boot_ns, inode, start_boot_ns)

    def resolve_from_cache(self, pid: int, tid: int, inode: int) -> ProcessCacheEntry | None:
        """Return the cached entry, if it runs the expected executable."""
        with self.lock:
            return self._finder.from_cache(pid, tid, inode)

    def resolve_from_kernel_maps(
        self, pid: int, tid: int, inode: int, new_entry_cb: NewEntryCallback | None = None
    ) -> ProcessCacheEntry | None:
        """Insert the process that the kernel's maps have; None: they have none, or one with another executable."""
        with self.lock:
            return self._finder.from_kernel_maps(pid, tid, inode, new_entry_cb)

    def resolve_from_procfs(
        self, pid: int, inode: int, new_entry_cb: NewEntryCallback | None = None
    ) -> ProcessCacheEntry | None:
        """Insert the process that ``/proc`` shows, and up to 15 levels of its ancestors that are not cached."""
        with self.lock:
            return self._finder.from_procfs(pid, inode, PROCFS_DEPTH, new_entry_cb)

    def walk(self, callback: Callable[[ProcessCacheEntry], object]) -> None:
        """Call back once for the newest image of each cached process, in order of pids."""
        with self.lock:
            for entry in list(self.book.heads()):
                callback(entry)

    # -- lineage -------------------------------------------------------------------------------------------------------

    def try_reparent_from_kernel_ppid(
        self, entry: ProcessCacheEntry, kernel_ppid: int, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """Move an entry below the parent that the kernel reported with an event, unless it is there."""
        with self.lock:
            self._reparenter.follow_kernel(entry, kernel_ppid, new_entry_cb)

    def try_reparent_from_procfs(
        self, entry: ProcessCacheEntry, callpath_tag: str, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """Repair the lineage of an entry: read from ``/proc`` the parents of exited and of unknown ancestors.

        Args:
            entry: the process that is being used.
            callpath_tag: of the statistics, one of `stats.CALLPATHS`.
            new_entry_cb: is informed of each entry that is inserted.

        Raises:
            ResolverError: the tag is another one; nothing was moved.
        """
        # TooOldError: an ancestor was evicted while the lock was released.
        with self.lock, suppress(TooOldError):
            self._reparenter.walk_up(entry, callpath_tag, new_entry_cb)

    def try_reparent_from_procfs_locked(
        self, entry: ProcessCacheEntry, callpath_tag: str, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """Do the same for a caller that holds the lock, and keep it while ``/proc`` is read."""
        with self.lock:
            self._reparenter.walk_up(entry, callpath_tag, new_entry_cb)

    def count_broken_lineage(self) -> None:
        """Count an event with a broken lineage."""
        self.stats.add("broken_lineage")

    # -- fields of an entry --------------------------------------------------------------------------------------------

    def new_process_cache_entry(self, pid_context: PIDContext) -> ProcessCacheEntry:
        """Create an empty entry with this context and a random cookie, in no table. Needs no lock."""
        return new_entry(pid_context)

    def apply_boot_time(self, entry: ProcessCacheEntry) -> None:
        """Convert an entry's times from the boot clock to Unix time; a second call does nothing. Needs no lock."""
        self._fields.set_boot_times(entry)

    def set_process_args(self, pce: ProcessCacheEntry) -> None:
        """Attach the arguments that arrived before the exec event; does nothing if their id is unknown."""
        with self.lock:
            self._fields.set_args(pce)

    def set_process_envs(self, pce: ProcessCacheEntry) -> None:
        """Attach the environment that arrived before the exec event, if environments are enabled."""
        with self.lock:
            self._fields.set_envs(pce)

    def set_process_tty(self, pce: ProcessCacheEntry) -> str:
        """Read a missing terminal from ``/proc``, if that is enabled; returns the terminal's name."""
        with self.lock:
            return self._fields.set_tty(pce)

    def set_process_users_groups(self, pce: ProcessCacheEntry) -> None:
        """Set the names of the six ids, as the container of the process defines them; "" for an unknown id."""
        with self.lock:
            self._fields.set_users_groups(pce)

    def set_process_symlink(self, entry: ProcessCacheEntry) -> None:
        """Set the names under which a busybox or a linked executable was invoked."""
        with self.lock:
            self._fields.set_symlink(entry)

    def get_process_argv_scrubbed(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Return the arguments after argv[0] with secrets hidden, and whether they were truncated."""
        with self.lock:  # a scrubber serves one thread at a time
            return args_views.argv_scrubbed(pr, self._scrubber)

    def get_process_envs(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Return names of environment variables, with values of allowed names, and whether they were truncated."""
        return args_views.envs(pr, self._state.opts.shown_envs)

    def get_process_envp(self, pr: Process) -> tuple[list[str] | None, bool]:
        """Return the environment variables as they are stored, and whether they were truncated."""
        return args_views.envp(pr)

    def retrieve_file_fields_from_procfs(self, filename: str) -> FileFields:
        """Read the facts about a file.

        Raises:
            OSError: the file cannot be opened.
            ResolverError: it has no inode.
        """
        return file_fields(filename)

    # -- updates -------------------------------------------------------------------------------------------------------

    def update_args_envs(self, event: ArgsEnvsEvent) -> None:
        """Store a chunk of arguments or environment until its exec event arrives."""
        with self.lock:
            self._fields.add_chunk(event)

    def update_uid(self, pid: int, e: Event) -> None:
        """Apply a setuid-like call: `e.credentials` has uid, euid, fsuid and their names."""
        with self.lock:
            self._updater.set_credentials(pid, e, USER_IDS, layout.KNOWN_CREDS)

    def update_gid(self, pid: int, e: Event) -> None:
        """Apply a setgid-like call: `e.credentials` has gid, egid, fsgid and their names."""
        with self.lock:
            self._updater.set_credentials(pid, e, GROUP_IDS, layout.KNOWN_CREDS)

    def update_capset(self, pid: int, e: Event) -> None:
        """Apply a capset: `e.credentials` has the effective and the permitted capabilities."""
        with self.lock:
            self._updater.set_credentials(pid, e, CAPABILITIES, layout.KNOWN_CAPS)

    def update_login_uid(self, pid: int, e: Event) -> None:
        """Apply a change of the login uid, `e.credentials.auid`."""
        with self.lock:
            self._updater.set_credentials(pid, e, LOGIN_UID, layout.KNOWN_AUID)

    def add_tracer_metadata(self, pid: int, event: Event) -> None:
        """Read the memfd `event.fd` that a tracing library sealed, and store its content with the process.

        Raises:
            FrameError: it cannot be read or decoded; `reason` says why.
        """
        with self.lock:
            self._updater.add_tracer_metadata(pid, event)

    def update_aws_security_credentials(self, pid: int, e: Event) -> None:
        """Store AWS credentials; those with a known access key are replaced (specification 9.3.17)."""
        with self.lock:
            self._updater.update_aws_security_credentials(pid, e)

    def fetch_aws_security_credentials(self, e: Event) -> list[AWSSecurityCredentials]:
        """Return the credentials of the event's process that had not expired at its time, and remove the others."""
        with self.lock:
            return self._updater.fetch_aws_security_credentials(e)

    def update_capabilities_usage(self, pce: ProcessCacheEntry, attempted: int, used: int) -> None:
        """Add capability checks of a process: masks of all checks and of the successful ones (1.3)."""
        with self.lock:
            pce.set(caps_attempted=pce.caps_attempted | attempted, caps_used=pce.caps_used | used)

    def update_user_session(self, pce: ProcessCacheEntry, session: UserSessionContext) -> None:
        """Store the user session of a process; forks and execs of it inherit the ssh part (5.2)."""
        with self.lock:
            pce.set(user_session=session, user_session_id=session.id)

    def move_to_cgroup(self, pce: ProcessCacheEntry, cgroup_context: CGroupContext) -> None:
        """Resolve the cgroup that a process moved to, or that is being traced, and store it and its container."""
        with self.lock:
            self._updater.move_to_cgroup(pce, cgroup_context)

    def update_process_contexts(
        self, pce: ProcessCacheEntry, cgroup_context: CGroupContext, container_context: ContainerContext
    ) -> None:
        """Store each of the contexts that is not null: the process was moved. Descendants do not change."""
        with self.lock:
            self._updater.update_contexts(pce, cgroup_context, container_context)

    def complete_batch(self) -> int:
        """Add to rows of a live batch what they inherit and no record carries; returns how many rows changed.

        Forks and execs inherit the ssh session (specification 5.2), forks also tracer metadata (5.3). The applier does
        so itself, except for a process that was read from ``/proc`` before its fork was reported. The duty cycle calls
        this after a batch with `has_heirs`.
        """
        with self.lock:
            return self._updater.complete_batch()

    # -- start, upkeep -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> int:
        """SNAPSHOTTING or SNAPSHOTTED."""
        return self._state.phase

    def set_state(self, state: int) -> None:
        """Set the state. The owner sets SNAPSHOTTED when the snapshot at the start is complete.

        Raises:
            ResolverError: the number is neither SNAPSHOTTING nor SNAPSHOTTED.
        """
        if state not in (SNAPSHOTTING, SNAPSHOTTED):
            raise ResolverError(
                f"there is no state {state}: use SNAPSHOTTING ({SNAPSHOTTING}) or SNAPSHOTTED ({SNAPSHOTTED})"
            )
        self._state.phase = state

    def start(self, ctx: threading.Event) -> None:
        """Bind the kernel's maps, and start the thread that compares the cache with ``/proc`` every two minutes.

        A daemon does not call this: it calls `bind_maps`, and its repairer compares.

        Args:
            ctx: set it to end the thread.

        Raises:
            ResolverError: a map is missing.
        """
        self.bind_maps()
        self._flusher.run(ctx)

    def bind_maps(self) -> None:
        """Get the kernel's maps from the manager, if there is one: the part of `start` that needs no thread.

        Raises:
            ResolverError: a map is missing.
        """
        self.maps.bind()

    def dequeue_exited(self) -> None:
        """Remove the queued processes that are old enough and still gone, and clear the queue.

        Only the thread of `start` fills the queue.
        """
        with self.lock:
            self._flusher.dequeue()

    def flush_all_gone(
        self, pids: npt.NDArray[np.uint32], starts_boot_ns: npt.NDArray[np.uint64], is_absent: npt.NDArray[np.bool_],
        time_boot_ns: int,
    ) -> int:  # fmt: skip
        """Remove processes that were gone at a time although no event reported their ends; they are counted as flushed.

        The caller knows that all events of that time have been applied. Processes that ``/proc`` shows as alive are
        kept, and so are those that are not cached, or about which the tables have a more recent fact. Children move to
        the parents that ``/proc`` shows (callpath dequeue_exited).

        Args:
            pids: of the processes, which are removed in this order.
            starts_boot_ns: their starts.
            is_absent: of each: ``/proc`` was read after `time_boot_ns`, and does not have the pid. ``/proc`` is read
                once more for the others.
            time_boot_ns: when the processes were gone.

        Returns:
            How many were removed.
        """
        with self.lock:
            return self._flusher.flush_all_gone(pids, starts_boot_ns, is_absent, time_boot_ns)

    def sync_cache(self, proc: int | ProcInfo) -> None:
        """Enter one process of the snapshot at the start, and store it in the kernel's maps.

        Args:
            proc: a pid, or the facts that were read. Call for the oldest process first, so that parents come before
                their children.
        """
        with self.lock:
            self._proc_entries.sync(proc)

    def fill_maps(self, header: np.void, task: np.void, exec_: np.void, path: bytes, cookie: int = 0) -> int:
        """Store a process that was read from ``/proc`` in the kernel's maps: see `KernelMaps.fill`."""
        return self.maps.fill(header, task, exec_, path, cookie)

    # -- statistics, dumps ---------------------------------------------------------------------------------------------

    def send_stats(self) -> None:
        """Send the cache size and every counter that is not 0 to the statsd client.

        Raises:
            Exception: whatever the client raises. Counters that were not sent are sent next time.
        """
        if self._statsd_client is None:
            return
        with self.lock:
            size = self.book.count()
        self.stats.send(self._statsd_client, size)

    def to_json(self, raw: bool) -> bytes:
        """Return all cached entries as JSON; `raw`: with every field."""
        from pipeline.resolver.api import dump  # deferred: it needs the readers' side, and the daemon makes no dumps

        with self.lock:
            return dump.to_json(self.book.heads(), raw)

    def to_dot(self, with_args: bool) -> str:
        """Write the tree as a graph to a new file in /tmp, and return its name.

        Raises:
            OSError: the file cannot be written.
        """
        from pipeline.resolver.api import dump

        with self.lock:
            return dump.write_dot(self.book.heads(), self._comment if with_args else None)

    def _comment(self, entry: ProcessCacheEntry) -> list[str] | None:
        return self.get_process_argv_scrubbed(entry)[0]


def _procfs_limiter(clock: Callable[[], int]) -> RateLimiter[int]:
    return RateLimiter(LIMITER_PIDS, LIMITER_PERIOD_NS, LIMITER_USES, clock)
