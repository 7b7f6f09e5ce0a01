"""The resolver process from start to end: fill or adopt the tables, sleep between turns, and drain at the end.

What is done in a cycle is in duty_cycle.py. The objects are assembled in build.py, signals are handled in main.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.host import boot
from pipeline.log import get_logger
from pipeline.resolver.entries.model import SNAPSHOTTED
from pipeline.resolver.upkeep.repair import end_torn
from pipeline.shm.layout import layout

if TYPE_CHECKING:
    from pipeline.resolver.api.ebpf import EBPFResolver
    from pipeline.resolver.daemon._waiting import TurnWaiter
    from pipeline.resolver.daemon.duty_cycle import DutyCycle

#: How long a start waits for the events that were under way when the live processes were read.
CATCH_UP_SECONDS = 10.0
#: Pause before the frames are read during a storm, so that one turn handles the frames of all shards.
GATHER_MS = 0.5
#: Pauses while a take-over waits for subscribers, and while events are caught up or drained.
AWAIT_SUBSCRIBERS_MS = 2
CATCH_UP_MS = 0.3


class ResolverProcess:
    """Everything that a resolver process holds; `build` makes it.

    Args:
        loop: the duty cycle.
        resolver: the methods of the reference interface, over the same tables.
        waiter: sleeps on the sockets.
        has_several_shards: frames of one storm come from more than one sender.
    """

    def __init__(
        self, loop: DutyCycle, resolver: EBPFResolver, waiter: TurnWaiter, *, has_several_shards: bool
    ) -> None:
        self.loop = loop
        self.resolver = resolver
        self._waiter = waiter
        self._gather_ms = GATHER_MS if has_several_shards else 0.0
        self._log = get_logger()

    def follow(self) -> None:
        """Sleep, and handle frames, until the duty cycle's `do_work` has something to do."""
        if self.loop.attends:
            self.wait(self.loop.idle_ms())
        else:
            self.loop.follow(self._waiter, self._gather_ms)

    def wait(self, ms: float) -> None:
        """Sleep until a frame, a subscription or a question arrives, at most `ms`."""
        loop, waiter = self.loop, self._waiter
        requests = loop.parts.requests
        if requests is not None and requests.is_flooded:
            waiter.heed_questions(requests.may_take(boot.now_boot_ns()))
        is_wanted = waiter.wait(ms)
        loop.may_be_asked = waiter.may_be_asked
        if is_wanted:
            loop.publisher.do_work(boot.now_boot_ns())

    def start(self) -> None:
        """Fill the tables, or continue with the predecessor's. They are complete when this returns (state READY)."""
        loop, tables = self.loop, self.loop.tables
        for ring in range(tables.ring_count):
            tables.request_rewind(ring, int(loop.merger.received_pos[ring]))
        # Until the tables are complete the shards read as often as for a subscriber: the start waits for their events.
        tables.show_audience(True)
        if tables.is_takeover:
            self._take_over()
        else:
            self._snapshot()
        loop.commit()
        self.resolver.set_state(SNAPSHOTTED)
        tables.set_state(layout.STATE_READY)
        if tables.is_takeover:
            loop.repair_soon(boot.now_boot_ns())

    def _take_over(self) -> None:
        """Continue with the tables of a predecessor, and mend the rows that it was writing when it was killed."""
        loop, tables = self.loop, self.loop.tables
        began = boot.now_boot_ns()
        self._begin_names()
        self._begin_contexts()
        torn = list(tables.torn_rows)
        while loop.publisher.is_awaiting(boot.now_boot_ns()):
            loop.beat()
            self.wait(AWAIT_SUBSCRIBERS_MS)
        self._catch_up(began)
        if loop.parts.repairer is not None:
            loop.parts.repairer.mend(torn)
        else:
            end_torn(tables, torn)
        if loop.parts.contexts is not None:
            loop.parts.contexts.begin()
        self._log.info("took over", entries=tables.heads_live, torn=len(torn), reason=tables.fresh_reason or "same")

    def _snapshot(self) -> None:
        """Enter the live processes into new tables."""
        repairer = self.loop.parts.repairer
        began = boot.now_boot_ns()
        entered = repairer.snapshot() if repairer is not None else 0
        self._begin_names()
        self._begin_contexts()
        self.loop.beat()
        self._catch_up(boot.now_boot_ns())
        self._log.info("snapshot", entries=entered, ms=(boot.now_boot_ns() - began) // 1_000_000)

    def _begin_contexts(self) -> None:
        parts = self.loop.parts
        for part in (parts.sessions, parts.session_terminals, parts.tty_fallback):
            if part is not None:
                part.begin()

    def _begin_names(self) -> None:
        """Read names of users from now on. Pid 1 is in the tables now; its namespaces decide which names apply."""
        names = self.loop.parts.names
        if names is None:
            return
        try:
            names.begin()
        except OSError as error:
            self._log.warning("no names of users and groups", reason=str(error))

    def _catch_up(self, boot_ns: int) -> None:
        """Apply the events that were under way at `boot_ns`."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while self.loop.merger.watermark <= boot_ns and time.monotonic() < deadline:
            if self.loop.do_work() == 0:
                self.wait(CATCH_UP_MS)

    def drain(self, seconds: float) -> None:
        """Apply what still arrives, for at most `seconds`; the shards have ended or are ending."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.loop.do_work() == 0:
                if not self.loop.merger.pending:
                    break
                self.wait(CATCH_UP_MS)
