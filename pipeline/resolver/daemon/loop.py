"""The resolver's duty cycle: frames in; merge, apply, publish, commit, acknowledge; housekeeping in between.

One `Resolver` is the only writer of an instance. `poll` does bounded work and returns how much; what every wake-up does
is in _turn.pyx, sleeping in _waiting.pyx, signals in main.py and construction in build.py. Order within a step, and why
a kill at any point loses nothing:

1. a batch is applied (idempotent, keyed by identity and time),
2. its events are published, with the sequence numbers that the commit will record,
3. the commit slot that names its positions becomes valid (one release store),
4. the positions are stored where the shards read them, which lets them give ring space back to the kernel.

Killed before 3, the successor reads the same records again from the committed positions, finds what is already in the
tables and publishes the same numbers again (subscribers drop what they have). Killed after 3 but before 4, the shards
merely keep data that nobody needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.resolver.daemon._turn import Turn
from pipeline.shm.layout import tables as layout

if TYPE_CHECKING:
    from pipeline.bpf._positions import ProducerPositions
    from pipeline.errors import FrameError
    from pipeline.resolver.agents.context_events import ContextLoop
    from pipeline.resolver.apply._applier import Applier
    from pipeline.resolver.daemon._losses import SharedCounters
    from pipeline.resolver.daemon._turn import FrameReader
    from pipeline.resolver.daemon._waiting import FrameSocket, Waiter
    from pipeline.resolver.daemon.requests import Requests
    from pipeline.resolver.merge._merger import Merger
    from pipeline.resolver.stream._encoder import Encoder
    from pipeline.resolver.stream.publisher import Publisher
    from pipeline.resolver.upkeep.names import LiveNames
    from pipeline.resolver.upkeep.repair import Repairer
    from pipeline.resolver.upkeep.sessions import SshSessions
    from pipeline.resolver.upkeep.terminals import SessionTerminals, TtyFallback
    from pipeline.shm.writer._writer import TableWriter

#: Events applied between two commits: bounds what a successor re-applies and how long readers wait for a commit.
BATCH_EVENTS = 8192
#: Housekeeping while something happens: losses, names, statistics. It is the only Python that runs then, with caches in
#: other hands: one to two milliseconds in which an event on an idle host waits.
HEARTBEAT_NS = 500_000_000
#: It waits for a moment in which nothing comes, but no longer than this.
HEARTBEAT_LATEST_NS = 625_000_000
#: Where nothing happens, signs of life are a heartbeat and a commit, so often: readers take 1 s for the end of a writer
#: that they cannot ask for. The rest of housekeeping follows at the next one after this time; subscribers are told each
#: second that nothing came.
IDLE_MS = 300.0
IDLE_HOUSEKEEPING_NS = 1_700_000_000
IDLE_HOUSEKEEPING_HEARD_NS = 500_000_000
STATS_NS = 1_000_000_000
#: A loss is repaired when it has been quiet for so long, or after REPAIR_LATEST_NS at the latest.
REPAIR_QUIET_NS = 200_000_000
REPAIR_LATEST_NS = 1_000_000_000
EVICT_ROWS_PER_POLL = 512
#: With a reader that waits for its answer: what it asks about is on its way, or the watermark is.
WAIT_REQUEST_MS = 1
#: With ssh sessions of which the details, or the file that shows them, are not due yet.
WAIT_SESSIONS_MS = 20


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the loop needs of the configuration; times in ns. A replay keeps what has ended: its time is not now."""

    repair_interval_ns: int = 120_000_000_000
    repair_again_ns: int = 500_000_000
    batch_events: int = BATCH_EVENTS
    evicts_by_age: bool = True


class Resolver:
    """The one writer of an instance (holder of `writer.lock`), as a duty cycle.

    Args:
        tables: held by this process.
        merger, applier, publisher: the stages; `applier` writes `tables`.
        encoder: the one that `applier` calls.
        frames, reader, positions: see _turn.pyx.
        losses: see _losses.pyx; None where the source has no such counters.
        now_boot_ns: the boot clock.
        log_refused: called once for each peer whose frame was refused.

    Attributes:
        reader: of messages.
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
        settings: LoopSettings | None = None,
        log_refused: Callable[[FrameError], None] = lambda error: None,
    ) -> None:
        self.tables = tables
        self.merger = merger
        self.applier = applier
        self.encoder = encoder
        self.publisher = publisher
        self.reader = reader
        self.losses = losses
        self.now_boot_ns = now_boot_ns
        self.settings = settings or LoopSettings()
        self.log_refused = log_refused
        self.repairer: Repairer | None = None
        self.requests: Requests | None = None
        #: Whether a question may be there; whoever sleeps for this loop knows it.
        self.may_be_asked = True
        self.name_cgroups: Callable[[], None] | None = None
        self.watch_growth: Callable[[int], None] | None = None
        self.names: LiveNames | None = None
        self.sessions: SshSessions | None = None
        self.terminals: TtyFallback | None = None
        self.session_terminals: SessionTerminals | None = None
        #: Gives the processes of a batch what no record carries; called only when one of them inherits something.
        self.complete: Callable[[], object] | None = None
        self.contexts: ContextLoop | None = None
        self._turn = Turn(
            tables=tables, merger=merger, applier=applier, encoder=encoder, frames=frames, reader=reader,
            positions=positions, batch_events=self.settings.batch_events, evicts=self.settings.evicts_by_age,
            publish=publisher.send, refused=self._refused, look_closer=self._look_closer,
        )  # fmt: skip
        # The kernel's own counts, of this capture: nothing is added up here, so no take-over can count them twice. What
        # was lost before this process began is in the snapshot, or in the repair that a take-over begins with.
        self._lost_total = 0
        if losses is not None:
            self._lost_total = losses.lost_total
            self._store_lost(losses)
            self._store_counts(losses)
        self._loss_first_ns = 0
        self._loss_last_ns = 0
        self._repaired_ns = now_boot_ns()  # the snapshot, or a take-over that asks for its own repair
        self._sent_base = (tables.counter("published"), tables.counter("publish_unsent"))
        self._kept_ns = 0
        self._worked = False
        self._is_calm = True
        self._is_idle = False
        self._stats_ns = 0
        self._refused_peers: set[str] = set()

    # -- the duty cycle ------------------------------------------------------------------------------------------------

    def poll(self) -> int:
        """Do what there is to do, bounded; returns frames taken plus events applied plus questions of readers."""
        work = self._turn.run()
        now = self._turn.ended_boot_ns
        is_due = self._is_idle or (
            now - self._turn.heartbeat_boot_ns >= (HEARTBEAT_NS if self._is_calm else HEARTBEAT_LATEST_NS)
        )
        if self.requests is not None and (self.may_be_asked or self.requests.waiting):
            work += self.requests.poll(now)
        if self.names is not None and (is_due or self._turn.wants_names):
            self.names.poll(now)
        if self.sessions is not None and (is_due or self.sessions.is_waiting):
            self.sessions.poll()
        if self.contexts is not None and (is_due or self.contexts.waiting):
            work += self.contexts.poll(now)
        self._worked |= work > 0
        if is_due:
            self._is_idle = False
            self._turn.beat(now)
            is_repairing = self.repairer is not None and self.repairer.active
            if self._worked or is_repairing or now >= self._keeping_due_ns:
                self._worked, self._kept_ns = False, now
                self._housekeeping(now)
            self.commit()
        return work

    def follow(self, waiter: Waiter, gather_ms: float) -> None:
        """Sleep, and take in what comes, until there is more to do than frames: then it is `poll`'s turn.

        Args:
            waiter: see _waiting.pyx.
            gather_ms: see `Turn.follow`.
        """
        has_answers = self.names is not None and self.names.has_answers
        rest_until_boot_ns = 0 if self._worked or has_answers else self._keeping_due_ns
        self._worked |= (
            self._turn.follow(waiter, IDLE_MS, gather_ms, HEARTBEAT_NS, HEARTBEAT_LATEST_NS, rest_until_boot_ns) > 0
        )
        self._is_calm, self._is_idle = self._turn.is_calm, self._turn.is_idle
        self.may_be_asked = waiter.may_be_asked
        if self._turn.is_wanted:
            self.publisher.poll(self._turn.ended_boot_ns)

    @property
    def attends(self) -> bool:
        """Whether something is under way that `poll` is to look at again soon."""
        return (
            (self.requests is not None and (self.requests.waiting > 0 or self.requests.is_flooded))
            or (self.contexts is not None and self.contexts.waiting > 0)
            or (self.sessions is not None and self.sessions.is_waiting)
            or (self.repairer is not None and self.repairer.active)
        )

    @property
    def _keeping_due_ns(self) -> int:
        """When housekeeping is due though nothing happens."""
        return self._kept_ns + (IDLE_HOUSEKEEPING_HEARD_NS if self.encoder.topics_mask else IDLE_HOUSEKEEPING_NS)

    def beat(self) -> None:
        """A sign of life and the subscribers' due, without applying anything: for long work outside the cycle."""
        now = self.now_boot_ns()
        self._turn.beat(now)
        self.publisher.poll(now)

    def idle_ms(self) -> float:
        """How long the owner may sleep on its sockets before the next poll, if no message is there."""
        ms = self._turn.wait_ms()
        if ms >= 0:
            return ms
        if (self.requests is not None and (self.requests.waiting or self.requests.is_flooded)) or (
            self.contexts is not None and self.contexts.waiting
        ):
            return WAIT_REQUEST_MS
        if self.repairer is not None and self.repairer.active:
            return 2
        if self.sessions is not None and self.sessions.is_waiting:
            return WAIT_SESSIONS_MS
        return IDLE_MS

    def _refused(self, error: FrameError) -> None:
        if error.peer not in self._refused_peers:
            self._refused_peers.add(error.peer)
            self.log_refused(error)

    def _look_closer(self) -> None:
        """At what a batch has left to be completed."""
        if self.sessions is not None:
            self.sessions.poll()
        if self.session_terminals is not None:
            self.session_terminals.poll()
        if self.terminals is not None:
            self.terminals.poll()
        if self.complete is not None and self.applier.has_heirs:
            self.complete()

    def commit(self) -> None:
        """Make what was applied so far the point that a successor goes on from, then let the shards release it."""
        self._turn.commit()

    # -- housekeeping --------------------------------------------------------------------------------------------------

    def _housekeeping(self, now: int) -> None:
        if self.settings.evicts_by_age:
            self.tables.evict_exited(now, EVICT_ROWS_PER_POLL)
        self._watch_losses(now)
        if self.watch_growth is not None:
            self.watch_growth(now)
        if self.repairer is not None:
            self.repairer.poll()
        if self.name_cgroups is not None:
            self.name_cgroups()
        self.publisher.watermark_boot_ns = self.merger.watermark
        if now - self._stats_ns >= STATS_NS:
            self._stats_ns = now
            self._publish_stats(now)
        self.publisher.poll(now)
        self.tables.set_counter("published", self._sent_base[0] + self.publisher.published)
        self.tables.set_counter("publish_unsent", self._sent_base[1] + self.publisher.unsent + self.encoder.dropped)

    def _watch_losses(self, now: int) -> None:
        if self.losses is not None and self.losses.read():
            if self.losses.lost_total != self._lost_total:
                self._lost_total = self.losses.lost_total
                self._store_lost(self.losses)
                self.publisher.loss({_LOST_KINDS[kind]: self.tables.counter(f"lost_{kind}") for kind in _LOST}, now)
                self._loss_first_ns = self._loss_first_ns or now
                self._loss_last_ns = now
            self._store_counts(self.losses)
        if self.repairer is None or self.repairer.active:
            return
        due = self._loss_last_ns and (
            now - self._loss_last_ns >= REPAIR_QUIET_NS or now - self._loss_first_ns >= REPAIR_LATEST_NS
        )
        due = due and now - self._repaired_ns >= self.settings.repair_again_ns
        if due or now - self._repaired_ns >= self.settings.repair_interval_ns:
            self._loss_first_ns = self._loss_last_ns = 0
            self._repaired_ns = now
            self.repairer.start()

    def _store_counts(self, losses: SharedCounters) -> None:
        self.tables.set_counter("threads_forked", losses.threads_forked)
        self.tables.set_counter("kthreads_forked", losses.kthreads_forked)
        self.tables.set_counter("maps_full", losses.pids_full)

    def _store_lost(self, losses: SharedCounters) -> None:
        for name, count in zip(_LOST, losses.lost.tolist(), strict=True):
            self.tables.set_counter(f"lost_{name}", count)

    def _publish_stats(self, now: int) -> None:
        """What `procline stat` shows of the counters, for who listens to ``sys.stats``."""
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


_LOST = tuple(name.removeprefix("lost_") for name in layout.COUNTERS if name.startswith("lost_"))
#: The first is of a source that cannot tell what it lost.
_LOST_KINDS = {kind: "unknown" if kind == "none" else kind for kind in _LOST}
