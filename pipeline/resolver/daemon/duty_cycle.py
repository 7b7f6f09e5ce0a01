"""The resolver's duty cycle: turns (receive, merge, apply, publish, commit, acknowledge), and the work between them.

An instance has one `DutyCycle`, its only writer. `do_work` does a bounded amount of work and returns how much. Parts:

- `Turn` (_turn.pyx, compiled) is what every wake-up does: frames, merge, apply, publish, commit, and the sleep itself.
- `DutyCycle` does the rest, in Python: answers to readers, names, sessions, repair, statistics, eviction.
- `ResolverProcess` (process.py) owns both from start to end; build.py assembles them, main.py handles signals.

The order within a turn, and why a kill at any point loses nothing:

1. A batch is applied (idempotent, keyed by identity and time).
2. Its events are published with the sequence numbers that the commit will record.
3. The commit slot that names its positions becomes valid (one release store).
4. The positions are stored where the shards read them, so that the shards return the ring space to the kernel.

After a kill before step 3, the successor reads the same records again from the committed positions. It finds their
effects in the tables and publishes the same numbers again; subscribers drop the events that they have. After a kill
between steps 3 and 4, the shards only keep data that is not needed any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.resolver.daemon._gathering import Gathering
from pipeline.resolver.daemon._turn import Turn
from pipeline.resolver.upkeep.repair import NEVER_NS
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    from pipeline.bpf._positions import ProducerPositions
    from pipeline.errors import FrameError
    from pipeline.resolver.agents.context_loop import ContextLoop
    from pipeline.resolver.agents.recorded_calls import RecordedCalls
    from pipeline.resolver.apply._applier import Applier
    from pipeline.resolver.daemon._losses import SharedCounters
    from pipeline.resolver.daemon._turn import FrameReader
    from pipeline.resolver.daemon._waiting import FrameSocket, TurnWaiter
    from pipeline.resolver.daemon.answering import Answering
    from pipeline.resolver.daemon.newcomers import Newcomers
    from pipeline.resolver.merge._merger import Merger
    from pipeline.resolver.stream._encoder import Encoder
    from pipeline.resolver.stream.publisher import Publisher
    from pipeline.resolver.stream.rejected_clients import RejectedClients
    from pipeline.resolver.upkeep.cgroups import CgroupNamer
    from pipeline.resolver.upkeep.containers import LiveContainers
    from pipeline.resolver.upkeep.live_executables import LiveHashes, LivePackages
    from pipeline.resolver.upkeep.names import LiveNames
    from pipeline.resolver.upkeep.repair import Repairer
    from pipeline.resolver.upkeep.scripts import ScriptFiles
    from pipeline.resolver.upkeep.sessions import SshSessions
    from pipeline.resolver.upkeep.terminals import SessionTerminals, TtyFallback
    from pipeline.shm.writer._writer import TableWriter

#: Events applied between two commits: bounds what a successor re-applies and how long readers wait for a commit.
BATCH_EVENTS = 8192
#: Housekeeping during activity: losses, names, statistics. It is the only Python that runs then. With cold caches it
#: takes one to two milliseconds, during which an event waits.
HEARTBEAT_NS = 500_000_000
#: It waits for a moment without frames or waiting questions, but no longer than this.
HEARTBEAT_LATEST_NS = 625_000_000
#: On an idle host, a heartbeat and a commit are stored this often: readers that cannot check the writer's process
#: assume after 1 s that it has ended. The other housekeeping follows at the first heartbeat after IDLE_HOUSEKEEPING_NS;
#: after IDLE_HOUSEKEEPING_SOON_NS if there are subscribers, which receive a heartbeat each second, or cgroups without a
#: name. It does not wait for that if records were lost or a step of a repair is due: see `_upkeep_due_ns`.
IDLE_MS = 300.0
IDLE_HOUSEKEEPING_NS = 1_700_000_000
IDLE_HOUSEKEEPING_SOON_NS = 500_000_000
#: The same two intervals (during activity, and on an idle host) while no program has the tables open, so that none can
#: see what housekeeping does. When a program opens them, the shorter intervals apply again (see newcomers.py).
RESTING_NS = 1_700_000_000
IDLE_HOUSEKEEPING_RESTING_NS = 4_700_000_000
STATS_NS = 1_000_000_000
#: A loss is repaired after this time without another loss, or after REPAIR_LATEST_NS at the latest.
REPAIR_QUIET_NS = 200_000_000
REPAIR_LATEST_NS = 1_000_000_000
EVICT_ROWS_PER_TURN = 512
#: Longest sleep while a context event waits for a record, or a flood of questions for its end.
WAIT_REQUEST_MS = 1
#: Longest sleep while a repair reads /proc in portions.
WAIT_REPAIR_MS = 2
#: Longest sleep while details of ssh sessions, or the file that shows them, are not complete.
WAIT_SESSIONS_MS = 20


class CycleSettings(NamedTuple):
    """The settings that the duty cycle needs; times in ns.

    A replay does not evict by age: its events are not of the present. `freshness_ns` is 0 if the source does not let
    events gather.
    """

    repair_interval_ns: int = 120_000_000_000
    repair_again_ns: int = 500_000_000
    batch_events: int = BATCH_EVENTS
    evicts_by_age: bool = True
    freshness_ns: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parts:
    """The parts of a duty cycle beside its turns; they depend on the source and on the settings. None: there is none.

    Attributes:
        repairer: completes the tables from /proc after a loss, and now and then.
        rejected_clients: counts the subscribers that are rejected, and ends connections of revoked keys.
        newcomers: shows the shards which programs wait for events. None: they behave as if there were always a reader.
        answering: answers readers that missed a process.
        contexts: applies what agents report.
        calls: receives the calls that BPF programs recorded.
        names: names of users and groups.
        containers: names, images and labels of containers.
        packages, hashes: of executables.
        sessions: ssh sessions.
        session_terminals: removes the terminal of a session from its processes.
        tty_fallback: finds a terminal for processes that have none.
        scripts: reads the files of scripts.
        name_cgroups: names cgroups, at each housekeeping.
        watch_growth: called at each housekeeping with the boot time, to report tables that cannot grow.
        complete: called after a batch in which a process inherits facts that no record carries.
    """

    repairer: Repairer | None = None
    rejected_clients: RejectedClients | None = None
    newcomers: Newcomers | None = None
    answering: Answering | None = None
    contexts: ContextLoop | None = None
    calls: RecordedCalls | None = None
    names: LiveNames | None = None
    containers: LiveContainers | None = None
    packages: LivePackages | None = None
    hashes: LiveHashes | None = None
    sessions: SshSessions | None = None
    session_terminals: SessionTerminals | None = None
    tty_fallback: TtyFallback | None = None
    scripts: ScriptFiles | None = None
    name_cgroups: CgroupNamer | None = None
    watch_growth: Callable[[int], None] | None = None
    complete: Callable[[], object] | None = None


class DutyCycle:
    """The one writer of an instance (holder of `writer.lock`), as a duty cycle.

    Args:
        tables: held by this process.
        merger, applier, publisher: the stages; `applier` writes `tables`.
        encoder: the one that `applier` calls.
        frames, reader, positions: see _turn.pyx.
        losses: see _losses.pyx; None if the source has no such counters.
        now_boot_ns: the boot clock.
        settings: see `CycleSettings`.
        parts: what is done besides turns.
        log_refused: called once for each peer, when a frame of the peer is rejected.

    Attributes:
        may_be_asked: a reader's question may be there; set by the caller that slept.
    """

    def __init__(
        self,
        *,
        tables: TableWriter,
        merger: Merger,
        applier: Applier,
        encoder: Encoder,
        publisher: Publisher,
        frames: FrameSocket,
        reader: FrameReader,
        positions: ProducerPositions | None,
        losses: SharedCounters | None,
        now_boot_ns: Callable[[], int],
        settings: CycleSettings | None = None,
        parts: Parts | None = None,
        log_refused: Callable[[FrameError], None] = lambda error: None,
    ) -> None:
        self.tables = tables
        self.merger = merger
        self.applier = applier
        self.encoder = encoder
        self.publisher = publisher
        self.losses = losses
        self.now_boot_ns = now_boot_ns
        self.settings = settings or CycleSettings()
        self.log_refused = log_refused
        self.parts = parts or Parts()
        self.may_be_asked = True
        self._turn = Turn(
            tables=tables, merger=merger, applier=applier, encoder=encoder, frames=frames, reader=reader,
            positions=positions, batch_events=self.settings.batch_events, evicts=self.settings.evicts_by_age,
            send=publisher.send, reject=self._reject, follow_up=self._follow_up,
            gathering=Gathering(self.settings.freshness_ns) if self.settings.freshness_ns else None, losses=losses,
        )  # fmt: skip
        # These are the kernel's own totals for this capture. Nothing is added up here, so a take-over cannot count a
        # loss twice. The snapshot, or the repair after a take-over, covers losses from before this process.
        self._lost_total = 0
        if losses is not None:
            self._lost_total = losses.lost_total
            self._store_lost(losses)
            self._store_counts(losses)
        self._loss_first_ns = 0
        self._loss_last_ns = 0
        self._repaired_ns = now_boot_ns()  # the snapshot, or a take-over that asks for its own repair
        self._sent_base = (tables.counter("published"), tables.counter("publish_unsent"))
        self._journal_base = tuple(tables.counter(name) for name in _JOURNAL)
        self._kept_ns = 0
        self._worked = False
        self._is_calm = True
        self._is_idle = False
        self._has_lost = False
        self._stats_ns = 0
        self._refused_peers: set[str] = set()

    # -- the duty cycle ------------------------------------------------------------------------------------------------

    def do_work(self) -> int:
        """Do a bounded amount of work; returns frames received plus events applied plus questions of readers."""
        parts = self.parts
        work = self._turn.run()
        now = self._turn.ended_boot_ns
        is_pressing = self._has_lost or now >= self._upkeep_due_ns
        is_due = (
            self._is_idle
            or is_pressing
            or (
                now - self._turn.heartbeat_boot_ns
                >= (self._heartbeat_ns if self._is_calm else self._heartbeat_latest_ns)
            )
        )
        if parts.answering is not None and (self.may_be_asked or parts.answering.waiting):
            work += parts.answering.do_work(now)
            if parts.answering.waiting and now - self._turn.heartbeat_boot_ns < self._heartbeat_latest_ns:
                is_due = False  # a reader waits for an answer, which a moment will bring
        if is_due or self._turn.wants_names:
            for part in (parts.names, parts.containers, parts.packages, parts.hashes):
                if part is not None:
                    part.do_work(now)
        if parts.scripts is not None and is_due and parts.scripts.has_answers:
            parts.scripts.do_work()
        if parts.sessions is not None and (is_due or parts.sessions.is_waiting):
            parts.sessions.do_work()
        if parts.calls is not None:
            work += parts.calls.do_work(now)
        if parts.contexts is not None and (is_due or parts.contexts.waiting):
            work += parts.contexts.do_work(now)
        self._worked |= work > 0
        if is_due:
            self._is_idle = self._has_lost = False
            self._turn.beat(now)
            if self._worked or is_pressing or now >= self._keeping_due_ns:
                self._worked, self._kept_ns = False, now
                self._housekeeping(now)
            self.commit()
        return work

    def follow(self, waiter: TurnWaiter, gather_ms: float) -> None:
        """Sleep, and handle frames, until there is more to do than frames: that is the job of `do_work`.

        Args:
            waiter: see _waiting.pyx.
            gather_ms: see `Turn.follow`.
        """
        parts = self.parts
        has_answers = any(
            part is not None and part.has_answers
            for part in (parts.names, parts.containers, parts.packages, parts.hashes, parts.scripts)
        )
        # Nothing wakes the resolver for a recorded call.
        upkeep_due_ns = self._upkeep_due_ns
        rest_until_boot_ns = min(self._keeping_due_ns, upkeep_due_ns)
        if self._worked or has_answers or parts.calls is not None:
            rest_until_boot_ns = 0
        due_ns = min(self._heartbeat_ns, max(0, upkeep_due_ns - self._turn.heartbeat_boot_ns))
        latest_ns = due_ns + HEARTBEAT_LATEST_NS - HEARTBEAT_NS
        self._worked |= self._turn.follow(waiter, IDLE_MS, gather_ms, due_ns, latest_ns, rest_until_boot_ns) > 0
        self._is_calm, self._is_idle = self._turn.is_calm, self._turn.is_idle
        self._has_lost = self._turn.has_lost
        self.may_be_asked = waiter.may_be_asked
        if self._turn.is_wanted:
            self.publisher.do_work(self._turn.ended_boot_ns)
            self._show_audience()
        self.welcome(waiter)

    def welcome(self, waiter: TurnWaiter) -> None:
        """Have the shards read at once if a program has opened the tables."""
        if waiter.is_opened:
            waiter.is_opened = False
            if self.parts.newcomers is not None:
                self.parts.newcomers.welcome(self.encoder.subscribed_mask != 0)
            # If nothing was unread, the program may know that at once.
            self.commit()

    def _show_audience(self) -> None:
        has_subscribers = self.encoder.subscribed_mask != 0
        if self.parts.newcomers is not None:
            self.parts.newcomers.show_audience(has_subscribers)
        else:
            self.tables.show_audience(has_subscribers, False)

    @property
    def attends(self) -> bool:
        """Whether `do_work` has to run again soon, even without a frame."""
        parts = self.parts
        return (
            (parts.answering is not None and (parts.answering.waiting > 0 or parts.answering.is_flooded))
            or (parts.contexts is not None and parts.contexts.waiting > 0)
            or (parts.sessions is not None and parts.sessions.is_waiting)
            or (parts.repairer is not None and parts.repairer.active)
        )

    @property
    def _is_resting(self) -> bool:
        return self.parts.newcomers is not None and self.parts.newcomers.is_resting

    @property
    def _heartbeat_ns(self) -> int:
        """Time between two housekeepings during activity."""
        return RESTING_NS if self._is_resting else HEARTBEAT_NS

    @property
    def _heartbeat_latest_ns(self) -> int:
        """The same if there is no moment without frames."""
        return self._heartbeat_ns + HEARTBEAT_LATEST_NS - HEARTBEAT_NS

    @property
    def _keeping_due_ns(self) -> int:
        """When housekeeping is due on an idle host."""
        namer = self.parts.name_cgroups
        if self.encoder.subscribed_mask or (namer is not None and namer.is_waiting):
            return self._kept_ns + IDLE_HOUSEKEEPING_SOON_NS
        return self._kept_ns + (IDLE_HOUSEKEEPING_RESTING_NS if self._is_resting else IDLE_HOUSEKEEPING_NS)

    @property
    def _upkeep_due_ns(self) -> int:
        """When housekeeping has a repair to start, or a step of one to make, on a busy host too."""
        repairer = self.parts.repairer
        if repairer is None:
            return NEVER_NS
        return min(repairer.due_boot_ns, NEVER_NS if repairer.active else self._repair_due_ns)

    def beat(self) -> None:
        """Store a heartbeat and serve subscribers without applying anything; for long work outside the cycle."""
        now = self.now_boot_ns()
        self._turn.beat(now)
        self.publisher.do_work(now)

    def idle_ms(self) -> float:
        """How long the caller may sleep on its sockets before the next `do_work` if no message arrives."""
        parts = self.parts
        ms = self._turn.wait_ms()
        if parts.answering is not None and parts.answering.waiting:
            wait_ms = parts.answering.wait_ms(self.now_boot_ns())
            return wait_ms if ms < 0 else min(ms, wait_ms)
        if ms >= 0:
            return ms
        if (parts.answering is not None and parts.answering.is_flooded) or (
            parts.contexts is not None and parts.contexts.waiting
        ):
            return WAIT_REQUEST_MS
        if parts.repairer is not None and parts.repairer.active:
            return WAIT_REPAIR_MS
        if parts.sessions is not None and parts.sessions.is_waiting:
            return WAIT_SESSIONS_MS
        return IDLE_MS

    def _reject(self, error: FrameError) -> None:
        if error.peer not in self._refused_peers:
            self._refused_peers.add(error.peer)
            self.log_refused(error)

    def _follow_up(self) -> None:
        """Do what an applied batch left to be done."""
        parts = self.parts
        if parts.sessions is not None:
            parts.sessions.do_work()
        if parts.session_terminals is not None:
            parts.session_terminals.do_work()
        if parts.tty_fallback is not None:
            parts.tty_fallback.do_work()
        if parts.scripts is not None:
            parts.scripts.do_work()
        if parts.complete is not None and self.applier.has_heirs:
            parts.complete()

    def commit(self) -> None:
        """Make what is applied the point from which a successor continues; then the shards may release it."""
        self._turn.commit()

    # -- housekeeping --------------------------------------------------------------------------------------------------

    def _housekeeping(self, now: int) -> None:
        parts = self.parts
        if self.settings.evicts_by_age:
            self.tables.evict_exited(now, EVICT_ROWS_PER_TURN)
        self._watch_losses(now)
        if parts.watch_growth is not None:
            parts.watch_growth(now)
        if parts.repairer is not None:
            parts.repairer.do_work()
        if parts.name_cgroups is not None:
            parts.name_cgroups()
        if parts.calls is not None:
            parts.calls.count_dropped()
        self.publisher.watermark_boot_ns = self.merger.watermark
        if now - self._stats_ns >= STATS_NS:
            self._stats_ns = now
            self._publish_stats(now)
        self.publisher.do_work(now)
        self._show_audience()
        if parts.rejected_clients is not None:
            parts.rejected_clients.do_work(now)
        self.tables.set_counter("published", self._sent_base[0] + self.publisher.published)
        self.tables.set_counter("publish_unsent", self._sent_base[1] + self.publisher.unsent + self.encoder.dropped)
        journal = self.publisher.journal
        if journal is not None:
            counts = (journal.events, journal.bytes, journal.failed)
            for name, base, count in zip(_JOURNAL, self._journal_base, counts, strict=True):
                self.tables.set_counter(name, base + count)

    def _watch_losses(self, now: int) -> None:
        """Publish new losses, and start a repair if one is due."""
        if self.losses is not None and self.losses.read():
            if self.losses.lost_total != self._lost_total:
                self._lost_total = self.losses.lost_total
                self._store_lost(self.losses)
                self.publisher.loss({_LOST_KINDS[kind]: self.tables.counter(f"lost_{kind}") for kind in _LOST}, now)
                self._loss_first_ns = self._loss_first_ns or now
                self._loss_last_ns = now
            self._store_counts(self.losses)
        repairer = self.parts.repairer
        if repairer is not None and not repairer.active and now >= self._repair_due_ns:
            self._loss_first_ns = self._loss_last_ns = 0
            self._repaired_ns = now
            repairer.start()

    @property
    def _repair_due_ns(self) -> int:
        """When the next repair is due."""
        regular_ns = self._repaired_ns + self.settings.repair_interval_ns
        if not self._loss_last_ns:
            return regular_ns
        settled_ns = min(self._loss_last_ns + REPAIR_QUIET_NS, self._loss_first_ns + REPAIR_LATEST_NS)
        return min(regular_ns, max(settled_ns, self._repaired_ns + self.settings.repair_again_ns))

    def _store_counts(self, losses: SharedCounters) -> None:
        self.tables.set_counter("threads_forked", losses.threads_forked)
        self.tables.set_counter("kthreads_forked", losses.kthreads_forked)
        self.tables.set_counter("runs_skipped", losses.runs_skipped)
        self.tables.set_counter("maps_full", losses.pids_full)

    def _store_lost(self, losses: SharedCounters) -> None:
        for name, count in zip(_LOST, losses.lost.tolist(), strict=True):
            self.tables.set_counter(f"lost_{name}", count)

    def _publish_stats(self, now: int) -> None:
        """Publish the counters that `procline stat` shows, if ``sys.stats`` has a subscriber."""
        if not self.publisher.wants_stats:
            return
        tables = self.tables
        self.publisher.stats(
            {
                "counters": {name: tables.counter(name) for name in layout.COUNTERS},
                "entries": {"live": tables.heads_live, "exited": tables.heads_exited, "images": tables.rows_used},
                "watermark_lag_ns": max(0, now - self.merger.watermark),
            },
            now,
        )

    def repair_soon(self, now: int) -> None:
        """Ask for a repair as after a loss (a take-over does)."""
        self._loss_first_ns = self._loss_last_ns = now - REPAIR_QUIET_NS


_JOURNAL = ("journal_events", "journal_bytes", "journal_failed")
_LOST = tuple(name.removeprefix("lost_") for name in layout.COUNTERS if name.startswith("lost_"))
#: The first is for a source that does not know the kind of its losses.
_LOST_KINDS = {kind: "unknown" if kind == "none" else kind for kind in _LOST}
