"""Turn the proc connector's events into records in a ring, from which a shard sends them.

Events are read from the netlink socket in batches. Each event becomes at most one record, which is completed from
``/proc`` at once and written into a ring in a file (`handring`). The ring is treated like a ring of the kernel: the
shard reads ahead with a cursor, keeps records that are not applied, and reads again from a position that the resolver
requests. The supervisor also holds the ring and the socket. A killed shard therefore loses only the event that it was
handling, and its successor counts that event.

Losses occur in one place. When the ring is full, events stay in the socket. When the socket is full, the kernel drops
events. The gaps in its numbers (`netlink`) show how many, but not of which kind, so they are counted as kind 0. Then
the resolver starts a repair, and this source reads all of ``/proc`` again.

``/proc`` shows the state a moment after the event. If the process has ended by then, the record of an exec has only a
HEADER (FLAG_HEAD_ONLY). A child inherits its parent's state, so a fork needs only the start time from ``/proc``.

The proc connector does not report changes of capabilities, login uid, cgroups and terminals. They are found when the
process is read again, a while after an exec or a change of credentials (`recheck`). Repairs find the other changes. The
resolver finds the process that adopts the children of an ended process.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import ExitStack
from typing import Any

from pipeline.bpf.maps import CPU_STATE, MAX_CPUS
from pipeline.host.boot import now_boot_ns
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.proc_reader import WANT_DEFAULT, WANT_ENVS, WANT_IDS, WANT_NS, ProcReader
from pipeline.records import declared
from pipeline.records.limits import KTHREADD, PF_KTHREAD, REPORT_SLACK_NS
from pipeline.shm.layout import layout
from pipeline.sources.proc_connector import netlink, proc_records
from pipeline.sources.proc_connector.living import TICK_NS, Living
from pipeline.sources.proc_connector.proc_records import About
from pipeline.sources.proc_connector.recheck import WANT_RECHECK, Facts, Rechecks, Watched
from pipeline.sources.ring._shared import Words
from pipeline.sources.ring.handring import RingWriter
from pipeline.sources.shard.filling import FillingShard
from pipeline.sources.shard.process import SourceParts, map_counts

SOURCE = "proc-connector"

#: After a loss, ``/proc`` is read when the socket is empty, but not more often than this.
SURVEY_AGAIN_NS = 500_000_000
#: Maximum number of processes that are read again in one turn, when the socket is empty.
RECHECKS_PER_PUMP = 64
#: The difference of the clocks changes only in suspend; a smaller change is only the time between the two readings.
_SUSPEND_NS = 20_000_000
_SEEN = 1 << 32


def _field(name: str) -> int:
    assert CPU_STATE.fields is not None
    return int(CPU_STATE.fields[name][1])


class Counts:
    """The counters of this source, in the form of `pl_shared` (bpf/maps.py), for its successor and the resolver.

    `ring_seq` holds the expected number of the CPU's next message; bit 32 is set once a message has been received.
    """

    def __init__(self, buffer: Any) -> None:
        self._words = Words(buffer, writable=True)
        self.cpu_count = min(MAX_CPUS, memoryview(buffer).nbytes // CPU_STATE.itemsize)

    def add(self, cpu: int, field: str, count: int = 1) -> None:
        """Add to a counter of a CPU, or of the first CPU if that one has no counters."""
        offset = (cpu if cpu < self.cpu_count else 0) * CPU_STATE.itemsize + _field(field)
        self._words.store64(offset, self._words.load64(offset) + count)

    def saw(self, cpu: int, seq: int) -> int:
        """Record the number of a handled message; return how many messages are missing before it."""
        if cpu >= self.cpu_count:
            return 0
        offset = cpu * CPU_STATE.itemsize + _field("ring_seq")
        expected = self._words.load64(offset)
        self._words.store64(offset, (seq + 1 & 0xFFFFFFFF) | _SEEN)
        missing = seq - expected & 0xFFFFFFFF if expected else 0
        return missing if missing < 1 << 31 else 0

    @property
    def is_used(self) -> bool:
        """Whether messages have been counted already."""
        size = CPU_STATE.itemsize
        return any(self._words.load64(cpu * size + _field("ring_seq")) for cpu in range(self.cpu_count))

    def release(self) -> None:
        """Release the buffer."""
        self._words.release()


def measure_offset_ns() -> int:
    """Return boot clock minus monotonic clock in ns, accurate to a microsecond: the suspended time of this boot."""
    best = (1 << 62, 0)
    for _ in range(16):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        best = min(best, (after - before, (before + after) // 2 - monotonic))
    return best[1]


class ProcConnector:
    """Moves events from the socket into the ring, as the ring's only producer.

    Attributes:
        complete_boot_ns: every older record is in the ring.
        last_boot_ns: time of the youngest event so far.
        events_total: messages read.
        refused_total: datagrams that are not events of the kernel.
        surveys_total: passes over ``/proc``.
        lost_total: messages that the kernel dropped, by the gaps in their numbers.
        overflows_total: times that the kernel reported a full socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        writer: RingWriter,
        counts: Counts,
        reader: ProcReader,
        living: Living,
        *,
        with_envs: bool = False,
    ) -> None:
        """Read the existing processes from ``/proc``; the socket receives every later event."""
        self._sock = sock
        self._writer = writer
        self._counts = counts
        self._reader = reader
        self._living = living
        self._want = WANT_DEFAULT | (WANT_ENVS if with_envs else 0)
        self._buffer = bytearray(4096)
        self._offset_ns = measure_offset_ns()
        self._held: tuple[bytes, netlink.Event] | None = None
        self._written_ns = 0  # time of the youngest record in the ring so far
        self._rechecks = Rechecks()
        self._guessed_lost = 0
        self._surveyed_ns = 0
        self.complete_boot_ns = 0
        self.last_boot_ns = 0
        self.events_total = 0
        self.refused_total = 0
        self.surveys_total = 0
        self.lost_total = 0
        self.overflows_total = 0
        self._survey()
        if counts.is_used:
            # The previous process was killed. It may have been handling an event, and its planned checks are lost.
            # Count this as a loss, so that it is repaired.
            self._guess_loss()

    def _survey(self) -> None:
        self._living.survey()
        self._surveyed_ns = now_boot_ns()
        self.surveys_total += 1

    def pump(self, budget: int) -> int:
        """Read at most `budget` events from the socket; return the number of events."""
        now_ns = now_boot_ns()
        monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if abs(now_ns - monotonic_ns - self._offset_ns) > _SUSPEND_NS:
            self._offset_ns = measure_offset_ns()
        done = 0
        while done < budget:
            if self._held is not None and not self._put(*self._held):
                break
            try:
                length, sender = self._sock.recvfrom_into(self._buffer)
            except BlockingIOError:
                self.complete_boot_ns = max(self.complete_boot_ns, now_ns - REPORT_SLACK_NS)
                if not self._living.is_sure and now_ns - self._surveyed_ns >= SURVEY_AGAIN_NS:
                    self._survey()
                self._recheck(now_ns)
                return done
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overflows_total += 1
                self._guess_loss()
                continue
            event = netlink.parse(self._buffer, length) if sender[0] == 0 else None
            if event is None:
                self.refused_total += 1
                continue
            done += 1
            record = self._record(event)
            if not self._put(record, event):
                break
        if self._held is None:
            self.complete_boot_ns = max(self.complete_boot_ns, self.last_boot_ns - REPORT_SLACK_NS)
        else:
            # The ring is full, and gets room only when its records are applied. So the slack must not delay them, nor
            # may a held event that is older than they are, or both would wait forever. An event that is older than the
            # watermark when it arrives is late, and counted.
            held_ns = self._held[1][3] + self._offset_ns
            self.complete_boot_ns = max(self.complete_boot_ns, held_ns, self._written_ns + 1)
        return done

    def _guess_loss(self) -> None:
        """Count one event as lost at once; the next message of each CPU then shows how many are missing."""
        self._living.is_sure = False
        if not self._guessed_lost:
            self._guessed_lost = 1
            self._counts.add(0, "lost_samples")

    def _put(self, record: bytes | None, event: netlink.Event) -> bool:
        """Write the record of an event; return False if the ring is full, and keep the event."""
        if record is not None and self._writer.write(record) is None:
            self._held = record, event
            return False
        self._held = None
        if record is not None:
            self._written_ns = max(self._written_ns, event[3] + self._offset_ns)
        self.events_total += 1
        # Not earlier: if this process is killed before this line, its successor finds the number missing.
        missing = self._counts.saw(event[1], event[2])
        if missing:
            self._living.is_sure = False
            self.lost_total += missing
            counted, self._guessed_lost = min(missing, self._guessed_lost), 0
            if missing > counted:
                self._counts.add(event[1], "lost_samples", missing - counted)
        return True

    # -- events --------------------------------------------------------------------------------------------------------

    def _record(self, event: netlink.Event) -> bytes | None:
        """Return the record of an event; None if it has none."""
        what, cpu, seq, monotonic_ns, tid, tgid = event[:6]
        if what == netlink.EVENT_NONE:
            return None
        now = monotonic_ns + self._offset_ns
        self.last_boot_ns = max(self.last_boot_ns, now)
        if what == netlink.EVENT_FORK:
            return self._fork(event, now)
        if what == netlink.EVENT_EXIT:
            return self._exit(event, now)
        if what == netlink.EVENT_EXEC:
            return self._exec(About(now, tgid, tid, 0, cpu, seq))
        if tid != tgid:
            return None  # a thread's event; the process has the leader's values
        about = About(now, tgid, tid, self._living.start_of(tgid, now), cpu, seq)
        if not about.start_boot_ns:
            return None  # an unknown process that started during a loss; the repair finds it
        if what == netlink.EVENT_COMM:
            return proc_records.comm(about, netlink.name(event))
        if what == netlink.EVENT_SID:
            self._rechecks.session_reported(tgid, about.start_boot_ns, now)
            return proc_records.sid(about)
        if what in (netlink.EVENT_UID, netlink.EVENT_GID):
            info = self._read(about, WANT_RECHECK)
            if info is None:
                return proc_records.unknown(about, declared.KIND_CRED)
            self._rechecks.plan(tgid, about.start_boot_ns, Facts.of(info), now)
            # Include every value that was read: a change without an event would otherwise count as reported.
            return proc_records.change(
                about, declared.KIND_CRED, info, proc_records.known_groups(info) & ~layout.KNOWN_COMM
            )
        return None

    def _read(self, about: About, want: int) -> ProcInfo | None:
        """Read the process from ``/proc``; return None if its pid has a later owner."""
        info = self._reader.read(about.tgid, want)
        if info is None or info.start_boot_ns > about.time_boot_ns:
            return None
        if about.start_boot_ns and info.start_ticks != about.start_boot_ns // TICK_NS:
            return None
        return info

    def _fork(self, event: netlink.Event, now: int) -> bytes | None:
        _, cpu, seq, _, _, ppid, tid, tgid = event[:8]
        if tid != tgid:
            self._living.thread_forked(tgid, tid)
            self._counts.add(cpu, "threads_forked")
            return None
        stat = self._living.stat(tgid)
        if ppid == KTHREADD and (stat is None or stat.task_flags & PF_KTHREAD):
            self._counts.add(cpu, "kthreads_forked")
            return None
        start = self._living.forked(tgid, now, stat)
        about = About(now, tgid, tid, start, cpu, seq, ppid, self._living.start_of(ppid, now))
        info = None
        if stat is not None and self._living.is_in_inner_namespace(tgid):
            info = self._read(about, WANT_IDS | WANT_NS)
        return proc_records.fork(about, info)

    def _exec(self, about: About) -> bytes | None:
        info = self._read(about, self._want)
        known = self._living.start_of(about.tgid, about.time_boot_ns)
        # A later owner of the pid may have started in the tick of this exec. If no event is missing, its fork follows.
        # Otherwise, /proc has the best information.
        if info is not None and known and self._living.is_sure and info.start_ticks > known // TICK_NS:
            info = None
        if info is None:
            about.start_boot_ns = known
            self._living.threads.pop(about.tgid, None)
            # Without a start, the resolver takes the owner of the pid: this process may have begun after the fork.
            return proc_records.unknown(about, declared.KIND_EXEC)
        if info.is_kthread:
            return None
        about.start_boot_ns = self._living.execed(about.tgid, info.start_boot_ns)
        about.parent_start_boot_ns = self._living.start_of(info.ppid, about.time_boot_ns)
        self._rechecks.plan(about.tgid, about.start_boot_ns, Facts.of(info), about.time_boot_ns)
        return proc_records.exec_(about, info)

    def _exit(self, event: netlink.Event, now: int) -> bytes | None:
        _, cpu, seq, _, tid, tgid, exit_code, _, _, ppid = event
        if not self._living.thread_ended(tgid, tid):
            self._counts.add(cpu, "threads_exited")
            return None
        about = About(now, tgid, tid, self._living.start_of(tgid, now), cpu, seq, ppid)
        if about.start_boot_ns:
            about.parent_start_boot_ns = self._living.start_of(ppid, now)
            self._living.ended(tgid)
        return proc_records.exit_(about, exit_code)

    def _recheck(self, now: int) -> None:
        """Read some processes again that may have changed without an event."""
        count = 0
        while count < RECHECKS_PER_PUMP:
            watched = self._rechecks.due(now)
            if watched is None:
                return
            if self._living.starts.get(watched.tgid) != watched.start_boot_ns:
                continue
            count += 1
            if not self._compare(watched):
                return

    def _compare(self, watched: Watched) -> bool:
        """Read a process and report what has changed; return False if the ring is full."""
        read = self._read_again(watched)
        if read is not None and any(watched.facts.changes(Facts.of(read[1]))):
            # The change happened before the time of its record, and what happens after that time cannot be undone by
            # the record. So the time is after the reading that finds the change, and before that of the values.
            read = self._read_again(watched)
        if read is None:
            return True
        about, info = read
        facts = Facts.of(info)
        for kind, groups in watched.facts.changes(facts):
            # The record of a cgroup has no place for the other time.
            after = None if kind == declared.KIND_CGROUP else watched.same_boot_ns
            record = proc_records.change(about, kind, info, groups, changed_after_boot_ns=after)
            # If the ring is full, the next check or the next repair reports the change.
            if self._writer.write(record) is None:
                return False
            self._written_ns = max(self._written_ns, about.time_boot_ns)
            self.last_boot_ns = max(self.last_boot_ns, about.time_boot_ns)
        watched.facts, watched.same_boot_ns = facts, about.time_boot_ns
        return True

    def _read_again(self, watched: Watched) -> tuple[About, ProcInfo] | None:
        """Read a process from ``/proc``, with the time before that; return None if it has ended."""
        about = About(now_boot_ns(), watched.tgid, watched.tgid, watched.start_boot_ns)
        info = self._read(about, WANT_RECHECK)
        return None if info is None or info.is_zombie else (about, info)


def open_connector(
    parts: SourceParts, reader: ProcReader, stack: ExitStack, *, with_envs: bool
) -> tuple[ProcConnector, FillingShard]:
    """Build the connector and its shard, in a worker process or in `procline record`.

    Args:
        parts: the parts for the source; the netlink socket stays open when the stack is closed.
        reader: reads ``/proc``.
        stack: closes what this function opens.
        with_envs: whether to read environments.
    """
    (ring,) = parts.rings
    sock = stack.enter_context(socket.socket(fileno=os.dup(parts.fds.socket)))
    writer = stack.enter_context(RingWriter(parts.fds.rings[ring.number]))
    counts = Counts(map_counts(parts.fds.shared))
    connector = ProcConnector(sock, writer, counts, reader, Living(), with_envs=with_envs)
    shard = FillingShard(connector, ring, source=SOURCE, **parts.of_shard())
    stack.callback(shard.close)
    return connector, shard
