"""The event loop around the resolver for the rare kinds: context events of agents (specification 2.5, table 2.1).

Covers taking messages, waiting until what the kernel told before has been applied, and the steps of 2.5 for one event:
resolve its process, drop kernel threads, repair the lineage, judge it, run the call of its kind, tell the stream.
Updates that rules should see the process without come after that (2.5 step 9, 9.3.21). The wire is in
`pipeline.bus.context_events`, what the stream is told in `context_stream`. Forks, execs, exits and credentials are the
compiled applier's.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.bus import context_events as wire
from pipeline.bus.context_events import ContextEvent, decode_context
from pipeline.errors import FrameError
from pipeline.host.alive import watched
from pipeline.host.boot import ticks_of
from pipeline.resolver.api.ebpf import EBPFResolver
from pipeline.resolver.api.stats import SET_PROCESS_CONTEXT
from pipeline.resolver.entries.args_views import is_kworker
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry, placeholder
from pipeline.resolver.entries.event import Event
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

#: Events that wait for the watermark; more are dropped, and counted.
WAITING_MAX = 4096
#: An event does not wait longer for a watermark that stands still.
WAIT_MAX_NS = 300_000_000
#: Events dispatched in one turn of the duty cycle.
EVENTS_PER_POLL = 64

#: Kinds of which the sender's process is not the subject (2.5 step 7).
_WITHOUT_PROCESS_CONTEXT = frozenset({wire.IMDS})
_TARGETED = frozenset({wire.PTRACE, wire.SIGNAL, wire.SETRLIMIT})


@dataclass(slots=True)
class Dispatched:
    """An event as rules and the stream see it.

    Attributes:
        event: as it was sent.
        time_boot_ns: when it happened.
        entry: its process, a placeholder where nobody knows it.
        error: why the process is not what it should be, or what of the event failed; None: nothing.
        target: the process that it is about, where the kind has one; a placeholder where nobody knows it.
        related: entries that were made to resolve the process, in the order of making.
    """

    event: ContextEvent
    time_boot_ns: int
    entry: ProcessCacheEntry
    error: Exception | None
    target: ProcessCacheEntry | None
    related: list[ProcessCacheEntry]


class Stream(Protocol):
    """Who is told of dispatched events; see `context_stream.ContextStream`."""

    def dispatch(self, event: Dispatched) -> None: ...


class ContextLoop:
    """Takes context events and dispatches them; a part of the resolver's duty cycle.

    Args:
        resolver: whose entries they are about.
        tables: whose counters count.
        stream: is told.
        watermark: how far the kernel's events are applied, boot ns.
        boot_id: 16 bytes; events of another boot are refused.
    """

    def __init__(
        self, resolver: EBPFResolver, tables: TableWriter, stream: Stream, watermark: Callable[[], int], boot_id: bytes
    ) -> None:
        self._resolver = resolver
        self._tables = tables
        self._stream = stream
        self._watermark = watermark
        self._boot_id = boot_id
        self._waiting: deque[tuple[int, int, ContextEvent]] = deque()  # when it happened, when it came
        self._expiries: list[tuple[int, int, int]] = []  # (expiration, pid, start): both times of the boot clock
        self._updates: Mapping[str, Callable[[Dispatched, Event], None]] = {
            wire.CAPABILITIES: self._capabilities,
            wire.TRACER_MEMFD_SEAL: self._tracer,
            wire.USER_SESSION: self._user_session,
        }

    def begin(self) -> None:
        """Go on with what a predecessor's events have left: credentials that are to expire. Once, after a take-over."""
        for entry in watched(self._resolver.book.with_extra(), self._tables.py_show_life):
            for one in entry.aws_security_credentials:
                self._expire_later(entry, one.expiration)

    @property
    def waiting(self) -> int:
        """Events that were taken and are not dispatched yet."""
        return len(self._waiting)

    def take(self, message: bytes | memoryview, now_boot_ns: int) -> int:
        """Take a message; returns how many events it had.

        Raises:
            FrameError: it is none, or of another boot. It is for the caller to count, as a refused frame.
        """
        taken = decode_context(message)
        if taken.boot_id != self._boot_id:
            raise FrameError("context events of another boot", peer=taken.source, reason="boot")
        self.add(taken.events, now_boot_ns)
        return len(taken.events)

    def add(self, events: Iterable[ContextEvent], now_boot_ns: int) -> None:
        """Take events that somebody has decoded; those that there is no room for are dropped and counted."""
        for event in events:
            if len(self._waiting) >= WAITING_MAX:
                self._tables.count("context_dropped")
                continue
            time_ns = event.time_boot_ns
            self._waiting.append((time_ns if 0 < time_ns < now_boot_ns else now_boot_ns, now_boot_ns, event))

    def poll(self, now_boot_ns: int) -> int:
        """Dispatch what is due, in the order of arrival; returns how much was done."""
        done = 0
        while self._waiting and done < EVENTS_PER_POLL:
            time_ns, came_ns, event = self._waiting[0]
            if self._watermark() <= time_ns and now_boot_ns - came_ns <= WAIT_MAX_NS:
                break
            self._waiting.popleft()
            self._tables.count("context_events")
            self._one(event, time_ns)
            done += 1
        while self._expiries and self._expiries[0][0] <= now_boot_ns:
            _, pid, start = heapq.heappop(self._expiries)
            of_process = PIDContext(pid=pid, tid=pid, start_boot_ns=start)
            self._resolver.fetch_aws_security_credentials(Event(timestamp_ns=now_boot_ns, pid_context=of_process))
            done += 1
        return done

    # -- one event: the steps of 2.5 -----------------------------------------------------------------------------------

    def _one(self, event: ContextEvent, time_ns: int) -> None:
        resolver = self._resolver
        context = PIDContext(
            pid=event.pid, tid=event.tid or event.pid, ppid=event.ppid, exec_inode=event.inode,
            start_boot_ns=event.start_boot_ns,
        )  # fmt: skip
        told = Event(timestamp_ns=time_ns, pid_context=context)
        related: list[ProcessCacheEntry] = []

        def made(entry: ProcessCacheEntry, error: ResolverError | None) -> None:
            if error is None:
                related.append(entry)

        with resolver.lock:
            entry = self._process(event, time_ns, made)
            if event.kind == wire.CGROUP_TRACING:
                # Step 1: ends here; the stream hears of a move from the applier.
                if entry is not None:
                    self._cgroup(event, entry)
                return
            if entry is not None:
                # From here on the event is about this very process: its pid may have another owner by now.
                context.start_boot_ns = entry.start_boot_ns
            found = entry if entry is not None else placeholder(event.pid, event.tid or event.pid)
            if found.is_kworker or is_kworker(found.ppid, found.pid):
                return
            error: Exception | None = None
            if entry is not None:
                resolver.try_reparent_from_kernel_ppid(entry, event.ppid, made)
                resolver.try_reparent_from_procfs_locked(entry, SET_PROCESS_CONTEXT, made)
            if event.kind not in _WITHOUT_PROCESS_CONTEXT:
                error = self._judge(entry, event)
            told.error = error if isinstance(error, ResolverError) else None
            dispatched = Dispatched(event, time_ns, found, error, self._target(event, made), related)
            update = self._updates.get(event.kind)
            if update is not None and entry is not None:
                try:
                    update(dispatched, told)
                except (FrameError, OSError) as failed:
                    dispatched.error = failed
            self._stream.dispatch(dispatched)
            if event.kind == wire.IMDS and entry is not None:
                self._imds(event, told, entry)

    def _process(
        self, event: ContextEvent, time_ns: int, made: Callable[[ProcessCacheEntry, ResolverError | None], None]
    ) -> ProcessCacheEntry | None:
        """Who made the event: whoever had the pid then, or the very process that it names."""
        start = event.start_boot_ns
        entry = self._resolver.find_at(event.pid, time_ns, event.inode, start)
        if entry is not None:
            return entry
        # Others know who has the pid now.
        entry = self._resolver.resolve(event.pid, event.tid or event.pid, event.inode, True, made)
        if entry is None or entry.start_boot_ns > time_ns:
            return None
        return entry if not start or ticks_of(entry.start_boot_ns) == ticks_of(start) else None

    def _judge(self, entry: ProcessCacheEntry | None, event: ContextEvent) -> ResolverError | None:
        """Step 7."""
        if entry is None:
            return NoProcessContextError(f"pid {event.pid} could not be resolved")
        _, broken = entry.has_valid_lineage()
        if broken is None:
            return None
        self._resolver.count_broken_lineage()
        return ProcessBrokenLineageError(broken)

    def _target(
        self, event: ContextEvent, made: Callable[[ProcessCacheEntry, ResolverError | None], None]
    ) -> ProcessCacheEntry | None:
        """The process that a ptrace, signal or setrlimit is about, its lineage repaired too (9.2)."""
        if event.kind not in _TARGETED:
            return None
        pid = int(event.body["target"])
        if pid <= 0:
            # PTRACE_TRACEME names nobody; a signal or limit to 0 and below is to a group, or to the caller.
            return placeholder(0, 0) if event.kind == wire.PTRACE else None
        target = self._resolver.resolve(pid, pid, 0, False, made)
        if target is None:
            return placeholder(pid, pid)
        self._resolver.try_reparent_from_procfs_locked(target, SET_PROCESS_CONTEXT, made)
        return target

    # -- the calls of table 2.1 ----------------------------------------------------------------------------------------

    def _capabilities(self, dispatched: Dispatched, told: Event) -> None:
        body = dispatched.event.body
        self._resolver.update_capabilities_usage(dispatched.entry, int(body["attempted"]), int(body["used"]))

    def _tracer(self, dispatched: Dispatched, told: Event) -> None:
        told.fd = int(dispatched.event.body["fd"])
        self._resolver.add_tracer_metadata(dispatched.event.pid, told)

    def _user_session(self, dispatched: Dispatched, told: Event) -> None:
        self._resolver.update_user_session(dispatched.entry, _session(dispatched.event.body))

    def _cgroup(self, event: ContextEvent, entry: ProcessCacheEntry) -> None:
        cgroup_id, path = int(event.body["cgroup_id"]), str(event.body.get("path", ""))
        if path:
            self._resolver.learn_cgroup(cgroup_id, path.encode("utf-8", "surrogateescape"))
        self._resolver.move_to_cgroup(entry, CGroupContext(path_key=PathKey(cgroup_id), source=CGROUP_SOURCE_EVENT))

    def _imds(self, event: ContextEvent, told: Event, entry: ProcessCacheEntry) -> None:
        body: Mapping[str, Any] = event.body
        expiration = wire.parse_time_ns(body["expiration"])
        told.aws = AWSSecurityCredentials(
            code=body.get("code", ""), type=body.get("type", ""), access_key_id=body["access_key_id"],
            last_updated=body.get("last_updated", ""), expiration=expiration, expiration_raw=body["expiration"],
        )  # fmt: skip
        self._resolver.update_aws_security_credentials(event.pid, told)
        self._expire_later(entry, expiration)

    def _expire_later(self, entry: ProcessCacheEntry, expiration_unix_ns: int) -> None:
        at = self._resolver.clock.to_boot_ns(expiration_unix_ns) + 1
        heapq.heappush(self._expiries, (at, entry.pid, entry.start_boot_ns))


def _session(body: Mapping[str, Any]) -> UserSessionContext:
    ssh = SSHSessionContext(**{name: value for name, value in body.items() if name.startswith("ssh_")})
    fields = {name: value for name, value in body.items() if name.startswith("k8s_")}
    fields["k8s_groups"] = tuple(fields.get("k8s_groups", ()))
    fields["k8s_extra"] = {key: tuple(texts) for key, texts in fields.get("k8s_extra", {}).items()}
    k8s = K8SSessionContext(**fields)
    return UserSessionContext(body.get("id", 0), body.get("type", 0), k8s, ssh)
