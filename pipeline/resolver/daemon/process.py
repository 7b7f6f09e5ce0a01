"""The resolver process from start to end: fill or adopt the tables, sleep between turns, and drain at the end.

What is done in a cycle is in duty_cycle.py. The objects are assembled in build.py, signals are handled in main.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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


class StartEndedError(Exception):
    """The process was asked to end before the tables were complete."""


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
        self._is_ending: Callable[[], bool] = lambda: False
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
        answering = loop.parts.answering
        if answering is not None and answering.is_flooded:
            waiter.heed_questions(answering.may_accept(boot.now_boot_ns()))
        is_wanted = waiter.wait(ms)
        loop.may_be_asked = waiter.may_be_asked
        if is_wanted:
            loop.publisher.do_work(boot.now_boot_ns())
        loop.welcome(waiter)

    def start(self, is_ending: Callable[[], bool] = lambda: False) -> None:
        """Fill the tables, or continue with the predecessor's. They are complete when this returns (state READY).

        Args:
            is_ending: whether the process was asked to end. The shards of a killed supervisor have ended, so nothing
                that this waits for arrives.

        Raises:
            StartEndedError: it was.
        """
        loop, tables = self.loop, self.loop.tables
        self._is_ending = is_ending
        for ring in range(tables.ring_count):
            tables.request_rewind(ring, int(loop.merger.received_pos[ring]))
        # Until the tables are complete the shards read as often as for a subscriber: the start waits for their events.
        tables.show_audience(True, False)
        if tables.was_complete:
            self._take_over()
        else:
            self._snapshot()
        loop.encoder.end_adoption()
        loop.commit()
        self.resolver.set_state(SNAPSHOTTED)
        tables.set_state(layout.STATE_READY)
        if tables.is_takeover:
            # Also after a snapshot: a process that was ending when the capture began may have been seen by it.
            loop.repair_soon(boot.now_boot_ns())

    def _take_over(self) -> None:
        """Continue with the tables of a predecessor, and mend the rows that it was writing when it was killed."""
        tables = self.loop.tables
        began = boot.now_boot_ns()
        self._begin_names()
        self._begin_contexts()
        self._await_subscribers()
        self._catch_up(began)
        self._mend()
        self._log.info("took over the tables", entries=tables.heads_live, torn=len(tables.torn_rows), reason="same")

    def _snapshot(self) -> None:
        """Enter the live processes into tables that do not contain all of them.

        They are new, or a predecessor was killed before they were complete, or they are those of an earlier capture.
        """
        tables, repairer = self.loop.tables, self.loop.parts.repairer
        began = boot.now_boot_ns()
        self._await_subscribers()
        entered = repairer.snapshot() if repairer is not None else 0
        self._begin_names()
        self._begin_contexts()
        self.loop.beat()
        self._catch_up(boot.now_boot_ns())
        if tables.is_takeover:
            if repairer is not None:
                repairer.close_unseen()
            self._mend()
        ms = (boot.now_boot_ns() - began) // 1_000_000
        reason = tables.fresh_reason or ("same" if tables.is_takeover else "new")
        event = "took over the tables" if tables.is_takeover else "inserted the live processes"
        self._log.info(event, entries=entered, torn=len(tables.torn_rows), reason=reason, ms=ms)

    def _await_subscribers(self) -> None:
        """Wait until the subscribers of a predecessor have connected again."""
        while self.loop.publisher.is_awaiting(boot.now_boot_ns()):
            self._end_if_asked()
            self.loop.beat()
            self.wait(AWAIT_SUBSCRIBERS_MS)

    def _mend(self) -> None:
        """Mend what a predecessor was writing when it was killed."""
        tables, parts = self.loop.tables, self.loop.parts
        torn = list(tables.torn_rows)
        if parts.repairer is not None:
            parts.repairer.mend(torn)
        else:
            end_torn(tables, torn)
        if parts.contexts is not None:
            parts.contexts.begin()

    def _begin_contexts(self) -> None:
        parts = self.loop.parts
        for part in (parts.sessions, parts.session_terminals, parts.tty_fallback):
            if part is not None:
                part.begin()

    def _begin_names(self) -> None:
        """Read names of users and of containers, and facts of executables, from now on.

        Pid 1 is in the tables now; its namespaces decide which names of users apply.
        """
        parts = self.loop.parts
        for part, what in (
            (parts.names, "names of users and groups"), (parts.containers, "names of containers"),
            (parts.packages, "packages of executables"), (parts.hashes, "hashes of executables"),
        ):  # fmt: skip
            if part is None:
                continue
            try:
                part.begin()
            except OSError as error:
                self._log.warning(f"cannot read {what}", reason=str(error))

    def _catch_up(self, boot_ns: int) -> None:
        """Apply the events that were under way at `boot_ns`."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while self.loop.merger.watermark <= boot_ns and time.monotonic() < deadline:
            self._end_if_asked()
            if self.loop.do_work() == 0:
                self.wait(CATCH_UP_MS)

    def _end_if_asked(self) -> None:
        if self._is_ending():
            raise StartEndedError

    def drain(self, seconds: float, settle_s: float = 0.0) -> None:
        """Apply the events that still arrive; the shards have ended or are ending.

        Args:
            seconds: maximum time.
            settle_s: end when nothing has arrived for this time; 0: everything that was sent has arrived already.
        """
        now = time.monotonic()
        deadline, settled = now + seconds, now + settle_s
        while (now := time.monotonic()) < deadline:
            if self.loop.do_work() != 0:
                settled = now + settle_s
            elif now >= settled and not self.loop.merger.pending:
                break
            else:
                self.wait(CATCH_UP_MS)
