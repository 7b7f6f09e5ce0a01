"""The event loop around the resolver for the rare kinds: context events of agents (specification 2.5, table 2.1).

The loop receives messages, and waits until the kernel's earlier events have been applied. Then it takes the steps of
2.5 for one event: resolve its process, drop kernel threads, repair the lineage, check it, run the call of its kind,
publish it. Updates that rules must not see yet come after that (2.5 step 9, 9.3.21). The wire format is in
`pipeline.bus.context_events`, the published form in `context_stream`. The compiled applier handles forks, execs, exits
and credentials.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.bus import context_events
from pipeline.bus.context_events import ContextEvent, decode_context
from pipeline.errors import FrameError
from pipeline.host.alive import watched
from pipeline.host.boot import ticks_of
from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.api.stats import SET_PROCESS_CONTEXT
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry, placeholder
from pipeline.resolver.entries.model import (
    CGROUP_SOURCE_EVENT,
    AWSSecurityCredentials,
    CGroupContext,
    K8SSessionContext,
    NoProcessContextError,
    PathKey,
    PIDContext,
    ProcessBrokenLineageError,
    ResolverError,
    SSHSessionContext,
    UserSessionContext,
)
from pipeline.shm.writer._writer import TableWriter

if TYPE_CHECKING:
    from pipeline.resolver.entries.collaborators import NewEntryCallback
    from pipeline.resolver.entries.event import Event

#: Events that wait for the watermark; further ones are dropped and counted.
WAITING_MAX = 4096
#: Neither an event nor a question of a reader waits longer than this for a watermark that does not advance.
WAIT_MAX_NS = 300_000_000
#: Events dispatched in one turn of the duty cycle.
EVENTS_PER_TURN = 64

#: Kinds that are not about the sender's process (2.5 step 7).
_WITHOUT_PROCESS_CONTEXT = frozenset({context_events.IMDS})
_TARGETED = frozenset({context_events.PTRACE, context_events.SIGNAL, context_events.SETRLIMIT})


@dataclass(slots=True, eq=False, repr=False)
class Dispatched:
    """An event as rules and the stream receive it.

    Attributes:
        event: as it was sent.
        time_boot_ns: when it happened.
        entry: its process; a placeholder if it is unknown.
        error: why the process is missing or its lineage broken, or which part of the event failed; None: no error.
        target: the process that the event acts on, if its kind has one; a placeholder if it is unknown.
        related: entries that were inserted to resolve the process, in this order.
    """

    event: ContextEvent
    time_boot_ns: int
    entry: ProcessCacheEntry
    error: Exception | None
    target: ProcessCacheEntry | None
    related: list[ProcessCacheEntry]


class Stream(Protocol):
    """Receives dispatched events; see `context_stream.ContextStream`."""

    def dispatch(self, event: Dispatched) -> None:
        """Publish an event."""


class ContextLoop:
    """Receives context events and dispatches them. A part of the resolver's duty cycle.

    Args:
        resolver: holds the entries.
        tables: hold the counters.
        stream: publishes.
        watermark: the time up to which the kernel's events have been applied, boot ns.
        boot_id: 16 bytes; events of another boot are rejected.
    """

    def __init__(
        self, resolver: EBPFResolver, tables: TableWriter, stream: Stream, watermark: Callable[[], int], boot_id: bytes
    ) -> None:
        self._resolver = resolver
        self._tables = tables
        self._stream = stream
        self._watermark = watermark
        self._boot_id = boot_id
        # A predecessor had received these, and ended before it dispatched them.
        tables.count("context_dropped", tables.contexts_waiting)
        tables.show_contexts_waiting(0)
        self._waiting: deque[tuple[int, int, ContextEvent]] = deque()  # (when it happened, when it arrived, event)
        self._expiries: list[tuple[int, int, int]] = []  # (expiration, pid, start): both times of the boot clock
        self._updates: Mapping[str, Callable[[Dispatched, Event], None]] = {
            context_events.CAPABILITIES: self._capabilities,
            context_events.TRACER_MEMFD_SEAL: self._tracer,
            context_events.USER_SESSION: self._user_session,
        }

    def begin(self) -> None:
        """Schedule the expiry of the credentials that a predecessor stored. Call once, after a take-over."""
        for entry in watched(self._resolver.book.with_extra(), self._tables.py_show_life):
            for one in entry.aws_security_credentials:
                self._expire_later(entry, one.expiration)

    @property
    def waiting(self) -> int:
        """Events that were received and are not dispatched yet."""
        return len(self._waiting)

    def receive(self, message: bytes | memoryview, now_boot_ns: int) -> int:
        """Receive a message; returns how many events it had.

        Raises:
            FrameError: it cannot be decoded, or is of another boot. The caller counts it as a rejected frame.
        """
        received = decode_context(message)
        if received.boot_id != self._boot_id:
            raise FrameError("context events of another boot", peer=received.source, reason="boot")
        self.add(received.events, now_boot_ns)
        return len(received.events)

    def add(self, events: Iterable[ContextEvent], now_boot_ns: int) -> None:
        """Receive decoded events. Events without room are dropped and counted."""
        for event in events:
            if len(self._waiting) >= WAITING_MAX:
                self._tables.count("context_dropped")
                continue
            time_ns = event.time_boot_ns
            self._waiting.append((time_ns if 0 < time_ns < now_boot_ns else now_boot_ns, now_boot_ns, event))
            self._tables.show_contexts_waiting(len(self._waiting))

    def do_work(self, now_boot_ns: int) -> int:
        """Dispatch the events that are due, in the order of arrival; returns how much was done."""
        done = 0
        while self._waiting and done < EVENTS_PER_TURN:
            time_ns, came_ns, event = self._waiting[0]
            if self._watermark() <= time_ns and now_boot_ns - came_ns <= WAIT_MAX_NS:
                break
            self._waiting.popleft()
            self._tables.count("context_events")
            self._one(event, time_ns)
            self._tables.show_contexts_waiting(len(self._waiting))
            done += 1
        while self._expiries and self._expiries[0][0] <= now_boot_ns:
            _, pid, start = heapq.heappop(self._expiries)
            of_process = PIDContext(pid=pid, tid=pid, start_boot_ns=start)
            self._resolver.fetch_aws_security_credentials(_api_event(now_boot_ns, of_process))
            done += 1
        return done

    # -- one event: the steps of 2.5 -----------------------------------------------------------------------------------

    def _one(self, event: ContextEvent, time_ns: int) -> None:
        resolver = self._resolver
        context = PIDContext(
            pid=event.pid, tid=event.tid or event.pid, ppid=event.ppid, exec_inode=event.inode,
            start_boot_ns=event.start_boot_ns,
        )  # fmt: skip
        api_event = _api_event(time_ns, context)
        related: list[ProcessCacheEntry] = []

        def made(entry: ProcessCacheEntry, error: ResolverError | None) -> None:
            if error is None:
                related.append(entry)

        with resolver.lock:
            entry = self._owner(context, time_ns, made, use_procfs=True)
            if event.kind == context_events.CGROUP_TRACING:
                # Step 1: ends here; the applier publishes a move.
                if entry is not None:
                    self._cgroup(event, entry)
                return
            if entry is not None:
                # From here on the event identifies this process: its pid may have another owner by now.
                context.start_boot_ns = entry.start_boot_ns
            found = entry if entry is not None else placeholder(event.pid, event.tid or event.pid)
            if found.is_kworker or resolver.is_kernel_thread(found.ppid, found.pid):
                return
            error: Exception | None = None
            if entry is not None:
                resolver.try_reparent_from_kernel_ppid(entry, event.ppid, made)
                resolver.try_reparent_from_procfs_locked(entry, SET_PROCESS_CONTEXT, made)
            if event.kind not in _WITHOUT_PROCESS_CONTEXT:
                error = self._judge(entry, event)
            api_event.error = error if isinstance(error, ResolverError) else None
            dispatched = Dispatched(event, time_ns, found, error, self._target(event, time_ns, made), related)
            update = self._updates.get(event.kind)
            if update is not None and entry is not None:
                try:
                    update(dispatched, api_event)
                except (FrameError, OSError) as failed:
                    dispatched.error = failed
            self._stream.dispatch(dispatched)
            if event.kind == context_events.IMDS and entry is not None:
                self._imds(event, api_event, entry)

    def _owner(
        self, process: PIDContext, time_ns: int, made: NewEntryCallback, *, use_procfs: bool
    ) -> ProcessCacheEntry | None:
        """Return the process that had a pid at a time, even if it has ended since; with a start, only that process."""
        start = process.start_boot_ns
        entry = self._resolver.find_at(process.pid, time_ns, process.exec_inode, start)
        if entry is not None:
            return entry
        # The kernel's maps and /proc only know the current owner of the pid.
        entry = self._resolver.resolve(process.pid, process.tid, process.exec_inode, use_procfs, made)
        if entry is None or entry.start_boot_ns > time_ns:
            return None
        return entry if not start or ticks_of(entry.start_boot_ns) == ticks_of(start) else None

    def _judge(self, entry: ProcessCacheEntry | None, event: ContextEvent) -> ResolverError | None:
        """Return what is wrong with the process or its lineage (step 7)."""
        if entry is None:
            return NoProcessContextError(f"pid {event.pid} could not be resolved")
        _, broken = entry.has_valid_lineage()
        if broken is None:
            return None
        self._resolver.count_broken_lineage()
        return ProcessBrokenLineageError(broken)

    def _target(self, event: ContextEvent, time_ns: int, made: NewEntryCallback) -> ProcessCacheEntry | None:
        """Return the process that a ptrace, signal or setrlimit acts on, and repair its lineage too (9.2)."""
        if event.kind not in _TARGETED:
            return None
        pid = event.number("target")
        if pid <= 0:
            # PTRACE_TRACEME has no target; a signal or limit for 0 and below is for a group, or for the caller.
            return placeholder(0, 0) if event.kind == context_events.PTRACE else None
        process = PIDContext(pid=pid, tid=pid, start_boot_ns=event.target_start_boot_ns)
        target = self._owner(process, time_ns, made, use_procfs=False)
        if target is None:
            return placeholder(pid, pid)
        self._resolver.try_reparent_from_procfs_locked(target, SET_PROCESS_CONTEXT, made)
        return target

    # -- the calls of table 2.1 ----------------------------------------------------------------------------------------

    def _capabilities(self, dispatched: Dispatched, api_event: Event) -> None:
        event = dispatched.event
        self._resolver.update_capabilities_usage(dispatched.entry, event.number("attempted"), event.number("used"))

    def _tracer(self, dispatched: Dispatched, api_event: Event) -> None:
        api_event.fd = dispatched.event.number("fd")
        self._resolver.add_tracer_metadata(dispatched.event.pid, api_event)

    def _user_session(self, dispatched: Dispatched, api_event: Event) -> None:
        self._resolver.update_user_session(dispatched.entry, _session(dispatched.event.body))

    def _cgroup(self, event: ContextEvent, entry: ProcessCacheEntry) -> None:
        cgroup_id, path = event.number("cgroup_id"), str(event.body.get("path", ""))
        if path:
            self._resolver.learn_cgroup(cgroup_id, path.encode("utf-8", "surrogateescape"))
        self._resolver.move_to_cgroup(entry, CGroupContext(path_key=PathKey(cgroup_id), source=CGROUP_SOURCE_EVENT))

    def _imds(self, event: ContextEvent, api_event: Event, entry: ProcessCacheEntry) -> None:
        body: Mapping[str, Any] = event.body
        expiration = context_events.parse_time_ns(body["expiration"])
        api_event.aws = AWSSecurityCredentials(
            code=body.get("code", ""), type=body.get("type", ""), access_key_id=body["access_key_id"],
            last_updated=body.get("last_updated", ""), expiration=expiration, expiration_raw=body["expiration"],
        )  # fmt: skip
        self._resolver.update_aws_security_credentials(event.pid, api_event)
        self._expire_later(entry, expiration)

    def _expire_later(self, entry: ProcessCacheEntry, expiration_unix_ns: int) -> None:
        at = self._resolver.clock.to_boot_ns(expiration_unix_ns) + 1
        heapq.heappush(self._expiries, (at, entry.pid, entry.start_boot_ns))


def _api_event(time_ns: int, context: PIDContext) -> Event:
    from pipeline.resolver.entries.event import Event  # deferred: few hosts have agents

    return Event(timestamp_ns=time_ns, pid_context=context)


def _session(body: Mapping[str, Any]) -> UserSessionContext:
    ssh = SSHSessionContext(**{name: value for name, value in body.items() if name.startswith("ssh_")})
    fields = {name: value for name, value in body.items() if name.startswith("k8s_")}
    fields["k8s_groups"] = tuple(fields.get("k8s_groups", ()))
    fields["k8s_extra"] = {key: tuple(texts) for key, texts in fields.get("k8s_extra", {}).items()}
    k8s = K8SSessionContext(**fields)
    return UserSessionContext(body.get("id", 0), body.get("type", 0), k8s, ssh)
