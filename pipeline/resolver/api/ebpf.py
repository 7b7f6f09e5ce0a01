"""`EBPFResolver`: the resolver's interface over the shared tables (specification 3, names as in docs/parity.md).

    resolver = EBPFResolver(tables=tables, opts=ResolverOpts().with_envs_resolution_enabled())
    resolver.add_fork_entry(event, CGroupContext(), None)
    entry = resolver.resolve(pid, tid, inode, True, None)

It is the writer's side: it changes the tables through the same applier as the live batches do, and what it enters is
seen by every reader. Where the reference returns an error, a ResolverError is raised. One reentrant lock stands for the
reference's read/write lock: every method that touches the tables takes it, and puts it down while ``/proc`` is read,
unless its caller holds it too. The `..._locked` ones are for such callers, and for callbacks. The applier of a running
instance belongs to its duty cycle, which must hold `lock` while it applies a batch.

What differs from the reference, and why, is in docs/parity.md.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pipeline.bus.requests import ABSENT
from pipeline.host import boot
from pipeline.host.boot import ticks_of
from pipeline.procfs.info import ProcInfo, to_record
from pipeline.records import kinds as events
from pipeline.resolver.api import dump
from pipeline.resolver.api.fields import is_process
from pipeline.resolver.api.lookup import CACHE, PROCFS_DEPTH, LookUp
from pipeline.resolver.api.stats import DEQUEUE_EXITED, DO_EXIT, StatsdClient
from pipeline.resolver.api.updates import Updates
from pipeline.resolver.apply._applier import Applier
from pipeline.resolver.entries import args_views, kernel_maps
from pipeline.resolver.entries import entry_records as records
from pipeline.resolver.entries.args_views import is_kworker
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
from pipeline.resolver.entries.entry_rows import row_of
from pipeline.resolver.entries.event import Event
from pipeline.resolver.entries.model import (
    SNAPSHOTTED,
    SNAPSHOTTING,
    CGroupContext,
    FileFields,
    PathResolutionError,
    ResolverError,
    Source,
)
from pipeline.resolver.entries.opts import ResolverOpts
from pipeline.secrets.argsenvs import ArgScrubber
from pipeline.shm.layout import tables as layout
from pipeline.shm.writer._writer import TableWriter

FLUSH_INTERVAL_S = 120.0
#: What a process must be older than to be flushed.
FLUSH_AGE_NS = 60 * 1_000_000_000


class EBPFResolver(Updates):
    """Keeps the process cache of a host, answers "which process was that?", and repairs what lost events broke.

    Args:
        manager: gives out the kernel's maps by name ("pid_cache", "proc_cache"); None: there are none.
        config: kept for whoever wants it.
        statsd_client: see `send_stats`; None: nothing is sent.
        scrubber, mount_resolver, cgroup_resolver, user_group_resolver, time_resolver, path_resolver,
            env_vars_resolver, user_session_resolver: collaborators, each may be absent; see `collaborators`. Without
            a scrubber arguments get the built-in one, unless raw values are asked for.
        opts: copied.
        tables: of this instance; this process is their writer.
        applier: of these tables, shared with the live batches; None: an own one.
        proc: of `/proc`; None: a reader of its own.
        now_boot_ns, limiter_clock: clocks in ns.
        capture_boot_ns: when the capture began: what it should have had and something else told is marked as a gap, or
            as from before it. 0: there is no capture.
        learn_cgroup: told (cgroup id, path) of what ``/proc`` named; None: nobody is.
        is_process: tells a process from a thread.
    """

    def __init__(
        self,
        manager: Mapping[str, kernel_maps.KernelMap] | None = None,
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
        learn_cgroup: Callable[[int, bytes], None] | None = None,
        is_process: Callable[[int], bool] = is_process,
    ) -> None:
        super().__init__(
            scrubber, mount_resolver, cgroup_resolver, user_group_resolver, time_resolver, path_resolver,
            env_vars_resolver, user_session_resolver, (opts or ResolverOpts()).copy(), tables, applier, proc,
            now_boot_ns, limiter_clock,
        )  # fmt: skip
        self.manager = manager
        self.config = config
        self.statsd_client = statsd_client
        self.capture_boot_ns = capture_boot_ns
        self.is_process = is_process
        if learn_cgroup is not None:
            self.learn_cgroup = learn_cgroup
        self._exited: list[tuple[int, int]] = []
        self._flusher: threading.Thread | None = None

    # -- events --------------------------------------------------------------------------------------------------------

    def add_fork_entry(
        self, event: Event, cgroup_context: CGroupContext, new_entry_cb: NewEntryCallback | None = None
    ) -> None:
        """Enter the process of a fork event (`event.entry`) below its parent.

        Raises:
            ResolverError: it is a kernel thread, or has no pid; the cache is as it was. The table is full.
        """
        entry = _entry_of(event)
        with self.lock:
            self.apply_boot_time(entry)
            entry.set(span_id=event.span.span_id, trace_id=event.span.trace_id)
            if entry.pid == 0:
                raise ResolverError("no pid in the fork event")
            if entry.is_kworker or is_kworker(entry.ppid, entry.pid):
                raise ResolverError(f"pid {entry.pid} is a kernel thread")
            context = event.pid_context
            event.entry = self._insert_fork(
                entry, context.exec_inode, cgroup_context, Source.EVENT, new_entry_cb, context.parent_start_boot_ns
            )

    def add_exec_entry(self, event: Event, cgroup_context: CGroupContext) -> None:
        """Enter the image of an exec event (`event.entry`) on top of the one before.

        An exec of the same program again (an exec bomb) makes no entry; `event.entry` is the cached one then.

        Raises:
            PathResolutionError: the path of the executable or the interpreter is unknown; the event and that file have
                the error too, and the image before stays the cached one.
            ResolverError: no pid, or another fact could not be had.

        Whatever it raises, but for "no pid", `event.exec_entry` is what the event told.
        """
        entry = _entry_of(event)
        with self.lock:
            event.exec_entry = entry
            try:
                self._complete(entry)
            except PathResolutionError as error:
                event.error = error
                raise
            if entry.pid == 0:
                event.exec_entry = None
                raise ResolverError("no pid in the exec event")
            context = event.pid_context
            found = self._insert_exec(
                entry, context.exec_inode, cgroup_context, Source.EVENT, context.parent_start_boot_ns
            )
            event.entry = event.exec_entry = found

    def apply_exit_entry(self, event: Event, new_entry_cb: NewEntryCallback | None = None) -> bool:
        """Stamp the end of a process and move its children; it stays cached until `delete_entry`.

        Returns:
            False: nobody knows the process, or its end was told before, so there is nothing to tell about it.
        """
        context = event.pid_context
        with self.lock:
            entry = self._exiting(event, new_entry_cb) if 0 < context.pid < self.pid_capacity else None
            if entry is not None and self._is_leaving(entry):
                entry = None
            event.entry = event.exit_entry = entry
            if entry is None:
                return False
            self._apply_exit(event, entry.start_boot_ns)
            if event.exit_status is None:
                self.book.forget_exit_code(entry)
            link = self._link(entry.pid)
            if self.tables.py_follow(link) == row_of(entry):
                self.book.leaving[entry.pid] = link
            self._reparent_children(entry, DO_EXIT, new_entry_cb)
            return True

    def _is_leaving(self, entry: ProcessCacheEntry) -> bool:
        """Whether the end of this process was told, and it waits for its deletion."""
        link = self._link(entry.pid)
        return self.book.leaving.get(entry.pid) == link and self.tables.py_follow(link) == row_of(entry)

    def _exiting(self, event: Event, new_entry_cb: NewEntryCallback | None) -> ProcessCacheEntry | None:
        """The process whose end an event tells, if that is news."""
        context = event.pid_context
        start = context.start_boot_ns
        entry = self.book.of_identity(context.pid, start) if start else None
        if entry is not None:
            row = row_of(entry)
            is_unseen = int(self.tables.hot_view()[row]["flags"]) & layout.ROW_EXIT_UNSEEN
            if not self.book.is_cached(row) and not is_unseen:
                return None
            self.stats.add("hits", CACHE)
            return entry
        if not start or self.book.head(context.pid) is None:
            entry = self._resolve(context.pid, context.tid, context.exec_inode, False, new_entry_cb)
        elif self.state == SNAPSHOTTED:
            self.stats.add("miss")  # the cache has another process of this pid
        if entry is not None and self._is_same_process(entry, start):
            return entry
        if start:
            # The applier keeps it for the fork, should that still come: then the process does not live.
            self._apply_exit(event, start)
        return None

    def _apply_exit(self, event: Event, start_boot_ns: int) -> None:
        context = event.pid_context
        self.applier.apply_records(
            records.head(
                events.KIND_EXIT, context.pid, context.tid, event.timestamp_ns or self.now_boot_ns(), start_boot_ns,
                context.ppid, context.parent_start_boot_ns,
            ),
            np.zeros(1, events.TASK), records.exit_body(event), known=0,
        )  # fmt: skip

    def delete_entry(self, pid: int, exit_time: int) -> None:
        """Take a process out of the cache; its descendants keep it as ancestor.

        Nothing happens where who has the pid began later than that: another process ended then.

        Args:
            exit_time: ns since the Unix epoch.
        """
        with self.lock:
            self._delete(pid, exit_time)

    # -- look-ups ------------------------------------------------------------------------------------------------------

    def get(self, pid: int) -> ProcessCacheEntry | None:
        """The newest image of a cached process. Counts nothing, changes nothing."""
        with self.lock:
            return self.book.head(pid)

    def resolve(
        self, pid: int, tid: int, inode: int, use_procfs: bool, new_entry_cb: NewEntryCallback | None = None
    ) -> ProcessCacheEntry | None:
        """Find a process: in the cache, then in the kernel's maps, then (rate-limited) in procfs.

        Args:
            inode: of the executable that it is expected to run; 0: any.
            use_procfs: whether procfs may be asked.
        """
        if pid == 0:
            return None
        with self.lock:
            return self._resolve(pid, tid, inode, use_procfs, new_entry_cb)

    def find_cached(self, pid: int) -> ProcessCacheEntry | None:
        """Who has the pid now, if the cache has it: counts a hit, and no miss."""
        with self.lock:
            entry = self.book.head(pid)
            if entry is not None:
                self.stats.add("hits", CACHE)
            return entry

    def find(self, pid: int, use_procfs: bool = True) -> LookUp:
        """Who has the pid now: `resolve` for a question that no event made, so that only a living process is meant.

        Returns:
            The entry and what found it, or None and why (ABSENT or LIMITED of pipeline.bus.requests). Pid 0 is nobody,
            and counts as nothing.
        """
        if pid == 0:
            return LookUp(None, ABSENT)
        with self.lock:
            return self._look_up(pid, 0, 0, use_procfs, None, must_live=True)

    def find_at(self, pid: int, time_boot_ns: int, inode: int = 0, start_boot_ns: int = 0) -> ProcessCacheEntry | None:
        """Who had the pid then, also if it has ended since; None: look elsewhere. Counts a hit, and no miss.

        Args:
            inode: of the executable that it is expected to run; 0: any.
            start_boot_ns: of the process that is meant, to the tick at least; 0: unknown.
        """
        with self.lock:
            entry = self.book.of_identity(pid, start_boot_ns) if start_boot_ns else None
            if entry is None:
                entry = self.book.owner_at(pid, time_boot_ns)
                if entry is not None and start_boot_ns and ticks_of(entry.start_boot_ns) != ticks_of(start_boot_ns):
                    return None
            if entry is None or (inode and entry.file_event.inode != inode):
                return None
            self.stats.add("hits", CACHE)
            return entry

    def resolve_from_cache(self, pid: int, tid: int, inode: int) -> ProcessCacheEntry | None:
        """The cached entry, if it runs the expected executable."""
        with self.lock:
            return self._from_cache(pid, tid, inode)

    def resolve_from_kernel_maps(
        self, pid: int, tid: int, inode: int, new_entry_cb: NewEntryCallback | None = None
    ) -> ProcessCacheEntry | None:
        """Enter what the kernel's maps hold of a process; None: nothing, or another executable than the expected."""
        with self.lock:
            return self._from_kernel_maps(pid, tid, inode, new_entry_cb)

    def resolve_from_procfs(
        self, pid: int, inode: int, new_entry_cb: NewEntryCallback | None = None
    ) -> ProcessCacheEntry | None:
        """Enter what procfs says of a process, and of up to 15 levels of ancestors that are not cached."""
        with self.lock:
            return self._from_procfs(pid, inode, PROCFS_DEPTH, new_entry_cb)

    def walk(self, callback: Callable[[ProcessCacheEntry], object]) -> None:
        """Call back once for the newest image of each cached process, in order of pids."""
        with self.lock:
            for entry in list(self.book.heads()):
                callback(entry)

    # -- views of an entry ---------------------------------------------------------------------------------------------

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

    def retrieve_file_fields_from_procfs(self, filename: str) -> FileFields:
        """Facts about a file, by statx instead of a kernel map.

        Raises:
            OSError: it cannot be looked at.
            ResolverError: it has no inode.
        """
        descriptor = os.open(filename, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii", errors="replace")
        finally:
            os.close(descriptor)
        mount_id = next((int(line[7:]) for line in text.splitlines() if line.startswith("mnt_id:")), 0)
        if status.st_ino == 0:
            raise ResolverError(f"{filename} has no inode")
        return FileFields(
            inode=status.st_ino, mount_id=mount_id, uid=status.st_uid, gid=status.st_gid, mode=status.st_mode & 0xFFFF,
            ctime=status.st_ctime_ns, mtime=status.st_mtime_ns, nlink=status.st_nlink,
            device=os.major(status.st_dev) << 20 | os.minor(status.st_dev),
        )  # fmt: skip

    # -- start-up, upkeep ----------------------------------------------------------------------------------------------

    def set_state(self, state: int) -> None:
        """SNAPSHOTTING or SNAPSHOTTED; the owner sets the latter when the snapshot at the start is complete.

        Raises:
            ResolverError: neither of them.
        """
        if state not in (SNAPSHOTTING, SNAPSHOTTED):
            raise ResolverError(f"no such state: {state}")
        self.state = state

    def start(self, ctx: threading.Event) -> None:
        """Bind the kernel's maps and begin to compare the cache with procfs every two minutes.

        Args:
            ctx: set it to end the comparing.

        Raises:
            ResolverError: a map is missing.
        """
        self.bind_maps()
        self._flusher = threading.Thread(target=self._flush_until, args=(ctx,), name="flush", daemon=True)
        self._flusher.start()

    def bind_maps(self) -> None:
        """Take the kernel's maps from the manager, if there is one: the part of `start` that needs no thread.

        Raises:
            ResolverError: a map is missing.
        """
        if self.manager is None:
            return
        for name in (kernel_maps.PID_CACHE, kernel_maps.PROC_CACHE):
            found = self.manager.get(name)
            if found is None:
                raise ResolverError(f"the kernel map {name} is missing")
            setattr(self, name, found)

    def _flush_until(self, ctx: threading.Event) -> None:
        while not ctx.wait(FLUSH_INTERVAL_S):
            self.flush_tick()

    def flush_tick(self) -> int:
        """Queue every cached process that procfs does not list; returns how many. A failed listing queues none."""
        try:
            alive = {int(pid) for pid in self.proc.list_pids()}
        except OSError:
            return 0
        with self.lock:
            gone = [(entry.pid, entry.start_boot_ns) for entry in self.book.heads() if entry.pid not in alive]
            self._exited += gone
        return len(gone)

    def dequeue_exited(self) -> None:
        """Delete the queued processes that are old enough and still gone; forget the queue.

        procfs is asked again: the pid may have a live owner by now (specification 9.3.14).
        """
        with self.lock:
            queued, self._exited = self._exited, []
            before = self.clock.to_unix_ns(self.now_boot_ns()) - FLUSH_AGE_NS
            old = [
                (pid, start) for pid, start in queued
                if (entry := self.book.head(pid)) is not None and entry.start_boot_ns == start
                and _is_old(entry, before)
            ]  # fmt: skip
        for pid, start in old:
            ticks = self.proc.read_start(pid)
            if ticks is None or not boot.is_same_start(start, ticks):
                self.flush(pid, start, self.now_boot_ns())

    def flush(self, pid: int, start_boot_ns: int, time_boot_ns: int) -> bool:
        """Close a process that was gone at that time and whose end no event told; counted as flushed.

        Both who compares the tables with the live processes come here: `dequeue_exited`, and the repair of a daemon,
        which needs no minimum age, since it knows that every event from before its look has been applied. Children that
        nobody has moved yet go to whom procfs names (callpath dequeue_exited).

        Returns:
            False: it is not cached, or something younger is known of it.
        """
        with self.lock:
            entry = self.book.head(pid)
            if entry is None or entry.start_boot_ns != start_boot_ns:
                return False
            link = self.tables.py_link(self.tables.py_head(pid))
            if not self.applier.close_missing(pid, start_boot_ns, time_boot_ns) and entry.exit_time is None:
                return False
            if self.cgroup_resolver is not None:
                self.cgroup_resolver.del_pid(pid)
            self.book.delete(pid, link)
            self.stats.add("flushed")
            # Puts the lock down: the pid may have another owner afterwards.
            self._reparent_children(entry, DEQUEUE_EXITED, None)
            return True

    def sync_cache(self, proc: int | ProcInfo) -> None:
        """Enter one process of the snapshot at the start, and tell the kernel's maps of it.

        Args:
            proc: a pid, or what was read of it. Callers go from the oldest to the youngest, so parents are there.
        """
        with self.lock:
            pid = proc if isinstance(proc, int) else proc.tgid
            if not 0 < pid < self.pid_capacity:
                return
            link, time_ns = self._link(pid), self.now_boot_ns()
            info = self._read(proc) if isinstance(proc, int) else proc
            if info is None or info.is_kthread or is_kworker(info.ppid, info.tgid) or self._link(pid) != link:
                return
            entry = self._new_from_procfs(info, 0, Source.PROCFS_SNAPSHOT, None, time_ns)
            if entry is None:
                return
            told = to_record(info)
            head = told.head[0].copy()
            head["start_boot_ns"] = entry.start_boot_ns
            cookie = self.fill_maps(head, told.task[0], told.exec[0], info.exe or b"", entry.cookie)
            if cookie:
                entry.cookie = cookie

    def fill_maps(self, head: np.void, task: np.void, exec_: np.void, path: bytes, cookie: int = 0) -> int:
        """Tell the kernel's maps of a process that ``/proc`` alone told of, unless they know something of its pid.

        Args:
            head, task, exec_: one HEAD, TASK and EXEC.
            path: of the executable.
            cookie: of its image; 0: it gets a new one.

        Returns:
            The cookie under which the maps have its image; 0: there are no maps, they have another process or a younger
            image under the pid, or they refused, which is counted.
        """
        if self.pid_cache is None or self.proc_cache is None:
            return 0
        cookie = cookie or kernel_maps.new_cookie()
        try:
            is_new = kernel_maps.fill(self.pid_cache, self.proc_cache, head, task, exec_, path, cookie)
        except OSError:
            self.tables.count("maps_refused")
            return 0
        if not is_new:
            return self._known_cookie(head)
        self.tables.count("maps_filled")
        return cookie

    def _known_cookie(self, head: np.void) -> int:
        """The cookie of a process in the kernel's maps; 0: it has none, or its image is younger than the look."""
        try:
            held = self.pid_cache.get(int(head["tgid"])) if self.pid_cache is not None else None
        except OSError:
            return 0
        if held is None or not boot.is_same_start(int(held["start_boot_ns"]), ticks_of(int(head["start_boot_ns"]))):
            return 0
        cookie = int(held["cookie"])
        return cookie if self.exec_time(cookie) <= int(head["time_boot_ns"]) else 0

    def exec_time(self, cookie: int) -> int:
        """When an exec made the image that has this cookie in the kernel's maps, boot ns; 0: unknown, or none did."""
        try:
            image = self.proc_cache.get(cookie) if self.proc_cache is not None else None
        except OSError:
            return 0
        return int(image["exec_boot_ns"]) if image is not None else 0

    # -- statistics, dumps ---------------------------------------------------------------------------------------------

    def count_broken_lineage(self) -> None:
        """An event's process had a broken lineage."""
        self.stats.add("broken_lineage")

    def send_stats(self) -> None:
        """Send the cache size and every counter that is not 0 to the statsd client.

        Raises:
            whatever the client raises; counters that were not sent are sent next time.
        """
        if self.statsd_client is None:
            return
        with self.lock:
            size = self.book.count()
        self.stats.send(self.statsd_client, size)

    def to_json(self, raw: bool) -> bytes:
        """All cached entries; `raw`: every field."""
        with self.lock:
            return dump.to_json(self.book.heads(), raw)

    def to_dot(self, with_args: bool) -> str:
        """Write the tree as a graph to a new file in /tmp, and return its name.

        Raises:
            OSError: the file cannot be written.
        """
        with self.lock:
            return dump.write_dot(self.book.heads(), self._comment if with_args else None)

    def _comment(self, entry: ProcessCacheEntry) -> list[str] | None:
        return self.get_process_argv_scrubbed(entry)[0]


def _entry_of(event: Event) -> ProcessCacheEntry:
    if event.entry is None:
        raise ResolverError("the event has no process entry")
    return event.entry


def _is_old(entry: ProcessCacheEntry, before: int) -> bool:
    """Rules (a) to (c) of DequeueExited."""
    times = [time_ns for time_ns in (entry.exec_time, entry.fork_time) if time_ns is not None]
    return not times or any(time_ns < before for time_ns in times)
