"""Make records of the proc connector's events, and hand them over as a shard does.

Events are read from the netlink socket in batches, each becomes at most one record, completed from ``/proc`` at once,
and the record goes into a ring made by hand (`handring`). From there on everything is as for a ring of the kernel: the
shard reads ahead with a cursor, keeps what is not applied, and reads again what is asked for. The supervisor holds ring
and socket too, so a shard that is killed loses the event in its hand, nothing else, and its successor counts that one.

Loss happens in one place. When the ring is full, events stay in the socket; when that is full, the kernel leaves them
out, and the holes in its numbers say how many (`proc_events`), though not of which kind: they are counted as kind 0.
The resolver repairs after it, and this source looks through ``/proc`` again for itself.

What ``/proc`` says is what is true when it is read, a moment after the event. A process that is gone by then stays
known in part: of an exec only that there was one (FLAG_HEAD_ONLY). A child is what its parent was, so its fork needs
nothing from ``/proc`` but the start time.

Changes that the proc connector does not report (capabilities, login uid, cgroups, terminals) are looked for a while
after an exec or a change of credentials (`second_look`); repairs bring the others. Who adopts the children of a process
that ended is asked by the resolver.
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
from pipeline.procfs.reader import WANT_DEFAULT, WANT_ENVS, WANT_IDS, WANT_NS, ProcReader
from pipeline.records import kinds as events
from pipeline.shm.layout import tables as layout
from pipeline.sources.proc_connector import netlink as proc_events
from pipeline.sources.proc_connector import proc_records
from pipeline.sources.proc_connector.living import PF_KTHREAD, TICK_NS, Living
from pipeline.sources.proc_connector.proc_records import About
from pipeline.sources.proc_connector.second_look import WANT_LOOK, Facts, Looks
from pipeline.sources.ring._shared import Words
from pipeline.sources.ring.handring import RingWriter
from pipeline.sources.shard.filling import FillingShard
from pipeline.sources.shard.process import SourceParts, map_counts

SOURCE = "proc-connector"

#: An event's time is taken before it is sent, by a task that may lose its CPU in between. Measured in a storm on two
#: CPUs: events arrive at most 6 us behind younger ones. What is later than this is applied as late.
SLACK_NS = 1_000_000
#: After a loss, ``/proc`` is looked through when the socket is empty, but not more often than this.
SURVEY_AGAIN_NS = 500_000_000
#: Second looks in one turn at most, when the socket is empty.
LOOKS_PER_PUMP = 64
#: The clocks' distance changes in suspend only; a smaller difference is the time between two readings.
_SUSPEND_NS = 20_000_000
_KTHREADD = 2
_SEEN = 1 << 32


def _field(name: str) -> int:
    assert CPU_STATE.fields is not None
    return int(CPU_STATE.fields[name][1])


class Counts:
    """The counters of this source, in the form of `pl_shared` (bpf/maps.py), for its successor and the resolver.

    `ring_seq` holds the number that the next message of the CPU must have, once one was seen (bit 32 says so).
    """

    def __init__(self, buffer: Any) -> None:
        self._words = Words(buffer, writable=True)
        self.cpu_count = min(MAX_CPUS, memoryview(buffer).nbytes // CPU_STATE.itemsize)

    def add(self, cpu: int, field: str, count: int = 1) -> None:
        """Add to a counter of a CPU; to the first CPU's if that one has none."""
        offset = (cpu if cpu < self.cpu_count else 0) * CPU_STATE.itemsize + _field(field)
        self._words.store64(offset, self._words.load64(offset) + count)

    def saw(self, cpu: int, seq: int) -> int:
        """Note the number of a message that is dealt with; returns how many are missing before it."""
        if cpu >= self.cpu_count:
            return 0
        offset = cpu * CPU_STATE.itemsize + _field("ring_seq")
        expected = self._words.load64(offset)
        self._words.store64(offset, (seq + 1 & 0xFFFFFFFF) | _SEEN)
        missing = seq - expected & 0xFFFFFFFF if expected else 0
        return missing if missing < 1 << 31 else 0

    @property
    def is_used(self) -> bool:
        """Whether messages were counted already."""
        size = CPU_STATE.itemsize
        return any(self._words.load64(cpu * size + _field("ring_seq")) for cpu in range(self.cpu_count))

    def release(self) -> None:
        """Let go of the buffer."""
        self._words.release()


def measure_offset_ns() -> int:
    """Return boot clock minus monotonic clock: how long this boot was suspended, to within a microsecond."""
    best = (1 << 62, 0)
    for _ in range(16):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        best = min(best, (after - before, (before + after) // 2 - monotonic))
    return best[1]


class ProcConnector:
    """From the socket into the ring: the ring's one producer.

    Attributes:
        complete_boot_ns: nothing older than this will come any more, and everything older is in the ring.
        last_boot_ns: time of the youngest event so far.
        events_total: messages read.
        refused_total: datagrams that were none of the kernel's events.
        surveys_total: passes over ``/proc``.
        lost_total: messages that the kernel left out, as far as their numbers say.
        overflows_total: times that the kernel said that the socket had no room.
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
        """Begin to follow: from now on what happens is in the socket, and what was before is read from ``/proc``."""
        self._sock = sock
        self._writer = writer
        self._counts = counts
        self._reader = reader
        self._living = living
        self._want = WANT_DEFAULT | (WANT_ENVS if with_envs else 0)
        self._buffer = bytearray(4096)
        self._offset_ns = measure_offset_ns()
        self._held: tuple[bytes, proc_events.Event] | None = None
        self._looks = Looks()
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
            # The process before was killed. An event may have been in its hand, and its second looks are forgotten: it
            # counts as a loss, and so is repaired.
            self._guess_loss()

    def _survey(self) -> None:
        self._living.survey()
        self._surveyed_ns = now_boot_ns()
        self.surveys_total += 1

    def pump(self, budget: int) -> int:
        """Take at most `budget` events out of the socket; returns how many."""
        looked_ns = now_boot_ns()
        monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        if abs(looked_ns - monotonic_ns - self._offset_ns) > _SUSPEND_NS:
            self._offset_ns = measure_offset_ns()
        done = 0
        while done < budget:
            if self._held is not None and not self._put(*self._held):
                break
            try:
                length, sender = self._sock.recvfrom_into(self._buffer)
            except BlockingIOError:
                self.complete_boot_ns = max(self.complete_boot_ns, looked_ns - SLACK_NS)
                if not self._living.is_sure and looked_ns - self._surveyed_ns >= SURVEY_AGAIN_NS:
                    self._survey()
                self._look_again(looked_ns)
                return done
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overflows_total += 1
                self._guess_loss()
                continue
            event = proc_events.parse(self._buffer, length) if sender[0] == 0 else None
            if event is None:
                self.refused_total += 1
                continue
            done += 1
            record = self._record(event)
            if not self._put(record, event):
                break
        if self._held is None:
            self.complete_boot_ns = max(self.complete_boot_ns, self.last_boot_ns - SLACK_NS)
        else:
            # The ring is full, and gets room when what it holds is applied. So the slack must not hold that back: what
            # is older than the event that is held, and comes after it, is late.
            self.complete_boot_ns = max(self.complete_boot_ns, self._held[1][3] + self._offset_ns)
        return done

    def _guess_loss(self) -> None:
        """Count one event as lost at once: how many are missing is seen only at the next message of each CPU."""
        self._living.is_sure = False
        if not self._guessed_lost:
            self._guessed_lost = 1
            self._counts.add(0, "lost_samples")

    def _put(self, record: bytes | None, event: proc_events.Event) -> bool:
        """Write what became of an event; False: the ring is full, and the event is held."""
        if record is not None and self._writer.write(record) is None:
            self._held = record, event
            return False
        self._held = None
        self.events_total += 1
        # Only now: if this process is killed before, its successor finds the number missing.
        missing = self._counts.saw(event[1], event[2])
        if missing:
            self._living.is_sure = False
            self.lost_total += missing
            told, self._guessed_lost = min(missing, self._guessed_lost), 0
            if missing > told:
                self._counts.add(event[1], "lost_samples", missing - told)
        return True

    # -- events --------------------------------------------------------------------------------------------------------

    def _record(self, event: proc_events.Event) -> bytes | None:
        """Return the record that an event becomes, None for those that become none."""
        what, cpu, seq, monotonic_ns, tid, tgid = event[:6]
        if what == proc_events.EVENT_NONE:
            return None
        now = monotonic_ns + self._offset_ns
        self.last_boot_ns = max(self.last_boot_ns, now)
        if what == proc_events.EVENT_FORK:
            return self._fork(event, now)
        if what == proc_events.EVENT_EXIT:
            return self._exit(event, now)
        if what == proc_events.EVENT_EXEC:
            return self._exec(About(now, tgid, tid, 0, cpu, seq))
        if tid != tgid:
            return None  # of a thread; the process is what its leader is
        about = About(now, tgid, tid, self._living.start_of(tgid, now), cpu, seq)
        if not about.start_boot_ns:
            return None  # nobody knows whom it was about; what began is repaired after a loss
        if what == proc_events.EVENT_COMM:
            return proc_records.comm(about, proc_events.name(event))
        if what == proc_events.EVENT_SID:
            self._looks.session_told(tgid, about.start_boot_ns)
            return proc_records.sid(about)
        if what in (proc_events.EVENT_UID, proc_events.EVENT_GID):
            info = self._read(about, WANT_LOOK)
            if info is None:
                return proc_records.unknown(about, events.KIND_CRED)
            self._looks.plan(tgid, about.start_boot_ns, Facts.of(info), now)
            # All that was read: what had changed before without an event would look as if it had been told.
            return proc_records.change(about, events.KIND_CRED, info, proc_records.told_by(info) & ~layout.KNOWN_COMM)
        return None

    def _read(self, about: About, want: int) -> ProcInfo | None:
        """Ask ``/proc`` about the process meant, not about a younger owner of its pid."""
        info = self._reader.read(about.tgid, want)
        if info is None or info.start_boot_ns > about.time_boot_ns:
            return None
        if about.start_boot_ns and info.start_ticks != about.start_boot_ns // TICK_NS:
            return None
        return info

    def _fork(self, event: proc_events.Event, now: int) -> bytes | None:
        _, cpu, seq, _, _, ppid, tid, tgid = event[:8]
        if tid != tgid:
            self._living.thread_forked(tgid, tid)
            self._counts.add(cpu, "threads_forked")
            return None
        stat = self._living.stat(tgid)
        if ppid == _KTHREADD and (stat is None or stat.task_flags & PF_KTHREAD):
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
        # A younger owner of the pid may have begun in the tick of this exec. While nothing was missed, its fork is
        # still to come; else what /proc says is the best that there is.
        if info is not None and known and self._living.is_sure and info.start_ticks > known // TICK_NS:
            info = None
        if info is None:
            about.start_boot_ns = known
            self._living.threads.pop(about.tgid, None)
            return proc_records.unknown(about, events.KIND_EXEC) if about.start_boot_ns else None
        if info.is_kthread:
            return None
        about.start_boot_ns = self._living.execed(about.tgid, info.start_boot_ns)
        about.parent_start_boot_ns = self._living.start_of(info.ppid, about.time_boot_ns)
        self._looks.plan(about.tgid, about.start_boot_ns, Facts.of(info), about.time_boot_ns)
        return proc_records.exec_(about, info)

    def _exit(self, event: proc_events.Event, now: int) -> bytes | None:
        _, cpu, seq, _, tid, tgid, exit_code, _, _, ppid = event
        if not self._living.thread_ended(tgid, tid):
            self._counts.add(cpu, "threads_exited")
            return None
        about = About(now, tgid, tid, self._living.start_of(tgid, now), cpu, seq, ppid)
        if about.start_boot_ns:
            about.parent_start_boot_ns = self._living.start_of(ppid, now)
            self._living.ended(tgid)
        return proc_records.exit_(about, exit_code)

    def _look_again(self, now: int) -> None:
        """Look at some of the processes that may have changed without an event."""
        looks = 0
        while looks < LOOKS_PER_PUMP:
            look = self._looks.due(now)
            if look is None:
                return
            if self._living.starts.get(look.tgid) != look.start_boot_ns:
                continue
            looks += 1
            about = About(now_boot_ns(), look.tgid, look.tgid, look.start_boot_ns)
            info = self._read(about, WANT_LOOK)
            if info is None or info.is_zombie:
                continue
            facts = Facts.of(info)
            for kind, groups in look.facts.changes(facts):
                # If the ring is full, the next look or the next repair has to bring it.
                if self._writer.write(proc_records.change(about, kind, info, groups)) is None:
                    return
                self.last_boot_ns = max(self.last_boot_ns, about.time_boot_ns)
            look.facts = facts


def open_connector(
    parts: SourceParts, reader: ProcReader, stack: ExitStack, *, with_envs: bool
) -> tuple[ProcConnector, FillingShard]:
    """Build the connector and its shard, in a worker process or in `procline record`.

    Args:
        parts: what they are built from; the netlink socket stays open when the stack is closed.
        reader: of ``/proc``.
        stack: closes what this opens.
        with_envs: whether environments are read.
    """
    (ring,) = parts.rings
    sock = stack.enter_context(socket.socket(fileno=os.dup(parts.fds.socket)))
    writer = stack.enter_context(RingWriter(parts.fds.rings[ring.number]))
    counts = Counts(map_counts(parts.fds.shared))
    connector = ProcConnector(sock, writer, counts, reader, Living(), with_envs=with_envs)
    shard = FillingShard(connector, ring, source=SOURCE, **parts.of_shard())
    stack.callback(shard.close)
    return connector, shard
